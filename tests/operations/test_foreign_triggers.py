"""Triggers of other programs that drop a write of ours, or rely on the role's search path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import PermissionDenied
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import ProcessRecord
from claude_sessions_cli.operations import term
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.park import park, unpark
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other

REFUSED = "a trigger of the table refused the change, and nothing was changed"


@contextmanager
def _dropping(table: Table, operation: str, condition: str) -> Iterator[None]:
    """Have a trigger drop each write that fits the condition."""
    row = "OLD" if operation == "DELETE" else "NEW"
    table.execute(
        "CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF {condition} THEN RETURN NULL; END IF; RETURN {row}; END $$"
    )
    table.execute(
        f"CREATE TRIGGER drops BEFORE {operation} ON public.claude_sessions"
        " FOR EACH ROW EXECUTE FUNCTION public.drops()"
    )
    try:
        yield
    finally:
        table.execute("DROP FUNCTION public.drops CASCADE")


def _all(table: Table) -> list[dict[str, Any]]:
    return table.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY session_id")


Act = Callable[[Database], object]
MINE = make_caller("mine", now=at(20))
RUNNER = ProcessRecord(2**22 + 1, "1", this_host().boot_id or "", this_host().pid_ns or "")
HELD = "NEW.session_id = 'mine'"
CASES: dict[str, tuple[str, Act]] = {
    "taking": ("NEW.session_id = 'idle'", lambda db: claim(db, make_caller("idle", now=at(20)), "SD-2")),
    "evicting": ("NEW.session_id = 'lapsed'", lambda db: claim(db, make_caller("idle", now=at(20)), "SD-2")),
    "giving back before a switch": (
        f"{HELD} AND NEW.sd_id IS NULL",
        lambda db: claim(db, MINE, "SD-3", switch=True),
    ),
    "taking after a switch": (f"{HELD} AND NEW.sd_id IS NOT NULL", lambda db: claim(db, MINE, "SD-3", switch=True)),
    "refreshing": (HELD, lambda db: claim(db, MINE, "SD-1")),
    "releasing": (HELD, lambda db: release(db, MINE)),
    "ending": (HELD, lambda db: release(db, MINE, end=True)),
    "releasing another": (
        HELD,
        lambda db: release_other(db, make_caller("idle", now=at(20)), "mine", None, reason="test"),
    ),
    "parking": (HELD, lambda db: park(db, MINE, 60)),
    "unparking": (HELD, lambda db: unpark(db, MINE)),
    "restoring": ("NEW.session_id = 'silent'", lambda db: heartbeat(db, make_caller("silent", now=at(20)))),
    "entering": (HELD, lambda db: term.enter(db, MINE, RUNNER, "SD-1")),
}


@pytest.mark.parametrize("case", CASES)
def test_dropped_write_is_refused_whole(table: Table, case: str) -> None:
    condition, act = CASES[case]
    claim(table.database, make_caller("lapsed", now=NOON), "SD-2")
    claim(table.database, make_caller("silent", now=NOON), "SD-4")
    heartbeat(table.database, make_caller("lapsed", now=at(1)))
    reap(table.database, make_caller(None, now=at(15.5)))
    claim(table.database, make_caller("mine", now=at(16)), "SD-1")
    heartbeat(table.database, make_caller("idle", now=at(16)), register=True)
    before = _all(table)
    with _dropping(table, "UPDATE", condition):
        with pytest.raises(PermissionDenied) as caught:
            act(table.database)
        assert _all(table) == before
    assert caught.value.message == REFUSED
    act(table.database)
    assert _all(table) != before


def test_dropped_registration_is_refused(table: Table) -> None:
    attempts: tuple[Act, ...] = (
        lambda db: claim(db, make_caller("a"), "SD-1"),
        lambda db: heartbeat(db, make_caller("a"), register=True),
    )
    with _dropping(table, "INSERT", "true"):
        for attempt in attempts:
            with pytest.raises(PermissionDenied, match="session a could not be registered: a trigger"):
                attempt(table.database)
    assert _all(table) == []


def test_error_of_trigger_is_passed_on(table: Table) -> None:
    with (
        _dropping(table, "INSERT", "pg_catalog.current_setting('no such') IS NULL"),
        pytest.raises(PermissionDenied, match="a trigger of the table refused it") as caught,
    ):
        table.execute(
            "CREATE OR REPLACE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'closed on Sundays' USING HINT = 'come on Monday'; END $$"
        )
        claim(table.database, make_caller("a"), "SD-1")
    assert caught.value.message.endswith("closed on Sundays")
    assert caught.value.hint == "come on Monday"


# A server in recovery refuses writes with the second.
@pytest.mark.parametrize("code", ["CS001", "0A000"])
def test_any_code_of_trigger_is_a_refusal(table: Table, code: str) -> None:
    with _dropping(table, "INSERT", "true"):
        table.execute(
            "CREATE OR REPLACE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE 'closed' USING ERRCODE = '{code}'; END $$"
        )
        with pytest.raises(PermissionDenied, match="a trigger of the table refused it: closed"):
            claim(table.database, make_caller("a"), "SD-1")


def test_trigger_finds_names_on_its_own_search_path(table: Table) -> None:
    table.execute("CREATE TABLE public.seen_by_trigger (session_id text)")
    table.execute(
        "CREATE FUNCTION public.notes() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen_by_trigger VALUES (NEW.session_id); RETURN NEW; END $$"
    )
    table.execute(
        "CREATE TRIGGER notes AFTER INSERT OR UPDATE ON public.claude_sessions"
        " FOR EACH ROW EXECUTE FUNCTION public.notes()"
    )
    try:
        claim(table.database, make_caller("a"), "SD-1")
        heartbeat(table.database, make_caller("a"))
        release(table.database, make_caller("a"))
        assert table.execute("SELECT count(*) AS n FROM public.seen_by_trigger") == [{"n": 4}]
    finally:
        table.execute("DROP FUNCTION public.notes CASCADE")
        table.execute("DROP TABLE public.seen_by_trigger")


@pytest.mark.parametrize("path", ["public, pg_catalog", '"$user", public, pg_catalog', "public"])
def test_planted_operator_loses_on_any_search_path(table: Table, path: str) -> None:
    # An exact match counts only if its schema comes first.
    table.execute(
        "CREATE FUNCTION public.planted(text, text) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
    )
    table.execute("CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.planted)")
    try:
        dsn = psycopg.conninfo.make_conninfo(table.dsn, options=f"-c search_path={path.replace(' ', '')}")
        other = Table(dsn)
        with other.stack:
            assert claim(other.database, make_caller("a"), "SD-1").outcome == "claimed"
            assert heartbeat(other.database, make_caller("a")).outcome == "renewed"
            assert release(other.database, make_caller("a")).outcome == "released"
    finally:
        table.execute("DROP OPERATOR public.= (text, text)")
        table.execute("DROP FUNCTION public.planted")
