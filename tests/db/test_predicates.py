"""What single conditions of the SQL are good for, where nothing else shows it: `make predicates` takes each away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from conftest import Table, make_caller
from psycopg.types.json import Jsonb

from claude_sessions_cli import database, leases, schema, sessions
from claude_sessions_cli.database import Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
FIRST, SECOND, LAST = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "0af")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _wait_for_waiter(dsn: str) -> None:
    """Wait until a connection of that database waits for a lock."""
    with psycopg.connect(dsn, autocommit=True) as looking:
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        for _ in range(2000):
            if looking.execute(waiting).fetchone() is not None:
                return
            threading.Event().wait(0.005)
    raise AssertionError("nobody waits")


@contextmanager
def _while_waiting(dsn: str, work: Callable[[], Any], lock: str, *parameters: Any) -> Iterator[tuple[Any, Future[Any]]]:
    """Start `work` behind a lock, and once it waits hand over the connection that holds the lock; then let it go on."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as other:
        other.execute(lock, parameters)
        future = pool.submit(work)
        _wait_for_waiter(dsn)
        yield other, future


# Transactions.


def test_a_claim_sees_who_was_faster_whatever_the_databases_isolation(seed_dsn: str) -> None:
    # Under REPEATABLE READ the claim would look at the table as it was before it waited for its turn.
    eager = psycopg.conninfo.make_conninfo(seed_dsn, options="-c default_transaction_isolation=repeatable\\ read")
    with database.connect(eager, "the test") as late:
        claim = lambda: sessions.claim(late, make_caller("b"), "SD-1")  # noqa: E731
        with _while_waiting(seed_dsn, claim, "SELECT pg_advisory_xact_lock(hashtext('SD-1'))") as (other, claiming):
            other.execute("INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
        with pytest.raises(HeldByAnother, match="SD-1 is held by a"):
            claiming.result()


def test_a_claim_waits_for_another_claim_of_its_item(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_MS", 50)
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
        with pytest.raises(Unreachable):
            sessions.claim(table.database, make_caller("a"), "SD-1")
        assert sessions.claim(table.database, make_caller("a"), "SD-2").outcome == "claimed"


def _settings(tx: Transaction) -> dict[str, str]:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone", "datestyle"]
    return {name: tx._connection.execute(f"SHOW {name}").fetchone().popitem()[1] for name in names}  # type: ignore[union-attr]


def test_every_transaction_is_bounded_and_no_setting_outlives_it(dsn: str) -> None:
    defaults = "-c statement_timeout=0 -c lock_timeout=1 -c idle_in_transaction_session_timeout=0"
    own = psycopg.conninfo.make_conninfo(dsn, options=f"{defaults} -c timezone=Asia/Kathmandu -c datestyle=German,DMY")
    with database.connect(own, "the test") as opened:
        assert opened.transact(_settings) == {
            **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "10s"),
            "timezone": "UTC",
            "datestyle": "ISO, DMY",
        }
        assert opened.transact_schema(_settings) == {
            "statement_timeout": "5min",
            "lock_timeout": "30s",
            "idle_in_transaction_session_timeout": "1min",
            "timezone": "Asia/Kathmandu",
            "datestyle": "German, DMY",
        }


def test_an_apply_waits_for_another_and_sees_what_it_made(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    eager = psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_isolation=repeatable\\ read")
    with database.connect(eager, "the test") as late:
        lock = "SELECT pg_advisory_xact_lock(hashtext('claude_sessions schema'))"
        with _while_waiting(dsn, lambda: schema.apply(late), lock) as (other, applying):
            for path in schema.ddl_files():
                other.execute(path.read_bytes())
        assert [file.created for file in applying.result()] == [[] for _ in schema.ddl_files()]


# Claims.


def test_rows_are_locked_in_the_order_of_their_ids(table: Table) -> None:
    # Their order in the table, and their order of age, is the other way round.
    for number, (name, key) in enumerate([("me", LAST), ("old-2", SECOND), ("old-1", FIRST)]):
        item = None if name == "me" else "SD-1"
        table.insert(name, id=key, sd_id=item, status="stale", claimed_at=at(-number), heartbeat_at=at(-999))
    claim = lambda: sessions.claim(table.database, make_caller("me", now=NOON), "SD-1")  # noqa: E731
    lock = "SELECT FROM public.claude_sessions WHERE session_id = 'old-1' FOR UPDATE"
    with _while_waiting(table.dsn, claim, lock) as (_, claiming):
        free = table.execute("SELECT session_id FROM public.claude_sessions FOR UPDATE SKIP LOCKED")
        assert {row["session_id"] for row in free} == {"me", "old-2"}
    assert claiming.result().outcome == "took_over"


def test_the_latest_of_several_holders_is_the_one_that_is_told(table: Table) -> None:
    rows = [("c", FIRST, at(1)), ("d", LAST, None), ("b", LAST[:-1] + "1", at(2)), ("a", SECOND, at(2))]
    for name, key, begun in rows:
        table.insert(name, id=key, sd_id="SD-1", status="stale", claimed_at=begun, heartbeat_at=NOON)
    with pytest.raises(HeldByAnother, match="SD-1 is held by a"):
        sessions.claim(table.database, make_caller("me", now=at(3)), "SD-1")
    table.execute("DELETE FROM public.claude_sessions WHERE session_id = 'a'")
    with pytest.raises(HeldByAnother, match="SD-1 is held by b"):
        sessions.claim(table.database, make_caller("me", now=at(3)), "SD-1")


@pytest.mark.parametrize(
    ("status", "item", "lost", "by"),
    [
        ("active", "SD-2", None, None),
        ("released", "SD-1", None, None),
        ("released", None, "SD-1", None),
        ("active", "SD-2", "SD-1", None),
        ("idle", None, "SD-2", None),
        ("stale", None, "SD-1", "c"),
    ],
    ids=["holds another", "ended with it", "ended after a loss", "holds another after a loss", "lost another", "told"],
)
def test_a_claim_waits_for_nobody_whom_it_does_not_concern(
    table: Table, status: str, item: str | None, lost: str | None, by: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_MS", 200)
    tombstone = {"sd_id": lost, "fence": 1, "reason": "silent", "by": by} if lost else None
    table.insert("b", status=status, sd_id=item, metadata=Jsonb({"claude_sessions_cli": {"tombstone": tombstone}}))
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions FOR UPDATE")
        assert sessions.claim(table.database, make_caller("a"), "SD-1").outcome == "claimed"


def test_a_claim_that_ends_meanwhile_is_not_parked(table: Table) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    lose = "UPDATE public.claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'idle'"
    park = lambda: leases.park(table.database, make_caller("a"), 60)  # noqa: E731
    with _while_waiting(table.dsn, park, lose) as (_, parking):
        pass
    with pytest.raises(NotHeld, match="nothing to park"):
        parking.result()


def test_a_term_of_another_item_is_neither_renewed_nor_released(table: Table) -> None:
    claimed = sessions.claim(table.database, make_caller("a", now=NOON), "SD-1").session.session
    assert claimed.fence is not None
    # Another program that moves the claim at once, and keeps its time.
    table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-2'")
    before = table.row("a")
    with pytest.raises(NotHeld):
        leases.renew_term(table.database, make_caller("a", now=at(1)), "SD-1", claimed.fence)
    leases.release_term(table.database, make_caller("a", now=at(1)), "SD-1", claimed.fence, reason="completed")
    assert table.row("a") == before
