"""Charts of a timeline: a bar for each work item, as text for a terminal, and as SVG for a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

from claude_sessions_cli.model import Label
from claude_sessions_cli.text import cut, presentable, width_of, wrap

if TYPE_CHECKING:
    from claude_sessions_cli.operations.timeline import Span, Timeline

FREE, LOST, DEAD = "·", "x", "!"
# By turns, so that two terms in a row are told apart.
HELD = ("█", "▒")
ASCII = str.maketrans({"·": ".", "█": "#", "▒": "="})
LEAST_BAR = 12
NAME_SHARE = 3
# Between the times of the axis.
TICK_COLUMNS = 8
STEPS_S = (60, 300, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800)
SVG_WIDTH, SVG_ROW, SVG_NAMES, SVG_HEAD = 960, 24, 200, 40
COLOURS = ("#2e7d32", "#66bb6a")
LOST_COLOUR, DEAD_COLOUR = "#c62828", "#6a1b9a"


@dataclass(frozen=True, slots=True)
class _Scale:
    """Turns times into columns, or other units, of a bar."""

    since: datetime
    until: datetime
    length: float

    def at(self, moment: datetime | None) -> float:
        if moment is None:
            return 0.0
        share = (moment - self.since) / (self.until - self.since)
        return min(1.0, max(0.0, share)) * self.length


def lines(timeline: Timeline, columns: int, *, ascii_only: bool = False) -> Iterator[str]:
    """Yield an axis, a bar for each item, and a legend, for a terminal of `columns` columns."""
    names = [presentable(name) for name in timeline.items]
    width = min(max(map(width_of, names), default=0), columns // NAME_SHARE)
    bar = max(LEAST_BAR, columns - width - 2)
    scale = _Scale(timeline.since, timeline.until, bar)
    made = [" " * (width + 2) + _axis(timeline, bar)]
    for name, spans in zip(names, timeline.items.values(), strict=True):
        shown = cut(name, width)
        made.append(shown + " " * (width + 2 - width_of(shown)) + _bar(spans, scale, bar))
    legend = f"{HELD[0]}{HELD[1]} held  {FREE} free  {LOST} lost to another  {DEAD} its process is dead"
    made += wrap(legend, columns)
    for line in made:
        yield (line.translate(ASCII) if ascii_only else line).rstrip()


def _bar(spans: Sequence[Span], scale: _Scale, columns: int) -> str:
    cells = [FREE] * columns
    for number, span in enumerate(spans):
        first = min(columns - 1, int(scale.at(span.began_at)))
        last = columns - 1 if span.ended_at is None else min(columns - 1, int(scale.at(span.ended_at)))
        for column in range(first, last + 1):
            cells[column] = HELD[number % 2]
        if span.is_lost:
            cells[last] = LOST
        elif span.label is Label.DEAD:
            cells[last] = DEAD
    return "".join(cells)


def _axis(timeline: Timeline, columns: int) -> str:
    """Return the times of the axis, each at its column."""
    seconds = (timeline.until - timeline.since).total_seconds()
    step = next((step for step in STEPS_S if step >= seconds * TICK_COLUMNS / columns), STEPS_S[-1])
    form = "%H:%M" if step < STEPS_S[-2] else "%m-%d"
    text = ""
    moment = (timeline.since.timestamp() // step + 1) * step
    while (column := int((moment - timeline.since.timestamp()) / seconds * columns)) <= columns - 5:
        if column >= len(text):
            text = text.ljust(column) + datetime.fromtimestamp(moment, timezone.utc).strftime(form)
        moment += step
    return text


def svg(timeline: Timeline) -> str:
    """Return the timeline as an SVG document."""
    scale = _Scale(timeline.since, timeline.until, SVG_WIDTH - SVG_NAMES - 20)
    height = SVG_HEAD + SVG_ROW * (len(timeline.items) + 1)
    head = f"{_stamp(timeline.since)} to {_stamp(timeline.until)} (UTC)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SVG_WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="12">',
        f"<title>Work items, {head}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="22" font-size="14">{head}</text>',
    ]
    for row, (name, spans) in enumerate(timeline.items.items()):
        top = SVG_HEAD + SVG_ROW * row
        parts.append(f'<text x="8" y="{top + 16}">{escape(cut(presentable(name), 28))}</text>')
        for number, span in enumerate(spans):
            begin = SVG_NAMES + scale.at(span.began_at)
            end = SVG_NAMES + (scale.length if span.ended_at is None else scale.at(span.ended_at))
            colour = DEAD_COLOUR if span.label is Label.DEAD else COLOURS[number % 2]
            parts.append(
                f'<rect x="{begin:.1f}" y="{top + 3}" width="{max(1.0, end - begin):.1f}" height="{SVG_ROW - 6}"'
                f' fill="{colour}"><title>{escape(_caption(span))}</title></rect>'
            )
            if span.is_lost:
                parts.append(
                    f'<rect x="{end - 2:.1f}" y="{top + 1}" width="3" height="{SVG_ROW - 2}" fill="{LOST_COLOUR}"/>'
                )
    parts.append(
        f'<text x="8" y="{height - 8}" fill="#555">green: held; red edge: lost to another;'
        " violet: its process is dead</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _caption(span: Span) -> str:
    end = _stamp(span.ended_at) if span.ended_at else "now"
    why = f", {span.reason}" if span.reason else ""
    return presentable(f"{span.session_id}: {_stamp(span.began_at)} to {end}{why}")


def _stamp(moment: datetime | None) -> str:
    return "?" if moment is None else moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M")
