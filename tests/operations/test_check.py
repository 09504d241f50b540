"""Proof of a claim by item and fence."""

from __future__ import annotations

import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.operations import term
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.park import park
from claude_sessions_cli.times import fence_of
from operations.claims import RUNNER, fence_of_claim


def test_check_proves_holder_and_fence(table: Table) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    assert check(table.database, make_caller("a"), "SD-1", fence=fence).session.fence == fence
    assert check(table.database, make_caller("a")).session.sd_id == "SD-1"
    with pytest.raises(NotHeld, match="fence 7 is not current"):
        check(table.database, make_caller("a"), "SD-1", fence=7)
    with pytest.raises(NotHeld, match="does not hold SD-2"):
        check(table.database, make_caller("a"), "SD-2")
    with pytest.raises(NotHeld, match="not registered"):
        check(table.database, make_caller("b"), "SD-1")
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before


def test_check_reports_loss(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(16)), "SD-1")
    with pytest.raises(NotHeld, match=r"lost SD-1 to b .*: silent"):
        check(table.database, make_caller("a"), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1 to b"):
        check(table.database, make_caller("a"))


def test_released_row_with_old_claim_holds_nothing(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(NotHeld, match="does not hold"):
        check(table.database, make_caller("a"), "SD-1")


def test_later_of_two_foreign_claims_holds(seed_dsn: str) -> None:
    table = Table(seed_dsn)
    with table.stack:
        for name, minutes in (("first", 1.0), ("last", 2.0), ("none", None), ("over", 9.0)):
            status, claimed = "released" if name == "over" else "active", at(minutes) if minutes else None
            table.insert(name, sd_id="SD-1", status=status, claimed_at=claimed, heartbeat_at=at(2))
        table.insert("elsewhere", sd_id="SD-2", status="active", claimed_at=at(9), heartbeat_at=at(2))
        assert check(table.database, make_caller("last", now=at(3)), "SD-1").session.fence == fence_of(at(2))
        for name in ("first", "none"):
            with pytest.raises(NotHeld, match=f"held by last under the later fence {fence_of(at(2))}"):
                check(table.database, make_caller(name, now=at(3)), "SD-1")
        table.execute("UPDATE public.claude_sessions SET claimed_at = %s WHERE session_id = 'first'", at(2))
        with pytest.raises(NotHeld, match="held by last"):
            check(table.database, make_caller("first", now=at(3)), "SD-1")
        assert check(table.database, make_caller("last", now=at(3)), "SD-1")


def test_stale_row_with_claim_needs_heartbeat_first(table: Table) -> None:
    table.insert("a", sd_id="SD-1", status="stale", claimed_at=NOON, heartbeat_at=NOON)
    message = "fell silent, and another one may have taken SD-1"
    with pytest.raises(NotHeld, match=message):
        check(table.database, make_caller("a", now=at(1)), "SD-1")
    with pytest.raises(NotHeld, match=message):
        park(table.database, make_caller("a", now=at(1)), 60)
    with pytest.raises(NotHeld, match=message):
        term.enter(table.database, make_caller("a", now=at(1)), RUNNER, "SD-1")
    heartbeat(table.database, make_caller("a", now=at(1)))
    assert park(table.database, make_caller("a", now=at(1)), 60).session.sd_id == "SD-1"
