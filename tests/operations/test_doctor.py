"""The checks of the database that `doctor` makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from commands.answers import apply_schema, as_role, execute
from conftest import Table, make_caller

from claude_sessions_cli import database, queries
from claude_sessions_cli.operations import doctor, schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.doctor import Finding, Verdict, diagnose
from claude_sessions_cli.operations.release import release

CHECKS = [
    *("server", "pooler", "tls", "clock", "synchronous_commit", "oldest snapshot", "dead rows"),
    *("schema", "who may write", "double claims", "other programs"),
]


def _findings(table: Table, hours: int = 0) -> dict[str, Finding]:
    """Return the findings that are not OK, by check."""
    caller = make_caller("a")
    if hours:
        caller = caller._replace(now=datetime.now(timezone.utc) + timedelta(hours=hours))
    found = diagnose(table.database, caller)
    assert list(dict.fromkeys(finding.check for finding in found if finding.check != "HOT updates")) == CHECKS
    return {finding.check: finding for finding in found if finding.verdict is not Verdict.OK}


def test_whole_schema_is_healthy(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    release(full_table.database, make_caller("a"), "SD-1")
    assert _findings(full_table) == {}


@pytest.fixture
def seed_table(seed_dsn: str) -> Iterator[Table]:
    """Return the table on the seed alone."""
    made = Table(seed_dsn)
    with made.stack:
        yield made


def test_seed_alone_warns_of_missing_files(seed_table: Table) -> None:
    found = diagnose(seed_table.database, make_caller("a"))
    schema = [(one.verdict, one.text, one.mend) for one in found if one.check == "schema"]
    assert schema[0] == (Verdict.OK, "001_claude_sessions.sql is in force", None)
    assert [verdict for verdict, _, _ in schema[1:]] == [Verdict.WARNING, Verdict.WARNING]
    assert schema[1][1].startswith("002_exclusive_claims.sql: index idx_claude_sessions_unique_active_claim is missing")
    assert {mend for _, _, mend in schema[1:]} == {"claude-sessions schema apply"}
    [others] = [one for one in found if one.check == "other programs"]
    assert others.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ("DROP INDEX idx_claude_sessions_heartbeat", "claude-sessions schema apply"),
        # Applying the schema would mend one of the two.
        (
            "DROP INDEX idx_claude_sessions_heartbeat; ALTER TABLE claude_sessions ALTER COLUMN pid TYPE bigint",
            "claude-sessions schema check",
        ),
        (
            "DROP INDEX idx_claude_sessions_heartbeat; CREATE INDEX idx_claude_sessions_heartbeat"
            " ON claude_sessions (heartbeat_at)",
            "claude-sessions schema check",
        ),
    ],
)
def test_difference_names_the_command_that_mends_it(fresh_database: Callable[..., str], change: str, mend: str) -> None:
    made = Table(apply_schema(fresh_database()))
    with made.stack:
        made.execute(change)
        found = next(one for one in diagnose(made.database, make_caller("a")) if one.check == "schema")
        assert (found.verdict, found.mend) == (Verdict.FAILURE, mend)


def test_double_claim_is_a_failure(seed_table: Table) -> None:
    for session in ("x", "y"):
        seed_table.insert(session, sd_id="SD-1", status="active")
    found = _findings(seed_table)["double claims"]
    assert (found.verdict, found.text) == (Verdict.FAILURE, "SD-1 is held by x and y")
    assert found.mend == "claude-sessions list SD-1"


def test_double_claim_in_two_forms_is_a_failure(seed_table: Table) -> None:
    for session, form in (("x", "SD-caf\u00e9"), ("y", "SD-cafe\u0301")):
        seed_table.insert(session, sd_id=form, status="active")
    found = _findings(seed_table)["double claims"]
    assert (found.verdict, found.text) == (Verdict.FAILURE, "SD-caf\u00e9 is held by x and y")


def test_few_hot_updates_are_a_warning_if_many(full_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    # Those of earlier tests.
    full_table.execute("SELECT pg_stat_force_next_flush()")
    full_table.execute("SELECT pg_stat_reset_single_table_counters('public.claude_sessions'::regclass)")
    for _ in range(20):
        full_table.execute("UPDATE public.claude_sessions SET heartbeat_at = clock_timestamp()")
    full_table.execute("SELECT pg_stat_force_next_flush()")
    monkeypatch.setattr(doctor, "LEAST_UPDATES", 10)

    def hot() -> Finding:
        return next(one for one in diagnose(full_table.database, make_caller("a")) if one.check == "HOT updates")

    few = hot()
    assert few.verdict is Verdict.OK and few.text.startswith(("0%", "1%", "2%", "3%", "4%"))
    monkeypatch.setattr(doctor, "COSTLY_UPDATES", 10)
    many = hot()
    assert many.verdict is Verdict.WARNING
    there = (queries.directory() / "ddl" / doctor.HOT_FILE).exists()
    assert many.mend == ("claude-sessions schema apply --optional hot_heartbeats" if there else None)
    monkeypatch.setattr(doctor, "HOT_SHARE", 0.0)
    assert hot().verdict is Verdict.OK


def test_program_that_ends_claims_is_named(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    full_table.execute("UPDATE claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'stale'")
    found = _findings(full_table)["other programs"]
    assert found.verdict is Verdict.WARNING and " ended 1 claims in 7 days" in found.text
    assert "other programs" not in _findings(full_table, 8 * 24)


CLEAR = "UPDATE claude_sessions SET sd_id = NULL, claimed_at = NULL, status = 'idle'"


def test_end_of_their_own_claim_names_no_program(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    began = full_table.row("a")["claimed_at"]
    release(full_table.database, make_caller("a"))
    full_table.insert("theirs", sd_id="SD-1", status="active", claimed_at=began, heartbeat_at=began)
    full_table.execute(CLEAR)
    full_table.execute("UPDATE claude_sessions SET sd_id = 'SD-2', claimed_at = now() WHERE session_id = 'a'")
    full_table.execute(CLEAR)
    assert "other programs" not in _findings(full_table)


def test_end_with_a_reason_names_no_program(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    stone = json.dumps({"sd_id": "SD-1", "reason": "silent"})
    full_table.execute(f"{CLEAR}, metadata = jsonb_set(metadata, '{{claude_sessions_cli,tombstone}}', %s)", stone)
    assert "other programs" not in _findings(full_table)


def test_everybody_who_may_write_is_a_warning(full_table: Table) -> None:
    full_table.execute("GRANT INSERT ON public.claude_sessions TO anon")
    try:
        found = [_findings(full_table)["who may write"]]
        full_table.execute("GRANT INSERT ON public.claude_sessions TO PUBLIC")
        full_table.execute("CREATE POLICY theirs ON public.claude_sessions USING (true) WITH CHECK (true)")
        found.append(_findings(full_table)["who may write"])
    finally:
        full_table.execute("REVOKE INSERT ON public.claude_sessions FROM anon, PUBLIC")
        full_table.execute("DROP POLICY IF EXISTS theirs ON public.claude_sessions")
    assert [(one.verdict, one.text) for one in found] == [
        (Verdict.WARNING, "anon, which is everybody without a login, may write the table"),
        (Verdict.WARNING, "everybody may write the table"),
    ]
    assert found[0].mend == "claude-sessions schema apply --optional least_privilege"


def test_clock_and_snapshot_are_judged(full_table: Table) -> None:
    with psycopg.connect(full_table.dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT count(*) FROM claude_sessions")
        pid = other.info.backend_pid
        found = _findings(full_table, hours=2)
    assert found["clock"].text == "this host and the server differ by 1h59m; the server's clock decides"
    assert found["oldest snapshot"].mend == f"SELECT pg_terminate_backend({pid})"


def test_late_commit_is_a_warning(full_table: Table) -> None:
    with database.connect(
        psycopg.conninfo.make_conninfo(full_table.dsn, options="-c synchronous_commit=off"), "the test"
    ) as unsafe:
        found = {one.check: one.verdict for one in diagnose(unsafe, make_caller("a"))}
    assert found["synchronous_commit"] is Verdict.WARNING


def test_missing_table_is_a_failure(fresh_database: Callable[..., str]) -> None:
    with database.connect(fresh_database(), "the test") as empty:
        found = {one.check: one for one in diagnose(empty, make_caller("a"))}
    assert found["schema"].verdict is Verdict.FAILURE
    assert found["schema"].mend == "create it: claude-sessions schema apply"
    assert found["server"].verdict is Verdict.OK


def test_role_without_rights_is_one_failure(full_table: Table, make_role: Callable[..., str]) -> None:
    make_role("cs_doctor")
    with database.connect(as_role(full_table.dsn, "cs_doctor"), "the test") as stranger:
        findings = diagnose(stranger, make_caller("a"))
    found = {one.check: one.verdict for one in findings}
    assert [one.check for one in findings if one.verdict is Verdict.FAILURE] == ["access"]
    assert not {"double claims", "other programs"} & {*found}
    assert found["server"] is found["schema"] is Verdict.OK


def test_role_that_may_only_read_is_a_failure(
    make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> None:
    make_role("cs_doctor")
    dsn = apply_schema(fresh_database())
    execute(dsn, "GRANT SELECT ON public.claude_sessions, public.claude_session_events TO cs_doctor")
    execute(dsn, "CREATE POLICY readers ON public.claude_sessions TO cs_doctor USING (true) WITH CHECK (true)")
    with database.connect(as_role(dsn, "cs_doctor"), "the test") as reader:
        [found] = [one for one in diagnose(reader, make_caller("a")) if one.verdict is Verdict.FAILURE]
        assert (found.check, found.text) == ("access", "the role cs_doctor may not write the table")
        assert found.mend == "an administrator must run: claude-sessions schema apply --grant cs_doctor"
        with database.connect(dsn, "the test") as owner:
            schema.apply(owner, grant="cs_doctor")
        assert not [one for one in diagnose(reader, make_caller("a")) if one.verdict is Verdict.FAILURE]


@pytest.mark.parametrize("hours", [0, 1])
def test_diagnosis_writes_nothing(full_table: Table, hours: int) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    before = full_table.row("a")
    _findings(full_table, hours)
    assert full_table.row("a") == before
