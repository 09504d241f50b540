"""`reap`: lines, JSON and dry runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Sleeper, Table

from commands.answers import Inside, Run, data_of

REASON = 'new row for relation "claude_sessions" violates check constraint "good"'
HINT = " (list the constraints and triggers that are not ours: claude-sessions schema check)"


def test_reap_prints_changes_and_evidence(run: Run, sleeper: Sleeper) -> None:
    child = sleeper()
    run("claim", "SD-1", "--pid", str(child.pid))
    assert run("reap", session=None).stdout == ""
    kept = run("reap", "--explain", session=None).stdout
    assert kept.startswith("kept a SD-1: its process is alive")
    child.kill()
    child.wait()
    assert run("reap", "--dry-run").stdout.startswith("would be released a SD-1: process gone (process dead,")
    data = data_of(run("reap", "--json"), "reap")
    assert data["dry_run"] is False
    [changed] = data["changed"]
    assert set(changed) == {"session", "to", "reason", "evidence"}
    assert (changed["to"], changed["reason"]) == ("released", "process gone")
    assert run("reap").stdout == ""


@pytest.fixture
def refusing(table: Table, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """Return a table with three silent sessions, two of which a constraint refuses to change."""
    monkeypatch.setenv("CLAUDE_SESSIONS_DSN", table.dsn)
    for name in ("a", "bad", "bad-idle"):
        item = None if name == "bad-idle" else f"SD-{name}"
        table.insert(name, sd_id=item, status="active" if item else "idle", heartbeat_at="2026-01-01T00:00Z")
    table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id !~ 'bad') NOT VALID")
    yield table
    table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--dry-run"]], ids=str)
def test_refused_rows_are_lines_on_stderr_and_exit_7(refusing: Table, inside: Inside, options: list[str]) -> None:
    done = inside("reap", *options)
    if options == ["--dry-run"]:
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 3)
        return
    changed = [line.partition(" (")[0] for line in done.stdout.splitlines()]
    assert (done.returncode, changed) == (7, [] if options else ["stale a SD-a: silent"])
    lines = sorted(done.stderr.replace(HINT, "").splitlines())
    assert lines == [f"claude-sessions: refused bad SD-bad: {REASON}", f"claude-sessions: refused bad-idle: {REASON}"]
    assert done.stderr.endswith(HINT + "\n") and done.stderr.count(HINT) == 1
    assert refusing.row("a")["status"] == "stale"


def test_refused_rows_are_in_json(refusing: Table, inside: Inside) -> None:
    answer = data_of(inside("reap", "--json"), "reap", 7)
    assert answer["code"] == "schema" and answer["message"].startswith("the table refused 2 changes: refused bad")
    data = answer["data"]
    assert [verdict["session"]["session_id"] for verdict in data["changed"]] == ["a"]
    assert sorted((one["session"]["session_id"], one["reason"]) for one in data["refused"]) == [
        ("bad", REASON),
        ("bad-idle", REASON),
    ]


def test_heartbeat_here_reports_refused_rows(refusing: Table, inside: Inside, sleeper: Sleeper) -> None:
    child = sleeper()
    for name in ("b", "bee"):
        assert inside("claim", f"SD-{name}", "--session", name, "--pid", str(child.pid)).returncode == 0
    refusing.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")
    refusing.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id <> 'b') NOT VALID")
    done = inside("heartbeat", "--here")
    line = f"claude-sessions: refused b SD-b: {REASON}{HINT}\n"
    assert (done.returncode, done.stdout, done.stderr) == (7, "renewed 1 session\n", line)
    data = data_of(inside("heartbeat", "--here", "--json"), "heartbeat", 7)["data"]
    assert (data["renewed"], data["released"], len(data["refused"])) == (1, [], 1)
    child.kill()
    child.wait()
    done = inside("heartbeat", "--here")
    assert (done.returncode, done.stdout) == (7, "renewed 0 sessions\nreleased bee SD-bee: process gone\n")


def test_prune_names_tables_that_refer_to_sessions(table: Table, inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn}
    old = dict.fromkeys(("heartbeat_at", "updated_at", "created_at"), "2026-01-01T00:00Z")
    for name in ("a", "b", "c"):
        table.insert(name, status="released", **old)
    for name, action in (("audit", ""), ("notes", "ON DELETE CASCADE")):
        table.execute(f"CREATE TABLE public.{name} (session uuid REFERENCES public.claude_sessions {action})")
        table.execute(f"INSERT INTO public.{name} SELECT id FROM public.claude_sessions WHERE session_id = '{name[0]}'")
    table.execute("INSERT INTO public.notes SELECT id FROM public.claude_sessions WHERE session_id = 'b'")
    try:
        tables = "public.audit (1, ON DELETE NO ACTION), public.notes (1, ON DELETE CASCADE)"
        for options, would in ((["--dry-run"], True), ([], False)):
            done = inside("reap", "--prune", "1d", *options, env=env)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines() == [
                f"{'would delete' if would else 'deleted'} 1 released session",
                f"{'would keep' if would else 'kept'} 2 released sessions that other tables refer to: {tables}",
                "to delete them and change public.notes: add --cascade",
            ]
        data = data_of(inside("reap", "--prune", "1d", "--json", env=env), "reap")
        assert (data["pruned"], data["referenced"]) == (0, 2)
        assert data["references"][1] == {
            "table": "public.notes",
            "on_delete": "cascade",
            "through": None,
            "sessions": 1,
        }
        done = inside("reap", "--prune", "1d", "--cascade", env=env)
        assert done.stderr == "claude-sessions: deleting sessions also changes public.notes (ON DELETE CASCADE)\n"
        assert done.stdout.splitlines() == [
            "deleted 1 released session",
            "kept 1 released session that other tables refer to: public.audit (1, ON DELETE NO ACTION)",
        ]
        assert table.execute("SELECT FROM public.notes") == []
    finally:
        table.execute("DROP TABLE public.audit, public.notes")
