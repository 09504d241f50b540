"""Tombstones: which loss they report, of which term and successor, and for how long."""

from __future__ import annotations

import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other


def test_tombstone_survives_foreign_return_of_item(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    release(table.database, make_caller("b", now=at(2)))
    given = "UPDATE public.claude_sessions SET sd_id = 'SD-1', claimed_at = %s WHERE session_id = 'a'"
    table.execute(given, at(3))
    for item in ("SD-1", None):
        with pytest.raises(NotHeld, match="lost SD-1 to b"):
            check(table.database, make_caller("a", now=at(4)), item)
    claim(table.database, make_caller("a", now=at(5)), "SD-1")
    assert check(table.database, make_caller("a", now=at(6)), "SD-1")


def test_tombstone_names_fence_of_successor(table: Table) -> None:
    claim(table.database, make_caller("silent", now=NOON), "SD-1")
    reap(table.database, make_caller(None, now=at(16)))
    first = claim(table.database, make_caller("robbed", now=at(17)), "SD-1")
    forced = claim(table.database, make_caller("b", now=at(18)), "SD-1", force_reason="because")
    tombstones = {name: table.own(name)["tombstone"] for name in ("silent", "robbed")}
    assert (tombstones["silent"]["by"], tombstones["silent"]["new_fence"]) == ("robbed", first.session.session.fence)
    assert (tombstones["robbed"]["by"], tombstones["robbed"]["new_fence"]) == ("b", forced.session.session.fence)


def test_refused_claim_reports_earlier_loss(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    forced = claim(table.database, make_caller("b", now=NOON), "SD-1", force_reason="because")
    story = rf"held by b.*; this session lost SD-1 to b under fence {forced.session.session.fence} at .*because"
    with pytest.raises(HeldByAnother, match=story):
        claim(table.database, make_caller("a", now=at(1)), "SD-1")
    assert table.own("a")["tombstone"]["by"] == "b", "it stands until it claims or releases"


@pytest.mark.parametrize("metadata", ["[1, 2]", '"text"', "null"])
def test_metadata_without_room_for_tombstone_is_kept(table: Table, metadata: str) -> None:
    table.insert("theirs", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=NOON, metadata=metadata)
    assert claim(table.database, make_caller("b", now=at(16)), "SD-1").outcome == "took_over"
    [row] = table.execute("SELECT metadata::text AS kept FROM public.claude_sessions WHERE session_id = 'theirs'")
    assert row["kept"] == metadata


def test_loss_is_reported_until_acknowledged(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(16)), "SD-1")
    assert heartbeat(table.database, make_caller("a", now=at(17))).outcome == "lost"
    assert heartbeat(table.database, make_caller("a", now=at(18))).outcome == "lost"
    for minute in (19, 20):
        # The first may have lost its answer.
        assert release(table.database, make_caller("a", now=at(minute))).tombstone is not None
    assert release(table.database, make_caller("a", now=at(21))).tombstone is None
    assert heartbeat(table.database, make_caller("a", now=at(22))).outcome == "renewed"


def test_new_claim_clears_tombstone(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(16)), "SD-1")
    result = claim(table.database, make_caller("a", now=at(17)), "SD-2")
    assert result.lost_before is not None
    assert heartbeat(table.database, make_caller("a", now=at(18))).outcome == "renewed"


def test_released_by_other_leaves_tombstone(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    release_other(table.database, make_caller("bob", now=at(1)), "a", None, reason="stuck")
    result = heartbeat(table.database, make_caller("a", now=at(1)))
    assert result.outcome == "lost"
    assert result.tombstone is not None
    tombstone = result.tombstone
    assert (tombstone.reason, tombstone.note, tombstone.by) == ("released by another", "stuck", "bob")


def test_session_naming_itself_gets_no_tombstone(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    result = release_other(table.database, make_caller(None, now=at(1)), "a", "SD-1")
    assert (result.outcome, result.sd_id) == ("released", "SD-1")
    assert heartbeat(table.database, make_caller("a", now=at(1))).outcome == "renewed"
