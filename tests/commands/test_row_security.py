"""Roles: missing privileges, row security, and read-only databases."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from conftest import Cli

from commands.answers import (
    EVERY_COMMAND,
    WRITING,
    Inside,
    apply_schema,
    as_role,
    data_of,
    execute,
    failed,
    failed_json,
    rows,
)


@pytest.fixture
def guest(make_role: Callable[..., str], fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a table with a claim of its session `a`, without the seed's policies."""
    make_role("cs_guest")
    dsn = apply_schema(fresh_database())
    execute(
        dsn,
        'DROP POLICY "Allow all for anon" ON claude_sessions',
        'DROP POLICY "Allow all for authenticated" ON claude_sessions',
        "GRANT USAGE ON SCHEMA public TO cs_guest",
        "INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())",
    )
    return dsn


RIGHTS = "GRANT SELECT, INSERT, UPDATE, DELETE ON claude_sessions TO cs_guest"
OPEN = "CREATE POLICY open ON claude_sessions USING (true)"
AsGuest = Callable[[list[tuple[str, ...]], str], None]


@pytest.fixture
def as_guest(guest: str, cli: Cli, inside: Inside) -> AsGuest:
    """Return a function that asserts that the guest is denied commands, and changes no row."""

    def denied(commands: list[tuple[str, ...]], message: str) -> None:
        before = rows(guest)
        env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
        failed(cli(*commands[0], env=env), 8, message)
        for argv in commands:
            failed(inside(*argv, env=env), 8, message)
            failed_json(inside(*argv, "--json", env=env), 8, message)
        assert rows(guest) == before

    return denied


@pytest.mark.parametrize(
    "grants",
    [[], ["REVOKE USAGE ON SCHEMA public FROM cs_guest, PUBLIC"], ["GRANT INSERT ON claude_sessions TO cs_guest"]],
    ids=["no rights", "no schema", "may only insert"],
)
def test_role_without_privileges_is_denied(as_guest: AsGuest, guest: str, grants: list[str]) -> None:
    execute(guest, OPEN, *grants)
    as_guest(EVERY_COMMAND, "the database does not allow it: permission denied")


def test_read_only_role_lists_and_cannot_write(as_guest: AsGuest, cli: Cli, guest: str) -> None:
    execute(guest, OPEN, "GRANT SELECT ON claude_sessions TO cs_guest")
    as_guest(WRITING[:3], "permission denied for table claude_sessions")
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest")})
    assert (done.returncode, done.stdout.count("SD-1")) == (0, 1)


CREATE = r'no policy opens .* \(an administrator must run: CREATE POLICY "claude_sessions_cs_guest" .* TO "cs_guest"'
DROP = r"the restrictive policy narrow limits it \(an administrator must drop that policy"


