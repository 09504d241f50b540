"""Rows that constraints, keys and triggers of other programs refuse: the others change, refusals are reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Sleeper, Table, dsn_of, make_caller
from psycopg.types.json import Jsonb

from claude_sessions_cli import process
from claude_sessions_cli.errors import PermissionDenied, SchemaMismatch, SessionsError, Unreachable
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.reap import ReapResult, reap
from claude_sessions_cli.operations.refusals import Refusal

REAPER = make_caller(None, now=at(16))
OF_BAD = "NEW.session_id LIKE 'bad%'"


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@contextmanager
def _trigger(table: Table, when: str, body: str, *, deferred: bool = False) -> Iterator[None]:
    """Have a trigger of another program run `body` for each row."""
    table.execute(f"CREATE FUNCTION public.foreign_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    kind = "CONSTRAINT TRIGGER" if deferred else "TRIGGER"
    how = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW" if deferred else "FOR EACH ROW"
    table.execute(
        f"CREATE {kind} foreign_rule {when} ON public.claude_sessions {how} EXECUTE FUNCTION public.foreign_rule()"
    )
    try:
        yield
    finally:
        table.execute("DROP FUNCTION public.foreign_rule CASCADE")


def _raising(error: str, when: str = "BEFORE UPDATE", *, deferred: bool = False) -> Any:
    row = "OLD" if "DELETE" in when else "NEW"
    condition = OF_BAD.replace("NEW", row)
    body = f"IF {condition} THEN {error} END IF; RETURN {row};"
    return lambda table: _trigger(table, when, body, deferred=deferred)


@contextmanager
def _check(table: Table) -> Iterator[None]:
    """Have a CHECK that the rows of today break already: any UPDATE of theirs fails."""
    table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id NOT LIKE 'bad%') NOT VALID")
    try:
        yield
    finally:
        table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")


@contextmanager
def _key(table: Table) -> Iterator[None]:
    """Have a key of another table to the work item, which must not be cleared."""
    table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT items UNIQUE (session_id, sd_id)")
    table.execute(
        "CREATE TABLE public.notes (session_id text, sd_id text,"
        " FOREIGN KEY (session_id, sd_id) REFERENCES public.claude_sessions (session_id, sd_id))"
    )
    table.execute(
        "INSERT INTO public.notes SELECT session_id, sd_id FROM public.claude_sessions WHERE session_id = 'bad'"
    )
    try:
        yield
    finally:
        table.execute("DROP TABLE public.notes")
        table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT items")


RULES: dict[str, tuple[Any, str]] = {
    "check": (_check, 'violates check constraint "good"'),
    "key": (_key, 'violates foreign key constraint "notes_session_id_sd_id_fkey"'),
    "raise": (_raising("RAISE 'closed on Sundays';"), "closed on Sundays"),
    "own code": (_raising("RAISE 'closed' USING ERRCODE = 'CS001';"), "closed"),
    "not supported": (_raising("RAISE feature_not_supported USING MESSAGE = 'not here';"), "not here"),
    "failed assertion": (_raising("ASSERT false, 'never';"), "never"),
    "division": (_raising("NEW.pid := 1 / 0;"), "division by zero"),
    "denied": (_raising("RAISE insufficient_privilege USING MESSAGE = 'not yours';"), "not yours"),
    "broken": (_raising("PERFORM FROM public.missing;"), 'relation "public.missing" does not exist'),
    "deferred": (_raising("RAISE 'too late';", "AFTER UPDATE", deferred=True), "too late"),
    "dropped": (_raising("RETURN NULL;"), "a trigger of the table dropped the change"),
}
each_rule = pytest.mark.parametrize("rule", RULES)
# A heartbeat does not touch the item.
each_rule_of_heartbeats = pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "key"])


def _words(refused: list[Refusal]) -> dict[str, str]:
    return {refusal.session.session.session_id: refusal.reason for refusal in refused}


def _names(result: ReapResult) -> list[str]:
    return [verdict.session.session.session_id for verdict in result.changed]


@each_rule
def test_reap_changes_all_but_refused_rows(table: Table, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 3)
    for name in ("a", "bad", "c", "d", "e"):
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}")
    before = table.row("bad")
    make, message = RULES[rule]
    with make(table):
        for expected in (["a", "c", "d", "e"], []):
            result = reap(table.database, REAPER)
            assert _names(result) == expected
            assert list(_words(result.refused)) == ["bad"]
            assert message in _words(result.refused)["bad"]
            assert result.refused[0].session.session.sd_id == "SD-bad"
        assert table.row("bad") == before
    assert (table.row("a")["status"], table.own("a")["tombstone"]["reason"]) == ("stale", "silent")
    assert _names(reap(table.database, REAPER)) == ["bad"]


@each_rule_of_heartbeats
def test_heartbeat_here_renews_all_but_refused_rows(table: Table, sleeper: Sleeper, rule: str) -> None:
    for name in ("a", "bad", "c"):
        claim(table.database, make_caller(name, now=NOON, anchor=process.read(sleeper().pid)), f"SD-{name}")
    make, message = RULES[rule]
    with make(table):
        result = heartbeat_here(table.database, make_caller(None, now=at(5)))
    assert (result.renewed, result.released) == (2, [])
    assert message in _words(result.refused)["bad"]
    assert [table.row(name)["heartbeat_at"] for name in ("a", "bad", "c")] == [at(5), NOON, at(5)]


def test_heartbeat_here_releases_all_but_refused_rows(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    for name in ("a", "bad"):
        claim(table.database, make_caller(name, now=NOON, anchor=process.read(child.pid)), f"SD-{name}")
    child.kill()
    child.wait()
    with _check(table):
        result = heartbeat_here(table.database, make_caller(None, now=at(5)))
    assert [verdict.session.session.session_id for verdict in result.released] == ["a"]
    assert list(_words(result.refused)) == ["bad"]


@each_rule_of_heartbeats
def test_reap_clamps_all_but_refused_heartbeats(table: Table, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 2)
    for name in ("a", "bad", "c", "d"):
        table.insert(name, status="active", sd_id=f"SD-{name}", heartbeat_at=at(99))
    table.insert("silent", status="active", sd_id="SD-1", heartbeat_at=NOON)
    make, message = RULES[rule]
    with make(table):
        result = reap(table.database, REAPER)
    assert _names(result) == ["silent"]
    assert message in _words(result.refused)["bad"]
    assert [table.row(name)["heartbeat_at"] for name in ("a", "bad", "c", "d")] == [at(16), at(99), at(16), at(16)]


def test_dry_run_reports_no_refusal(table: Table) -> None:
    claim(table.database, make_caller("bad", now=NOON), "SD-1")
    with _check(table):
        result = reap(table.database, REAPER, dry_run=True)
    assert (_names(result), result.refused) == (["bad"], [])


def test_changed_and_locked_rows_are_no_refusals(table: Table) -> None:
    for name in ("a", "bad", "c"):
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}")
    with _check(table), psycopg.connect(table.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions WHERE session_id = 'a' FOR UPDATE")
        result = reap(table.database, REAPER)
    assert (_names(result), list(_words(result.refused))) == (["c"], ["bad"])


ENDED = {"status": "released", "heartbeat_at": NOON, "updated_at": NOON, "created_at": NOON}
DELETES: dict[str, tuple[Any, str]] = {
    "raise": (_raising("RAISE 'kept for the auditors';", "BEFORE DELETE"), "kept for the auditors"),
    "deferred": (_raising("RAISE 'too late';", "AFTER DELETE", deferred=True), "too late"),
    "dropped": (_raising("RETURN NULL;", "BEFORE DELETE"), "a trigger of the table dropped the change"),
}


@pytest.mark.parametrize("rule", DELETES)
def test_prune_deletes_all_but_refused_rows(table: Table, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.prune.PRUNE_BATCH", 2)
    monkeypatch.setattr("claude_sessions_cli.operations.prune.CAREFUL_BATCH", 2)
    for name in ("a", "bad", "c", "d", "e"):
        table.insert(name, **ENDED)
    make, message = DELETES[rule]
    with make(table):
        result = reap(table.database, make_caller(None, now=at(40 * DAY)), prune=86400)
    assert (result.pruned, result.referenced, result.references) == (4, 0, [])
    assert message in _words(result.refused)["bad"]
    assert [row["session_id"] for row in table.execute("SELECT session_id FROM public.claude_sessions")] == ["bad"]


# Errors that are not of a row end the command as before.


@pytest.mark.parametrize(
    ("statement", "undo", "kind"),
    [
        (
            "CREATE TRIGGER foreign_rule BEFORE UPDATE ON public.claude_sessions EXECUTE FUNCTION public.closed()",
            "DROP TRIGGER foreign_rule ON public.claude_sessions",
            PermissionDenied,
        ),
        (
            "ALTER TABLE public.claude_sessions RENAME COLUMN track TO way",
            "ALTER TABLE public.claude_sessions RENAME COLUMN way TO track",
            SchemaMismatch,
        ),
    ],
    ids=["trigger of the statement", "missing column"],
)
def test_refused_statement_is_one_error(table: Table, statement: str, undo: str, kind: type[SessionsError]) -> None:
    for name in ("a", "b"):
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}")
    table.execute("CREATE FUNCTION public.closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'closed'; END $$")
    table.execute(statement)
    try:
        with pytest.raises(kind):
            reap(table.database, REAPER)
    finally:
        table.execute(undo)
        table.execute("DROP FUNCTION public.closed")


def test_lock_and_deadlock_of_a_trigger_are_no_refusals(table: Table) -> None:
    states: dict[str, Callable[[], str]] = {
        "40P01": lambda: "conflict",
        "57014": lambda: "time",
        "53200": lambda: "away",
    }
    claim(table.database, make_caller("bad", now=NOON), "SD-1")
    for state, words in states.items():
        with (
            _raising(f"RAISE 'no' USING ERRCODE = '{state}';")(table),
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(Unreachable, match=words()),
        ):
            patch.setattr("claude_sessions_cli.database.ATTEMPTS", 2)
            reap(table.database, REAPER)


@pytest.mark.parametrize("state", ["08006", "25006", "40001", "53100", "55P03", "57014", "58030"])
def test_fault_of_server_among_refusals_ends_the_command(table: Table, state: str) -> None:
    for name in ("a", "bad", "busy"):
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}")
    before = [table.row(name) for name in ("a", "bad", "busy")]
    # Only while the rows are changed one by one.
    condition = "NEW.session_id = 'busy' AND current_setting('claude_sessions.items', true) <> ''"
    body = f"IF {OF_BAD} THEN RAISE 'closed'; ELSIF {condition} THEN RAISE 'no' USING ERRCODE = '{state}'; END IF;"
    with (
        _trigger(table, "BEFORE UPDATE", f"{body} RETURN NEW;"),
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SessionsError) as caught,
    ):
        patch.setattr("claude_sessions_cli.database.ATTEMPTS", 2)
        reap(table.database, REAPER)
    assert isinstance(caught.value, Unreachable) or state == "58030"
    assert [table.row(name) for name in ("a", "bad", "busy")] == before


# The statements themselves.


def _listed(table: Table, *names: str) -> str:
    return json.dumps([{"id": str(table.row(name)["id"])} for name in names])


def _answer(table: Table, rows: Any) -> dict[str, bool]:
    names = {row["id"]: row["session_id"] for row in table.execute("SELECT id, session_id FROM claude_sessions")}
    assert len({row["row_id"] for row in rows}) == len(rows)
    return {names.get(row["row_id"], "deleted"): row["is_written"] for row in rows}


PROCESS = {"boot_id": "boot", "pid_ns": "1"}
STATEMENTS: dict[str, Callable[[Table], dict[str, Any]]] = {
    "reap_sessions": lambda table: {
        "verdicts": json.dumps(
            [
                {"id": str(row["id"]), "row_version": row["xmin"], "status": "stale", "own": {}}
                for row in table.execute("SELECT id, xmin::text FROM claude_sessions")
            ]
        )
    },
    "renew_heartbeats": lambda table: {
        "seen": json.dumps(
            [{"id": str(row["id"]), "pid": 7, "start": "s"} for row in table.execute("SELECT id FROM claude_sessions")]
        ),
        **PROCESS,
    },
    "clamp_heartbeats": lambda table: {"listed": _listed(table, "a", "bad", "c")},
    "delete_sessions": lambda table: {"listed": _listed(table, "a", "bad", "c")},
    "prune_sessions": lambda table: {"row_limit": 9, "after": None, "older_than_s": 1},
}


@pytest.mark.parametrize("query", STATEMENTS)
def test_statement_answers_which_rows_are_written(table: Table, query: str) -> None:
    deletes = query in ("delete_sessions", "prune_sessions")
    metadata = Jsonb({"claude_sessions_cli": {"process": {"pid": 7, "start": "s", **PROCESS}}})
    released = dict(ENDED) if query == "prune_sessions" else {"status": "idle", "heartbeat_at": at(99)}
    for name in ("a", "bad", "c"):
        table.insert(name, pid=7, metadata=metadata, **released)
    with (DELETES if deletes else RULES)["dropped"][0](table):
        rows = table.ask(query, **STATEMENTS[query](table), now=at(50))
    if deletes:
        assert sorted(row["is_written"] for row in rows) == [False, True, True]
        assert [row["session_id"] for row in table.execute("SELECT session_id FROM claude_sessions")] == ["bad"]
        assert _answer(table, [row for row in rows if not row["is_written"]]) == {"bad": False}
    else:
        assert _answer(table, rows) == {"a": True, "bad": False, "c": True}


def test_listed_heartbeat_is_clamped_only_in_the_future(table: Table) -> None:
    for name, minutes in (("past", 1), ("future", 99), ("locked", 99), ("unlisted", 99)):
        table.insert(name, heartbeat_at=at(minutes))
    listed = _listed(table, "past", "future", "locked")
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions WHERE session_id = 'locked' FOR UPDATE")
        assert _answer(table, table.ask("clamp_heartbeats", listed=listed, now=at(50))) == {"future": True}
    times = {row["session_id"]: row["heartbeat_at"] for row in table.execute("SELECT * FROM claude_sessions")}
    assert times == {"past": at(1), "future": at(50), "locked": at(99), "unlisted": at(99)}


def test_server_clock_decides_on_listed_heartbeats(table: Table) -> None:
    for name, sign in (("past", "-"), ("future", "+")):
        beat = f"clock_timestamp() {sign} interval '1 hour'"
        table.execute(f"INSERT INTO claude_sessions (session_id, heartbeat_at) VALUES ('{name}', {beat})")
    rows = table.ask("clamp_heartbeats", listed=_listed(table, "past", "future"), now=None)
    assert _answer(table, rows) == {"future": True}
    past = "SELECT heartbeat_at <= clock_timestamp() AS past FROM claude_sessions WHERE session_id = 'future'"
    assert table.execute(past) == [{"past": True}]


@pytest.mark.parametrize("query", ["list_prunable", "lock_prunable"])
def test_prunable_sessions_come_in_pages(table: Table, query: str) -> None:
    ids = [f"{digit * 8}-0000-0000-0000-000000000000" for digit in "c0a5"]
    for number, row_id in enumerate(ids):
        table.insert(f"s{number}", id=row_id, **ENDED)
    table.insert("live", **{**ENDED, "status": "idle"})

    def page(after: str | None, **how: Any) -> list[str]:
        limits = {"row_limit": 2, "older_than_s": 60, "now": at(2), **how}
        return [str(row["id"])[0] for row in table.ask(query, after=after, **limits)]

    assert (page(None), page(ids[3]), page(ids[0])) == (["0", "5"], ["a", "c"], [])
    assert (page(None, now=at(0.5)), page(None, now=None)) == ([], ["0", "5"])
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions WHERE id = %s FOR KEY SHARE", [ids[1]])
        assert page(None) == (["5", "a"] if query == "lock_prunable" else ["0", "5"])


def test_sessions_are_listed_by_id(table: Table) -> None:
    for name in ("a", "b", "c"):
        table.insert(name)
    ids = [table.row(name)["id"] for name in ("a", "c")]
    rows = table.ask("list_sessions_by_id", ids=ids, now=None)
    assert sorted(row["session_id"] for row in rows) == ["a", "c"]
