"""Releases: which claims they clear, and which rows they leave alone."""

from __future__ import annotations

import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli.errors import NotHeld, UsageError
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.release import release, release_other


def test_release_clears_the_claim_and_not_the_heartbeat(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
    result = release(table.database, make_caller("a", now=at(1)), "SD-1", reason="completed")
    row = table.row("a")
    assert (result.outcome, result.sd_id) == ("released", "SD-1")
    assert (row["sd_id"], row["track"], row["claimed_at"], row["status"]) == (None, None, None, "idle")
    assert (row["heartbeat_at"], row["updated_at"]) == (NOON, at(1))


def test_end_releases_claim_and_ends_session(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    result = release(table.database, make_caller("a", now=at(1)), end=True)
    assert (result.outcome, result.sd_id) == ("ended", "SD-1")
    assert table.row("a")["status"] == "released"
    assert claim(table.database, make_caller("b", now=at(1)), "SD-1").outcome == "claimed"


def test_idle_session_ends_too(table: Table) -> None:
    heartbeat(table.database, make_caller("a", now=NOON), register=True)
    assert release(table.database, make_caller("a", now=at(1)), end=True).outcome == "ended"
    assert table.row("a")["status"] == "released"


@pytest.mark.parametrize("end", [False, True])
def test_release_without_claim_succeeds(table: Table, end: bool) -> None:
    assert release(table.database, make_caller("a"), end=end).outcome == "nothing_held"
    assert release(table.database, make_caller("a"), "SD-1", end=end).outcome == "nothing_held"
    assert table.execute("SELECT session_id FROM public.claude_sessions") == []


def test_second_release_changes_nothing(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    release(table.database, make_caller("a", now=NOON), "SD-1")
    before = table.row("a")
    assert release(table.database, make_caller("a", now=at(1)), "SD-1").outcome == "nothing_held"
    assert table.row("a") == before


def test_release_of_other_item_changes_nothing(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    before = table.row("a")
    for end in (False, True):
        with pytest.raises(NotHeld, match="this session holds SD-1, not SD-2"):
            release(table.database, make_caller("a", now=at(1)), "SD-2", end=end)
    assert table.row("a") == before


def test_foreign_ended_row_with_claim_holds_nothing(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    before = table.row("a")
    assert release(table.database, make_caller("a", now=at(1))).outcome == "nothing_held"
    assert table.row("a") == before


def test_other_session_is_released_by_prefix(table: Table) -> None:
    claim(table.database, make_caller("agent-1", now=NOON), "SD-1")
    claim(table.database, make_caller("agent-2", now=NOON), "SD-2")
    with pytest.raises(UsageError, match="more than one"):
        release_other(table.database, make_caller("other", now=at(1)), "agent", None)
    with pytest.raises(NotHeld, match="no session"):
        release_other(table.database, make_caller("other", now=at(1)), "nobody", None)
    with pytest.raises(NotHeld, match="does not hold SD-2"):
        release_other(table.database, make_caller("other", now=at(1)), "agent-1", "SD-2")
    result = release_other(table.database, make_caller("other", now=at(1)), "agent-1", "SD-1", reason="stuck")
    assert (result.outcome, result.sd_id) == ("released", "SD-1")
    assert table.row("agent-1")["status"] == "idle"
    assert table.row("agent-2")["sd_id"] == "SD-2"


def test_prefix_prefers_live_session(table: Table) -> None:
    table.insert("agent-1", status="released", heartbeat_at=NOON)
    claim(table.database, make_caller("agent-2", now=NOON), "SD-2")
    result = release_other(table.database, make_caller("other", now=at(1)), "agent", None, end=True, reason="test")
    assert (result.outcome, result.sd_id) == ("ended", "SD-2")


def test_prefix_is_not_a_pattern(table: Table) -> None:
    claim(table.database, make_caller("axb", now=NOON), "SD-1")
    with pytest.raises(NotHeld, match="no session"):
        release_other(table.database, make_caller("other", now=at(1)), "a_", None)


def test_hint_names_no_session_that_no_command_takes(table: Table) -> None:
    table.insert("x; touch planted", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(NotHeld, match="SD-1 is held by x; touch planted") as caught:
        release(table.database, make_caller("a", now=NOON), "SD-1")
    assert caught.value.hint == "look: claude-sessions list SD-1"
