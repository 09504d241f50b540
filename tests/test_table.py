"""Which columns of `list` fit a terminal, and what becomes of ids that do not."""

from __future__ import annotations

import pytest

from claude_sessions_cli.table import DROPPED_FIRST, LIST, Table, fit, widths_of
from claude_sessions_cli.text import align, width_of

HEADS = tuple(column.head for column in LIST)
DERIVED = "session_049d5cb4_pts0_26111"
UUID = "4f9c2a7e-1b2c-4d3e-8f90-123456789abc"


def table(*rows: dict[str, str]) -> Table:
    """Return a table of `list` whose rows differ from an ordinary one in the given cells."""
    ordinary = {
        "STATE": "LIVE",
        "SD": "SD-AUTH-001",
        "TRACK": "A",
        "SESSION": DERIVED,
        "HOST": "vm",
        "TTY": "pts/0",
        "PID": "26111",
        "CODEBASE": "shop",
        "CLAIMED": "12m",
        "HEARTBEAT": "5s",
        "NOTE": "the parser",
    }
    return [HEADS, *(tuple({**ordinary, **row}[head] for head in HEADS) for row in rows)]


def widest(fitted: Table) -> int:
    return max(map(width_of, align(fitted)))


@pytest.mark.parametrize("session", [DERIVED, UUID, "nightly-builder-on-a-host-with-a-long-name"])
@pytest.mark.parametrize("limit", [60, 80, 100])
def test_ordinary_row_fits_with_state_and_item_whole(session: str, limit: int) -> None:
    fitted = fit(table({"SESSION": session}), limit)
    assert widest(fitted) <= limit
    cells = dict(zip(fitted[0], fitted[1], strict=True))
    assert (cells["STATE"], cells["SD"]) == ("LIVE", "SD-AUTH-001")
    assert session.startswith(cells["SESSION"]) and len(cells["SESSION"]) >= 8


def test_wide_terminal_shows_everything() -> None:
    whole = table({}, {"SESSION": UUID})
    assert fit(whole, widest(whole)) == whole


def test_empty_columns_leave_first_then_equal_ones() -> None:
    rows = table({"TRACK": "-", "HOST": "a"}, {"TRACK": "-", "HOST": "b", "SESSION": UUID, "PID": "1"})
    limit = widest(rows)
    without_track = fit(rows, limit - 1)
    assert without_track[0] == tuple(head for head in HEADS if head != "TRACK")
    assert fit(rows, limit - 8)[0] == tuple(head for head in HEADS if head not in ("TRACK", "TTY"))


def test_random_ids_are_shortened_before_other_columns_leave() -> None:
    rows = table({"SESSION": UUID}, {"SESSION": DERIVED, "SD": "SD-2", "TRACK": "B", "HOST": "b", "TTY": "-"})
    rows[2] = (*rows[2][:6], "7", "web", "1m", "2s", "tests")
    fitted = fit(rows, widest(rows) - 1)
    assert fitted[0] == HEADS
    assert [row[3] for row in fitted[1:]] == ["4f9c2a7e", "session_049d5cb4"]


def test_ids_that_begin_alike_keep_what_tells_them_apart() -> None:
    other = UUID.replace("-1b2c-", "-1b3c-")
    fitted = fit(table({"SESSION": UUID}, {"SESSION": other}, {"SESSION": DERIVED}), 50)
    at = fitted[0].index("SESSION")
    assert [row[at] for row in fitted[1:]] == ["4f9c2a7e-1b2", "4f9c2a7e-1b3", "session_049d5cb4"]


def test_named_ids_are_cut_last_and_stay_distinct() -> None:
    names = ["nightly-" + "x" * 60 + end for end in ("", "-1")]
    fitted = fit(table(*({"SESSION": name} for name in names)), 60)
    assert fitted[0] == ("STATE", "SD", "SESSION")
    assert [name.startswith(row[2]) for name, row in zip(names, fitted[1:], strict=True)] == [True, True]
    assert fitted[1][2] != fitted[2][2]


def test_ids_that_look_alike_are_shown_alike() -> None:
    # Characters that are not printed may be all that tells the ids of other programs apart.
    fitted = fit(table({"SESSION": UUID}, {"SESSION": UUID}), 40)
    assert fitted[1][2] == fitted[2][2] == "4f9c2a7e"


def test_long_work_item_stays_whole() -> None:
    item = "SD-" + "X" * 90
    fitted = fit(table({"SD": item}), 60)
    assert fitted[1][1] == item


def test_long_work_item_widens_no_other_line() -> None:
    item = "SD-" + "X" * 90
    ordinary, beside = fit(table({}, {}), 80), fit(table({}, {"SD": item}), 80)
    assert beside[0] == ordinary[0] and beside[1] == ordinary[1] and beside[2][1] == item
    assert widths_of(beside, 80) == widths_of(ordinary, 80)


@pytest.mark.parametrize(
    ("limit", "heads"),
    [
        (40, "STATE SD SESSION"),
        (60, "STATE SD SESSION HOST HEARTBEAT"),
        (80, "STATE SD SESSION HOST CODEBASE CLAIMED HEARTBEAT"),
        (120, "STATE SD SESSION HOST TTY PID CODEBASE CLAIMED HEARTBEAT NOTE"),
        (200, "STATE SD TRACK SESSION HOST TTY PID CODEBASE CLAIMED HEARTBEAT NOTE"),
    ],
)
def test_columns_of_each_width(limit: int, heads: str) -> None:
    rows = table(
        {}, dict(zip(HEADS, ("DEAD", "SD-2", "A", UUID, "vm2", "pts/1", "2", "x", "1h", "1m", "n" * 70), strict=True))
    )
    assert " ".join(fit(rows, limit)[0]) == heads
    assert widest(fit(rows, limit)) <= limit


def test_long_texts_are_cut_before_columns_leave() -> None:
    rows = table({}, {"HOST": "h" * 80, "NOTE": "n" * 200})
    fitted = fit(rows, 120)
    assert "NOTE" in fitted[0] and "HOST" in fitted[0]
    cells = dict(zip(fitted[0], fitted[2], strict=True))
    assert cells["HOST"] == "h" * 29 + "…"
    assert widest(fitted) <= 120


def test_every_column_that_may_leave_exists() -> None:
    assert set(DROPPED_FIRST) | {"STATE", "SD", "SESSION"} == set(HEADS)
