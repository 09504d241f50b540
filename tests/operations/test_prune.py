"""Pruning: which released sessions are deleted, and in which batches."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap


def test_prune_deletes_sessions_released_long_ago(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.prune.PRUNE_BATCH", 3)
    old = {"heartbeat_at": NOON, "updated_at": NOON, "created_at": NOON}
    for number in range(7):
        table.insert(f"old-{number}", status="released", **old)
    table.insert("no-heartbeat", status="released", **{**old, "heartbeat_at": None})
    table.insert("touched", status="released", **{**old, "updated_at": at(DAY)})
    table.insert("beating", status="released", **{**old, "heartbeat_at": at(DAY)})
    table.insert("stale", status="stale", **{**old, "updated_at": at(29 * DAY)})
    with psycopg.connect(table.dsn) as holder:
        holder.execute("SELECT FROM public.claude_sessions WHERE session_id = 'old-6' FOR UPDATE")
        caller = make_caller(None, now=at(30 * DAY - 1))
        assert reap(table.database, caller, prune=30 * 86400, dry_run=True).pruned == 0
        assert reap(table.database, caller, prune=30 * 86400).pruned == 0
        caller = make_caller(None, now=at(30 * DAY + 1))
        assert reap(table.database, caller, prune=30 * 86400, dry_run=True).pruned == 8
        # A batch skips all rows before its start.
        after = {"after": UUID(int=2**128 - 1), "older_than_s": 86400, "row_limit": 99, "now": at(40 * DAY)}
        assert table.ask("prune_sessions", **after) == []
        assert reap(table.database, caller, prune=30 * 86400).pruned == 7
    left = table.execute("SELECT session_id FROM public.claude_sessions ORDER BY 1")
    assert [row["session_id"] for row in left] == ["beating", "old-6", "stale", "touched"]


def test_session_that_has_not_ended_is_never_pruned(table: Table, sleeper: Sleeper) -> None:
    caller = make_caller("a", now=NOON, anchor=process.read(sleeper().pid))
    heartbeat(table.database, caller, register=True)
    assert reap(table.database, make_caller(None, now=at(9999)), prune=3600).pruned == 0
    assert table.row("a")["status"] == "idle"


# With a nested loop, Postgres runs a subquery again for each row, its limit too.
NESTED_LOOP = " ".join(f"-c enable_{name}=off" for name in ("material", "hashjoin", "mergejoin", "hashagg", "sort"))


@pytest.mark.parametrize("plan", ["", NESTED_LOOP], ids=["any plan", "nested loop"])
def test_each_batch_is_pruned_in_own_transaction(dsn: str, monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.prune.PRUNE_BATCH", 2)
    planned = Table(psycopg.conninfo.make_conninfo(dsn, options=plan))
    with planned.stack:
        old = dict.fromkeys(("heartbeat_at", "created_at", "updated_at"), NOON)
        for number in range(5):
            planned.insert(f"s{number}", status="released", **old)
        assert reap(planned.database, make_caller(None, now=at(9999)), prune=3600).pruned == 5
        deleted = (
            "SELECT count(*) AS n FROM claude_session_events WHERE event = 'deleted' GROUP BY xmin::text ORDER BY 1"
        )
        assert [row["n"] for row in planned.execute(deleted)] == [1, 2, 2]


def test_session_whose_only_time_is_in_the_future_is_pruned(table: Table) -> None:
    table.insert("ahead", status="released", heartbeat_at=at(99 * DAY), updated_at=None, created_at=None)
    assert reap(table.database, make_caller(None, now=NOON), prune=3600).pruned == 1
