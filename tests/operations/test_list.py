"""Listing: labels, filters, order and limits, without any write."""

from __future__ import annotations

from typing import Any

import pytest
from between import acting_before
from clock import NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.list import Filters, list_sessions


def _shown(table: Table, minutes: float = 0, caller: str | None = None, **filters: Any) -> dict[str, str]:
    found = list_sessions(table.database, make_caller(caller, now=at(minutes)), Filters(**filters))
    assert found.total == len(found.sessions)
    return {seen.session.session_id: seen.label.value for seen in found.sessions}


def test_session_has_first_matching_label(table: Table, sleeper: Sleeper) -> None:
    alive, dead = sleeper(), sleeper()
    dead_process = process.read(dead.pid)
    claim(table.database, make_caller("alive", now=at(-900), anchor=process.read(alive.pid)), "SD-1")
    claim(table.database, make_caller("dead", now=NOON, anchor=dead_process), "SD-2")
    dead.kill()
    dead.wait()
    for name, age in [("mine", 100), ("fresh", 2), ("quiet", 3), ("lapsed", 16)]:
        claim(table.database, make_caller(name, now=at(-age)), f"SD-{name}")
    claim(table.database, make_caller("parked", now=at(-16)), "SD-6")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,parked_until}', %s)"
        " WHERE session_id = 'parked'",
        f'"{at(10).isoformat()}"',
    )
    assert _shown(table, caller="mine") == {
        "alive": "LIVE",
        "dead": "DEAD",
        "mine": "YOURS",
        "fresh": "LIVE",
        "quiet": "QUIET",
        "lapsed": "LAPSED",
        "parked": "PARKED",
    }


def test_park_counts_for_45_minutes_at_most(table: Table) -> None:
    claim(table.database, make_caller("parked", now=NOON), "SD-6")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,parked_until}', %s)",
        f'"{at(600).isoformat()}"',
    )
    assert _shown(table, 44) == {"parked": "PARKED"}
    assert _shown(table, 46) == {"parked": "LAPSED"}


def test_list_shows_live_rows_unless_all_are_asked(table: Table) -> None:
    for status in ("active", "idle", "stale", "released", None):
        table.insert(f"s-{status}", status=status, heartbeat_at=NOON)
    table.insert("s-holder", status="stale", sd_id="SD-1", heartbeat_at=NOON)
    # A stale session that holds nothing tells its reader nothing.
    assert set(_shown(table)) == {"s-active", "s-idle", "s-None", "s-holder"}
    assert _shown(table, all_statuses=True)["s-released"] == "ENDED"
    assert "s-stale" in _shown(table, all_statuses=True)
    assert set(_shown(table, statuses=["released", "idle"])) == {"s-released", "s-idle"}
    assert set(_shown(table, statuses=["stale"])) == {"s-stale", "s-holder"}


def test_filters_are_combined(table: Table) -> None:
    columns = {"status": "active", "heartbeat_at": NOON}
    table.insert("a", sd_id="SD-1", track="A", hostname="one", codebase="web", **columns)
    table.insert("b", sd_id="SD-2", track="B", hostname="one", codebase="api", **columns)
    table.insert("c", sd_id="SD-3", track="A", hostname="two", codebase="web", **columns)
    assert set(_shown(table, sd_ids=["SD-1", "SD-3"])) == {"a", "c"}
    assert set(_shown(table, tracks=["A"])) == {"a", "c"}
    assert set(_shown(table, hostname="one")) == {"a", "b"}
    assert set(_shown(table, codebase="web", hostname="two")) == {"c"}
    assert set(_shown(table, session_id="b")) == {"b"}


def test_limit_keeps_total(table: Table) -> None:
    for number in range(5):
        table.insert(f"s-{number}", sd_id=f"SD-{number}", status="active", heartbeat_at=NOON)
    found = list_sessions(table.database, make_caller(None), Filters(limit=2))
    assert [seen.session.sd_id for seen in found.sessions] == ["SD-0", "SD-1"]
    assert found.total == 5


def test_holders_are_listed_first(table: Table) -> None:
    table.insert("idle", status="idle", heartbeat_at=NOON)
    table.insert("holder", sd_id="SD-1", status="active", heartbeat_at=at(-5))
    assert list(_shown(table)) == ["holder", "idle"]


def test_own_and_dangerous_rows_are_first(table: Table, sleeper: Sleeper) -> None:
    dead = sleeper()
    claim(table.database, make_caller("dead", now=NOON, anchor=process.read(dead.pid)), "SD-5")
    dead.kill()
    dead.wait()
    for name, sd_id, age in (("b", "SD-2", 1), ("lapsed", "SD-4", 60), ("a", "SD-1", 1), ("mine", "SD-3", 1)):
        claim(table.database, make_caller(name, now=at(-age)), sd_id)
    assert list(_shown(table, caller="mine")) == ["mine", "dead", "lapsed", "a", "b"]