@pytest.mark.parametrize(
    ("policies", "mend"),
    [
        ([], CREATE),
        (["CREATE POLICY other ON claude_sessions TO anon USING (true)"], CREATE),
        pytest.param(
            ["CREATE POLICY own ON claude_sessions USING (session_id = 'b')"], CREATE, marks=pytest.mark.faults
        ),
        ([OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE USING (session_id = 'b')"], DROP),
        pytest.param(
            [OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE FOR SELECT USING (session_id = 'b')"],
            DROP,
            marks=pytest.mark.faults,
        ),
        pytest.param(["CREATE POLICY a ON claude_sessions FOR UPDATE USING (true)"], CREATE, marks=pytest.mark.faults),
    ],
    ids=["none", "another role's", "conditional", "restrictive", "restrictive select", "no select"],
)
def test_role_blinded_by_row_security_is_denied(as_guest: AsGuest, guest: str, policies: list[str], mend: str) -> None:
    execute(guest, RIGHTS, *policies)
    as_guest(EVERY_COMMAND, f"row security hides rows of claude_sessions from the role cs_guest: {mend}")


SEED = 'CREATE POLICY "Allow all for authenticated" ON claude_sessions TO authenticated USING (true)'


@pytest.mark.parametrize(
    ("prepare", "commands", "mend"),
    [
        ([SEED], "SELECT, INSERT, UPDATE", "claude-sessions schema apply --grant cs_guest"),
        (
            ["CREATE POLICY reads ON claude_sessions FOR SELECT TO authenticated USING (true)"],
            "INSERT, UPDATE",
            'CREATE POLICY "claude_sessions_cs_guest" ON public.claude_sessions TO "cs_guest"'
            " USING (true) WITH CHECK (true)",
        ),
        (
            ["CREATE POLICY claude_sessions_work ON claude_sessions TO CURRENT_USER USING (true)"],
            "SELECT, INSERT, UPDATE",
            "claude-sessions schema apply --grant cs_guest",
        ),
    ],
    ids=["seed", "authenticated reads", "least privilege"],
)
def test_hint_for_hidden_rows_opens_the_table(
    inside: Inside, guest: str, prepare: list[str], commands: str, mend: str
) -> None:
    if "reads" in prepare[0]:
        execute(guest, "GRANT authenticated TO cs_guest")
    execute(guest, RIGHTS, *prepare)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    line = failed(inside("claim", "SD-1", env=env), 8, "row security hides rows")
    assert f"role cs_guest: no policy opens {commands} to it (an administrator must run: {mend})" in line
    if mend.startswith("claude-sessions "):
        assert inside(*mend.split()[1:], "--dsn", guest).returncode == 0
    else:
        execute(guest, mend)
    assert inside("claim", "SD-1", env=env).returncode == 0


@pytest.mark.parametrize(
    "policies",
    [
        ["CREATE POLICY a ON claude_sessions FOR SELECT USING (true)"],
        [
            "CREATE POLICY a ON claude_sessions FOR SELECT USING (true)",
            "CREATE POLICY b ON claude_sessions FOR INSERT WITH CHECK (true)",
        ],
        [OPEN, "CREATE POLICY c ON claude_sessions AS RESTRICTIVE FOR UPDATE USING (sd_id IS NULL)"],
        ["CREATE POLICY a ON claude_sessions USING (true) WITH CHECK (session_id = 'b')"],
    ],
    ids=["select alone", "no update", "restrictive update", "conditional check"],
)
def test_read_only_policy_lists_and_denies_writes(as_guest: AsGuest, cli: Cli, guest: str, policies: list[str]) -> None:
    execute(guest, RIGHTS, *policies)
    as_guest(WRITING[:3], "row security hides rows")
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest")})
    assert (done.returncode, done.stdout.count("SD-1")) == (0, 1)


# Long ago.
OVER = """
UPDATE claude_sessions
SET status = 'released', heartbeat_at = NULL, updated_at = '2000-01-01', created_at = '2000-01-01'
"""


@pytest.mark.parametrize(
    "policies",
    [
        [
            *(
                f"CREATE POLICY p{command} ON claude_sessions FOR {command} USING (true)"
                for command in ("SELECT", "UPDATE")
            )
        ],
        [OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE FOR DELETE USING (session_id = 'b')"],
    ],
    ids=["no delete", "restrictive delete"],
)
def test_prune_without_delete_policy_is_denied(inside: Inside, guest: str, policies: list[str]) -> None:
    execute(guest, RIGHTS, *policies, "CREATE POLICY add ON claude_sessions FOR INSERT WITH CHECK (true)")
    execute(guest, OVER)
    before = rows(guest)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("reap", env=env).returncode == 0
    failed(inside("reap", "--prune", "1d", env=env), 8, "row security hides rows .* from the role cs_guest")
    assert rows(guest) == before
    # The owner is exempt from policies.
    owner = inside("reap", "--prune", "1d", env={**env, "CLAUDE_SESSIONS_DSN": guest})
    assert owner.stdout == "deleted 1 released session\n"


def test_check_policy_does_not_limit_prune(inside: Inside, guest: str) -> None:
    execute(guest, RIGHTS, "CREATE POLICY own ON claude_sessions USING (true) WITH CHECK (session_id <> 'b')")
    execute(guest, "CREATE POLICY write ON claude_sessions FOR UPDATE USING (true)")
    execute(guest, "CREATE POLICY add ON claude_sessions FOR INSERT WITH CHECK (true)")
    execute(guest, OVER)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("reap", "--prune", "1d", "--dry-run", env=env).stdout == "would delete 1 released session\n"
    assert inside("reap", "--prune", "1d", env=env).stdout == "deleted 1 released session\n"
    assert rows(guest) == []


def test_open_policy_outweighs_condition(inside: Inside, guest: str) -> None:
    execute(guest, RIGHTS, OPEN, "CREATE POLICY own ON claude_sessions USING (session_id = 'b')")
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (("heartbeat",), ("claim", "SD-1"), ("list",), ("release",), ("reap",)):
        done = inside(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv


def test_role_that_defaults_to_read_only_may_write(cli: Cli, dsn: str) -> None:
    read_only = psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on")
    env = {"CLAUDE_SESSIONS_DSN": read_only, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (("claim", "SD-MINE"), ("heartbeat",), ("check",), ("list",), ("release",), ("schema", "apply")):
        done = cli(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv


@pytest.mark.parametrize(
    "grants",
    [
        [RIGHTS],
        pytest.param([OPEN], marks=pytest.mark.faults),
        pytest.param([OPEN, RIGHTS, "REVOKE USAGE ON SCHEMA public FROM cs_guest, PUBLIC"], marks=pytest.mark.faults),
    ],
    ids=["hidden rows", "no rights", "no schema"],
)
def test_doctor_fails_if_list_is_denied(inside: Inside, guest: str, grants: list[str]) -> None:
    execute(guest, *grants)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    listed = failed_json(inside("list", "--json", env=env), 8, "cs_guest|permission denied")
    findings = data_of(inside("doctor", "--json", env=env), "doctor", 7)["data"]["findings"]
    # The fixture's table lacks the shipped policies.
    failures = [found for found in findings if found["verdict"] == "failure" and found["check"] != "schema"]
    assert failures == [
        {"check": "access", "verdict": "failure", "text": listed["message"], "mend": listed["hint"]},
    ]
    assert not any(listed["message"] in found["text"] for found in findings if found["verdict"] == "skipped")
