"""Rows that change while a claim or a release waits for their locks."""

from __future__ import annotations

import threading

import psycopg
from conftest import Table, make_caller
from poll import until_waiting

from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.claim import claim as claim_item
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.release import release_other


def test_row_changed_during_lock_wait_is_seen(table: Table) -> None:
    # With the rows of a table in use, Postgres chooses the plan under which rows were lost before.
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, status)"
        " SELECT 'r' || n, 'released' FROM generate_series(1, 3000) AS n"
    )
    table.execute("ANALYZE public.claude_sessions")
    database = table.another()
    # The ids are random, and the row was lost unless it came first.
    for number in range(8):
        names = [f"{name}-{number}" for name in "abc"]
        item, mine = f"SD-{number}", names[0]
        heartbeat(table.database, make_caller(mine), register=True)
        for holder in names[1:]:
            table.insert(holder, sd_id=item, status="stale", heartbeat_at="2026-01-01")
        outcomes: list[str] = []

        def claim(mine: str = mine, item: str = item) -> None:
            outcomes.append(claim_item(database, make_caller(mine), item).outcome)  # noqa: B023

        waiting = threading.Thread(target=claim)
        with psycopg.connect(table.dsn) as other:
            # The row of the claimer stays unlocked, because its registration would wait for it.
            beat = "UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at WHERE session_id = ANY(%s)"
            other.execute(beat, [names[1:]])
            waiting.start()
            until_waiting(table.connection)
        waiting.join()
        assert outcomes == ["took_over"]
        holders = table.execute("SELECT session_id FROM public.claude_sessions WHERE sd_id = %s", item)
        assert [row["session_id"] for row in holders] == [mine]


def test_session_deleted_during_release_is_not_held(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    caught: list[str] = []

    def release() -> None:
        try:
            release_other(table.another(), make_caller("b", cwd="/tmp/elsewhere"), "a", None)
        except NotHeld as error:
            caught.append(error.message)

    waiting = threading.Thread(target=release)
    with psycopg.connect(table.dsn) as other:
        other.execute("DELETE FROM public.claude_sessions WHERE session_id = 'a'")
        waiting.start()
        until_waiting(table.connection)
    waiting.join()
    assert caught == ["session a was deleted"]
