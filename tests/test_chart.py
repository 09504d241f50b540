"""Timelines as bars, and as a picture."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import pytest

from claude_sessions_cli import chart
from claude_sessions_cli.model import Label
from claude_sessions_cli.operations.timeline import Span, Timeline
from claude_sessions_cli.text import width_of

NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


def _span(session: str, begin: float | None, end: float | None, **more: object) -> Span:
    """Return a span between hours before noon."""
    times = [None if hours is None else NOON - timedelta(hours=hours) for hours in (begin, end)]
    fields = {"reason": None, "ended_by": session if end is not None else None, "label": None, **more}
    return Span(session, "host", times[0], times[1], **fields)  # type: ignore[arg-type]


def _timeline(**items: list[Span]) -> Timeline:
    return Timeline(NOON - timedelta(hours=24), NOON, items)


def test_bars_show_terms_losses_gaps_and_the_dead() -> None:
    one = [_span("a", 30, 18), _span("b", 12, 6, reason="forced", ended_by="c"), _span("c", 6, None, label=Label.LIVE)]
    lines = list(chart.lines(_timeline(one=one, two=[_span("d", 2, None, label=Label.DEAD)]), 29))
    assert lines[1:3] == [
        "one  ███████·····▒▒▒▒▒▒██████",
        "two  ······················█!",
    ]
    assert lines[3:] == ["█▒ held  · free  x lost to", "another  ! its process is", "dead"]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_is_wider_than_its_terminal(columns: int) -> None:
    name = "SD-\u6f22\u5b57-" + "x" * 60
    lines = list(chart.lines(_timeline(**{name: [_span("a", 20, 1)]}), columns))
    assert all(width_of(line) <= max(columns, chart.LEAST_BAR + columns // 3 + 2) for line in lines)


def test_plain_terminal_gets_ascii() -> None:
    lines = list(chart.lines(_timeline(one=[_span("a", 20, 1), _span("b", 1, None)]), 80, ascii_only=True))
    assert "".join(lines).isascii()


def test_axis_has_round_times() -> None:
    axis = next(chart.lines(_timeline(one=[_span("a", 20, 1)]), 80))
    times = axis.split()
    assert len(times) > 4 and all(time.endswith(":00") for time in times)


def test_picture_is_xml_and_escapes_names() -> None:
    hostile = '<script>&"\x1b[31m'
    text = chart.svg(_timeline(**{hostile: [_span(hostile, 20, 1, reason="x<y"), _span("b", None, None)]}))
    tree = ElementTree.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert "\x1b" not in text and "<script" not in text
