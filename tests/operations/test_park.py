"""Parked claims: kept through silence, up to a limit."""

from __future__ import annotations

import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli.errors import HeldByAnother, NotHeld, UsageError
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.park import park, unpark
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release
from operations.claims import fence_of_claim


def test_park_keeps_claim_and_counts_as_heartbeat(table: Table) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    parked = park(table.database, make_caller("a", now=at(10)), 40 * 60)
    assert parked.session.fence == fence
    assert table.row("a")["heartbeat_at"] == at(10)
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(49)), "SD-1")
    assert reap(table.database, make_caller(None, now=at(49))).changed == []
    assert claim(table.database, make_caller("b", now=at(51)), "SD-1").outcome == "took_over"


def test_unpark_ends_park(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    park(table.database, make_caller("a", now=NOON), 40 * 60)
    unpark(table.database, make_caller("a", now=at(1)))
    assert claim(table.database, make_caller("b", now=at(17)), "SD-1").outcome == "took_over"


def test_heartbeat_keeps_park(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    park(table.database, make_caller("a", now=NOON), 30 * 60)
    heartbeat(table.database, make_caller("a", now=at(1)))
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(29)), "SD-1")


def test_park_ends_with_claim(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    park(table.database, make_caller("a", now=NOON), 40 * 60)
    release(table.database, make_caller("a", now=NOON))
    assert "parked_until" not in table.own("a")


def test_park_without_claim_is_refused(table: Table) -> None:
    with pytest.raises(NotHeld, match="nothing to park"):
        park(table.database, make_caller("a"), 60)
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    with pytest.raises(UsageError, match="parks for 45m at most"):
        park(table.database, make_caller("a"), 45 * 60 + 1)
    claim(table.database, make_caller("b", now=at(16)), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1"):
        park(table.database, make_caller("a"), 60)
