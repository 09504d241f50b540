"""The optional function that reaps by silence: what it changes, compared with a reap from another host."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Server, Table, dsn_of, make_caller
from psycopg.types.json import Jsonb

from claude_sessions_cli import queries
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap

DDL = queries.directory() / "ddl/optional/reap_by_silence.sql"
CALL = "SELECT * FROM public.claude_sessions_reap_by_silence(%s::text::interval, %s, %s)"
ELSEWHERE = {"pid": 7, "start": "1", "boot_id": "another boot", "pid_ns": "pid:[1]"}
LOST = {"sd_id": "SD-0", "fence": 5, "at": "2026-01-01T11:00:00Z", "reason": "forced", "by": "b", "told": True}
TERM = {"sd_id": "SD-1", "fence": 1767268800000000}


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@pytest.fixture
def reaping(table: Table) -> Iterator[Table]:
    """Return a table with the function, which runs twice under any program."""
    for _ in range(2):
        table.execute(DDL.read_text())
    yield table
    table.execute("DROP FUNCTION public.claude_sessions_reap_by_silence")


def _reap(table: Table, minutes: float, stale_after: str = "15 minutes", limit: int = 1000) -> dict[str, str]:
    rows = table.execute(CALL, stale_after, limit, at(minutes))
    return {row["reaped_session"]: row["new_status"] for row in rows}


def _own(**own: Any) -> Jsonb:
    return Jsonb({"theirs": [1], "claude_sessions_cli": own})


def _held(**columns: Any) -> dict[str, Any]:
    return {"status": "active", "sd_id": "SD", "track": "B", "claimed_at": NOON, "heartbeat_at": NOON, **columns}


# All at noon, and judged two hours later with a limit of 15 minutes.
ROWS: dict[str, dict[str, Any]] = {
    "silent": _held(metadata=_own(stale_after=900, term=TERM, note="why", run=ELSEWHERE, process=ELSEWHERE)),
    "microseconds": _held(claimed_at=at(0.000012345)),
    "just silent": _held(heartbeat_at=at(104.9)),
    "just alive": _held(heartbeat_at=at(105)),
    "patient": _held(metadata=_own(stale_after=7201)),
    "patient for long enough": _held(metadata=_own(stale_after=7199.5)),
    "hasty": _held(metadata=_own(stale_after=10)),
    "patient beyond the limit": _held(heartbeat_at=at(-7 * DAY), metadata=_own(stale_after=1e12)),
    "odd patience": _held(metadata=_own(stale_after="9999")),
    "true patience": _held(metadata=_own(stale_after=True)),
    "parked": _held(heartbeat_at=at(80), metadata=_own(parked_until=at(124).isoformat())),
    "parked without zone": _held(heartbeat_at=at(80), metadata=_own(parked_until="2026-01-01T14:04:00")),
    "parked by Z": _held(heartbeat_at=at(80), metadata=_own(parked_until="2026-01-01T14:04:00.123456Z")),
    "parked east": _held(heartbeat_at=at(80), metadata=_own(parked_until="2026-01-01T16:04:00+02:00")),
    "parked until before": _held(heartbeat_at=at(80), metadata=_own(parked_until=at(119).isoformat())),
    "parked for too long": _held(heartbeat_at=at(74), metadata=_own(parked_until=at(999).isoformat())),
    "parked in February": _held(metadata=_own(parked_until="2026-02-30T12:00:00Z")),
    "parked for ever": _held(heartbeat_at=at(80), metadata=_own(parked_until="infinity")),
    "parked oddly": _held(heartbeat_at=at(80), metadata=_own(parked_until=[1])),
    "parked tomorrow": _held(heartbeat_at=at(80), metadata=_own(parked_until="tomorrow")),
    "idle": {"status": "idle", "heartbeat_at": NOON},
    "idle with a loss": {"status": "idle", "heartbeat_at": NOON, "metadata": _own(tombstone=LOST, term=TERM)},
    "idle with an odd loss": {"status": "idle", "heartbeat_at": NOON, "metadata": _own(tombstone={"sd_id": 5})},
    "idle and beating": {"status": "idle", "heartbeat_at": at(119)},
    "no status": _held(status=None),
    "never beat": _held(heartbeat_at=None),
    "never claimed": _held(heartbeat_at=None, claimed_at=None, created_at=NOON),
    "no time at all": _held(heartbeat_at=None, claimed_at=None, created_at=None),
    "claimed at infinity": _held(claimed_at="infinity"),
    "claimed before all": _held(claimed_at="-infinity"),
    "beat before all": _held(heartbeat_at="-infinity"),
    "beats in the future": _held(heartbeat_at=at(999)),
    "released in the future": {"status": "released", "heartbeat_at": at(999)},
    "stale with a claim": _held(status="stale"),
    "stale for hours": {"status": "stale", "heartbeat_at": at(-2 * DAY), "updated_at": NOON},
    "stale for a day": {"status": "stale", "heartbeat_at": at(-2 * DAY), "updated_at": at(119 - DAY)},
    "stale for a day with a loss": {
        "status": "stale",
        "heartbeat_at": at(-2 * DAY),
        "updated_at": None,
        "metadata": _own(tombstone=LOST, parked_until=at(124).isoformat()),
    },
    "released": {"status": "released", "heartbeat_at": NOON, "updated_at": NOON},
    "metadata of another kind": _held(metadata=Jsonb([1])),
    "part of another kind": _held(metadata=Jsonb({"claude_sessions_cli": 7, "theirs": None})),
    "no metadata": _held(metadata=None),
}


def _fill(table: Table) -> None:
    table.execute("DELETE FROM public.claude_sessions")
    for number, (name, columns) in enumerate(ROWS.items()):
        item = {"sd_id": f"SD-{number}"} if "sd_id" in columns else {}
        times = {"created_at": at(-3 * DAY), "updated_at": NOON}
        table.insert(name, **{"id": f"00000000-0000-0000-0000-{number:012}", **times, **columns, **item})
    if _has_history(table):
        table.execute("DELETE FROM public.claude_session_events")


def _has_history(table: Table) -> bool:
    return table.execute("SELECT to_regclass('public.claude_session_events') IS NOT NULL AS found")[0]["found"] is True


def _state(table: Table) -> tuple[list[Any], list[Any]]:
    """Return the rows as text, and the history without its clock, host and program."""
    rows = table.execute("SELECT s::text AS line FROM public.claude_sessions AS s ORDER BY session_id")
    columns = (
        "event, session_id, sd_id, claimed_at::text, track, hostname, tty, pid, codebase, reason, note, actor_session"
    )
    if not _has_history(table):
        return rows, []
    return rows, table.execute(f"SELECT {columns} FROM public.claude_session_events ORDER BY session_id, event")


@pytest.mark.parametrize("moment", [at(120), at(120.0000000166)], ids=["whole second", "microseconds"])
def test_function_writes_what_reap_writes_from_another_host(reaping: Table, moment: datetime) -> None:
    _fill(reaping)
    by_command = reap(reaping.database, make_caller(None, now=moment)).changed
    expected = _state(reaping)
    _fill(reaping)
    rows = reaping.execute(CALL, "15 minutes", 1000, moment)
    assert sorted((row["reaped_session"], row["reaped_item"], row["new_status"]) for row in rows) == sorted(
        (verdict.session.session.session_id, verdict.evidence["sd_id"], verdict.to) for verdict in by_command
    )
    assert _state(reaping) == expected
    assert len(by_command) > 20 and len(by_command) < len(ROWS) - 5


def test_longer_limit_of_caller_counts(reaping: Table) -> None:
    claim(reaping.database, make_caller("a", now=NOON), "SD-1")
    assert _reap(reaping, 119, "2 hours") == {}
    assert _reap(reaping, 121, "2 hours") == {"a": "stale"}
    assert _reap(reaping, 121 + DAY + 1, "7 days") == {"a": "released"}


def test_session_gets_its_item_back_after_the_function(reaping: Table) -> None:
    claim(reaping.database, make_caller("a", now=NOON), "SD-1")
    assert _reap(reaping, 16) == {"a": "stale"}
    assert heartbeat(reaping.database, make_caller("a", now=at(17))).outcome == "restored"


def test_clock_is_the_servers_and_limit_15_minutes_by_default(reaping: Table) -> None:
    ago = "clock_timestamp() - interval '%s minutes'"
    for name, minutes in (("a", 16), ("b", 14)):
        reaping.execute(
            f"INSERT INTO public.claude_sessions (session_id, heartbeat_at) VALUES ('{name}', {ago % minutes})"
        )
    rows = reaping.execute("SELECT * FROM public.claude_sessions_reap_by_silence()")
    assert [tuple(row.values()) for row in rows] == [("a", None, "stale")]


def test_refused_rows_are_warnings_and_do_not_count(reaping: Table) -> None:
    for number in range(5):
        row_id = f"00000000-0000-0000-0000-{number:012}"
        reaping.insert(f"{'bad' if number < 3 else 'good'}-{number}", id=row_id, status="idle", heartbeat_at=NOON)
    reaping.insert("bad-future", status="idle", heartbeat_at=at(99))
    reaping.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id !~ 'bad') NOT VALID")
    try:
        warnings: list[str] = []
        reaping.connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        assert _reap(reaping, 16, limit=1) == {"good-3": "stale"}
        assert _reap(reaping, 16, limit=9) == {"good-4": "stale"}
        assert {re.split("[ :]", warning)[1] for warning in warnings} == {"bad-0", "bad-1", "bad-2", "bad-future"}
        assert all('violates check constraint "good"' in warning for warning in warnings)
    finally:
        reaping.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")


def test_dropped_change_is_a_warning(reaping: Table) -> None:
    reaping.insert("a", status="active", sd_id="SD-1", heartbeat_at=NOON)
    reaping.execute("CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    reaping.execute(
        "CREATE TRIGGER drops BEFORE UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.drops()"
    )
    warnings: list[str] = []
    reaping.connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    try:
        assert _reap(reaping, 16) == {}
        assert warnings == ["refused a SD-1: a trigger of the table dropped the change"]
    finally:
        reaping.execute("DROP FUNCTION public.drops CASCADE")


def test_locked_row_is_left_to_the_next_run(reaping: Table) -> None:
    for name in ("a", "b"):
        reaping.insert(name, status="idle", heartbeat_at=NOON)
    with psycopg.connect(reaping.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions WHERE session_id = 'a' FOR UPDATE")
        assert _reap(reaping, 16) == {"b": "stale"}
    assert _reap(reaping, 16) == {"a": "stale"}


@pytest.mark.parametrize("limit", ["24", "59 seconds", "-1 hour", "8 days"])
def test_implausible_limit_is_refused(reaping: Table, limit: str) -> None:
    reaping.insert("a", status="idle", heartbeat_at=NOON)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="at least 1 minute and at most 7 days") as caught:
        _reap(reaping, 16, limit)
    assert caught.value.diag.message_hint == "name the unit: claude_sessions_reap_by_silence('15 minutes')"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        reaping.execute("SELECT public.claude_sessions_reap_by_silence(NULL)")
    assert reaping.row("a")["status"] == "idle"


@pytest.mark.parametrize("path", ["public, pg_catalog", "public", "''", "'$user', public"])
def test_caller_keeps_its_search_path(reaping: Table, path: str) -> None:
    reaping.insert("a", status="active", sd_id="SD-1", heartbeat_at=NOON, metadata=_own(stale_after=900))
    planted = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
    reaping.execute(f"CREATE FUNCTION public.planted(text, text) RETURNS boolean {planted}")
    reaping.execute(f"CREATE FUNCTION public.planted_jsonb(jsonb, text) RETURNS jsonb {planted}")
    reaping.execute("CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted)")
    reaping.execute("CREATE OPERATOR public.-> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = public.planted_jsonb)")
    reaping.execute("CREATE DOMAIN public.jsonb AS integer")
    reaping.execute("CREATE TABLE public.seen_by_trigger (session_id pg_catalog.text)")
    if "public" in path:
        reaping.execute(
            "CREATE FUNCTION public.notes() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO seen_by_trigger VALUES (NEW.session_id); RETURN NEW; END $$"
        )
        reaping.execute(
            "CREATE TRIGGER notes AFTER UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.notes()"
        )
    try:
        with psycopg.connect(reaping.dsn) as caller:
            caller.execute(f"SET search_path = {path}")
            [before] = caller.execute("SHOW search_path").fetchall()
            query = "SELECT pg_catalog.count(*) FROM public.claude_sessions_reap_by_silence()"
            assert caller.execute(query).fetchall() == [(1,)]
            assert caller.execute("SHOW search_path").fetchall() == [before]
        seen = [{"session_id": "a"}] if "public" in path else []
        assert reaping.execute("SELECT session_id FROM public.seen_by_trigger") == seen
    finally:
        for thing in ("OPERATOR public.= (text, text)", "DOMAIN public.jsonb", "TABLE public.seen_by_trigger"):
            reaping.execute(f"DROP {thing}")
        reaping.execute("DROP FUNCTION public.planted, public.planted_jsonb CASCADE")
        reaping.execute("DROP FUNCTION IF EXISTS public.notes CASCADE")


def test_only_granted_roles_may_execute(
    make_role: Callable[..., str], fresh_database: Callable[..., str], server: Server
) -> None:
    from commands.answers import apply_schema

    role = make_role("cs_reaper")
    made = Table(apply_schema(fresh_database()))
    with made.stack:
        # Some hosts grant every new function to these roles.
        made.execute("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO anon, authenticated")
        made.execute(DDL.read_text())
        name = "public.claude_sessions_reap_by_silence(interval,bigint,timestamptz)"
        may = f"has_function_privilege(%s, '{name}', 'EXECUTE')"
        for one in ("anon", "authenticated", role):
            assert made.execute(f"SELECT {may} AS may", one) == [{"may": False}]
        [found] = made.execute(
            "SELECT prosecdef, proconfig FROM pg_proc WHERE proname = 'claude_sessions_reap_by_silence'"
        )
        assert found == {"prosecdef": False, "proconfig": None}
        made.execute(f"GRANT EXECUTE ON FUNCTION public.claude_sessions_reap_by_silence TO {role}")
        made.execute(DDL.read_text())
        assert made.execute(f"SELECT {may} AS may", role) == [{"may": True}]