def test_ended_sessions_are_last_latest_change_first(table: Table) -> None:
    table.insert("live", status="idle", heartbeat_at=NOON)
    for number in (1, 3, 2):
        table.insert(f"over-{number}", status="released", heartbeat_at=NOON, updated_at=at(number))
    assert list(_shown(table, all_statuses=True)) == ["live", "over-3", "over-2", "over-1"]
    found = list_sessions(table.database, make_caller(None, now=NOON), Filters(all_statuses=True, limit=2))
    assert [seen.session.session_id for seen in found.sessions] == ["live", "over-3"]
    assert (found.total, found.counts) == (4, {"LIVE": 1, "ENDED": 3})


@pytest.mark.parametrize(("status", "label"), [("stale", "LAPSED"), ("released", "ENDED")])
def test_session_that_changes_between_statements_is_listed_once(table: Table, status: str, label: str) -> None:
    table.insert("a", status="idle", heartbeat_at=NOON)
    table.insert("b", status="idle", heartbeat_at=NOON)
    fall = lambda: table.execute("UPDATE public.claude_sessions SET status = %s WHERE session_id = 'a'", status)  # noqa: E731
    with acting_before("list_past_sessions", fall):
        found = list_sessions(table.database, make_caller(None, now=at(16)), Filters(all_statuses=True))
    seen = {each.session.session_id: (each.session.status, each.label.value) for each in found.sessions}
    assert seen == {"a": (status, label), "b": ("idle", "LAPSED")}
    assert len(found.sessions) == found.total == sum(found.counts.values()) == 2


@pytest.mark.parametrize("status", ["stale", "released"])
def test_limit_reads_only_the_latest_that_are_over(table: Table, status: str) -> None:
    for digit, changed in (("1", at(1)), ("3", at(2)), ("2", at(2)), ("4", None)):
        row_id = f"{digit * 8}-0000-0000-0000-000000000000"
        table.insert(f"s-{digit}", id=row_id, status=status, heartbeat_at=NOON, updated_at=changed)
    order = ["s-3", "s-2", "s-1", "s-4"]
    assert list(_shown(table, statuses=[status])) == order
    for limit in (2, 4):
        found = list_sessions(table.database, make_caller(None, now=at(99)), Filters(statuses=[status], limit=limit))
        assert [seen.session.session_id for seen in found.sessions] == order[:limit]
        word = {"released": "ENDED", "stale": "LAPSED" if limit == 4 else "stale"}[status]
        assert (found.total, found.counts) == (4, {word: 4})


def test_sort_goes_through_all_stale_sessions(table: Table) -> None:
    for number in (1, 2, 3):
        table.insert(f"s-{number}", status="stale", heartbeat_at=at(-number), updated_at=at(number))
    found = list_sessions(table.database, make_caller(None), Filters(statuses=["stale"], limit=1, sort=["-heartbeat"]))
    assert [seen.session.session_id for seen in found.sessions] == ["s-3"]
    found = list_sessions(table.database, make_caller(None), Filters(statuses=["stale"], limit=1, sort=["heartbeat"]))
    assert [seen.session.session_id for seen in found.sessions] == ["s-1"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (["host"], "cab"),
        (["-host"], "bca"),
        (["-heartbeat"], "bca"),
        (["codebase", "session"], "acb"),
        (["codebase", "-session"], "cab"),
    ],
)
def test_sort_orders_by_columns_and_leaves_empty_ones_last(table: Table, sort: list[str], order: str) -> None:
    table.insert("a", hostname=None, codebase="one", status="idle", heartbeat_at=at(-1))
    table.insert("b", hostname="y", codebase="two", status="idle", heartbeat_at=at(-3))
    table.insert("c", hostname="x", codebase="one", status="idle", heartbeat_at=at(-2))
    order = {"cab": "cba", "bca": "bca"}[order] if "host" in sort[0] else order
    assert "".join(_shown(table, sort=sort)) == order


def test_list_never_writes(table: Table) -> None:
    table.insert("old", sd_id="SD-1", status="active", heartbeat_at=NOON)
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    _shown(table, 1000)
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before


@pytest.mark.parametrize(
    ("own", "expires"),
    [({}, 900), ({"stale_after": 3600}, 3600), ({"stale_after": "x"}, 900), ({"stale_after": True}, 900)],
)
def test_expiry_honours_patience_of_holder(table: Table, own: dict[str, Any], expires: float) -> None:
    from psycopg.types.json import Jsonb

    table.insert("a", status="active", heartbeat_at=NOON, metadata=Jsonb({"claude_sessions_cli": own}))
    found = list_sessions(table.database, make_caller(None, now=NOON))
    assert found.sessions[0].expires_in_s == expires


def test_all_with_a_status_lists_that_status_alone(table: Table) -> None:
    table.insert("live", status="idle", heartbeat_at=NOON)
    table.insert("gone", status="released", heartbeat_at=NOON)
    found = list_sessions(table.database, make_caller("a"), Filters(all_statuses=True, statuses=("idle",)))
    assert [seen.session.session_id for seen in found.sessions] == ["live"]
