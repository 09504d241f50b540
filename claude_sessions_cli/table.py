"""Tables: the head and the cell of each column in one place, and which columns fit a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from claude_sessions_cli.model import JudgedSession
from claude_sessions_cli.names import RANDOM_ID
from claude_sessions_cli.text import cut, presentable, width_of, wrap
from claude_sessions_cli.times import format_age, to_second

if TYPE_CHECKING:
    from claude_sessions_cli.operations.history import SessionEvent, Term

T = TypeVar("T")
Table = list[tuple[str, ...]]

EMPTY = "-"
_SHORTEST_ID = 8


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its head, and what a row shows in it."""

    head: str
    cell: Callable[[T], object]


LIST: tuple[Column[JudgedSession], ...] = (
    Column("STATE", lambda seen: seen.label.value),
    Column("SD", lambda seen: seen.session.sd_id),
    Column("TRACK", lambda seen: seen.session.track),
    Column("SESSION", lambda seen: seen.session.session_id),
    Column("HOST", lambda seen: seen.session.hostname),
    Column("TTY", lambda seen: (seen.session.tty or "").removeprefix("/dev/")),
    Column("PID", lambda seen: seen.session.pid),
    Column("CODEBASE", lambda seen: seen.session.codebase),
    Column("CLAIMED", lambda seen: format_age(seen.session.claim_age_s)),
    Column("HEARTBEAT", lambda seen: format_age(seen.session.heartbeat_age_s)),
    Column("NOTE", lambda seen: seen.remark),
)
# Shown only if they are asked for.
MORE: tuple[Column[JudgedSession], ...] = (
    Column("STATUS", lambda seen: seen.session.status),
    Column("FENCE", lambda seen: seen.session.fence),
    Column("EXPIRES", lambda seen: format_age(seen.expires_in_s)),
    Column("UPDATED", lambda seen: to_second(seen.session.updated_at) if seen.session.updated_at else None),
)
COLUMNS = {column.head.lower(): column for column in (*LIST, *MORE)}
# The order in which a narrow terminal drops columns. STATE and SD stay; SESSION is shortened.
DROPPED_FIRST = ("PID", "TTY", "NOTE", "TRACK", "CLAIMED", "CODEBASE", "HOST", "HEARTBEAT")
# Cells that may be long, and are cut before a column is dropped.
CUT = ("NOTE", "HOST", "CODEBASE")
# Steps between columns that are dropped.
_SHORTEN, _WRAP = "shorten", "wrap"
_TIME = re.compile(r"^(\d{4,}-\d\d-\d\d)T(?=\d\d:)")


def terms(reader: str) -> tuple[Column[Term], ...]:
    """Return the columns of terms. Writers name themselves, so their roles are added, except that of the reader."""
    return (
        Column("SD", lambda term: term.sd_id),
        Column("SESSION", lambda term: _of_role(term.session_id, term.claimed_by_role, reader)),
        Column("HOST", lambda term: term.hostname),
        Column("NOTE", lambda term: term.purpose),
        Column("FROM", lambda term: to_second(term.began_at)),
        Column("TO", lambda term: to_second(term.ended_at) if term.ended_at else "now"),
        Column("ENDED", lambda term: _with_note(term.reason, term.note) if term.ended_at else None),
        Column(
            "BY",
            lambda term: (
                _actor(term.ended_by, term.ended_from, term.actor_program, term.actor_role, reader)
                if term.ended_at
                else None
            ),
        ),
    )


def events(reader: str) -> tuple[Column[SessionEvent], ...]:
    """Return the columns of events, with the roles as in `terms`."""
    return (
        Column("AT", lambda event: to_second(event.at)),
        Column("EVENT", lambda event: event.event),
        Column("SD", lambda event: event.sd_id),
        Column("REASON", lambda event: _with_note(event.reason, event.note) if event.reason else None),
        Column(
            "BY",
            lambda event: _actor(event.actor_session, event.actor_host, event.actor_program, event.actor_role, reader),
        ),
    )


def of_terms(items: Sequence[Term], reader: str, name: str) -> tuple[Table, Layout]:
    """Return the table of the terms of a work item or session, and how it fits a terminal."""
    own = "SESSION" if items and all(term.session_id == name for term in items) else "SD"
    layout = Layout(dropped=(own, "HOST", "NOTE", "BY", "ENDED"), texts=("FROM", "TO", "ENDED", "BY", "NOTE"))
    return rows(terms(reader), items), layout


def of_events(items: Sequence[SessionEvent], reader: str) -> tuple[Table, Layout]:
    """Return the table of a session's events, and how it fits a terminal."""
    return rows(events(reader), items), Layout(dropped=("BY", "REASON"), texts=("AT", "REASON", "BY"))


def named(names: Sequence[str]) -> list[Column[JudgedSession]]:
    """Return columns of `list`, each a key of COLUMNS."""
    return [COLUMNS[name] for name in names]


def rows(columns: Sequence[Column[T]], items: Iterable[T]) -> Table:
    """Return a table: the heads, and a row for each item, with the cells as they will be printed."""
    heads = tuple(column.head for column in columns)
    return [heads, *(tuple(_shown(column.cell(item)) for column in columns) for item in items)]


class Layout(NamedTuple):
    """How a table is laid out: as `plain` lines, `wide` with every cell whole, or fitted to its terminal.

    `chosen` says that its reader chose the columns, so that none is dropped. A narrow terminal drops columns in the
    order of `dropped`, and wraps the cells of `texts` at words.
    """

    plain: bool = False
    wide: bool = False
    chosen: bool = False
    dropped: Sequence[str] = DROPPED_FIRST
    texts: Sequence[str] = ()

    def fit(self, table: Table, limit: int) -> Table:
        """Return the part of a table that a terminal of `limit` columns shows."""
        return table if self.wide or self.plain else fit(table, limit, self.chosen, self.dropped, self.texts)


def fit(
    table: Table,
    limit: int,
    chosen: bool = False,
    dropped: Sequence[str] = DROPPED_FIRST,
    texts: Sequence[str] = (),
) -> Table:
    """Return the part of a table that fits `limit` columns of a terminal, one line for each row without `texts`.

    Columns that are empty in every row are dropped first, then equal ones. Then random session ids are shortened, and
    long cells cut to a quarter of the line, the cells of `texts` wrapped at words, other columns dropped, and other ids
    cut, to prefixes that differ within the table. A work item is never cut: a long one makes its own line too wide. If
    the columns are `chosen`, only ids are shortened.
    """
    columns = {head: [row[number] for row in table[1:]] for number, head in enumerate(table[0])}
    optional = [head for head in dropped if head in columns and not chosen]
    empty = [head for head in optional if set(columns[head]) <= {EMPTY}]
    equal = [
        head for head in optional if head not in (*empty, *texts) and len(table) > 2 and len(set(columns[head])) == 1
    ]
    rest = [head for head in optional if head not in empty and head not in equal]
    # Of the wrapped columns that are left, the width of the longest word.
    least: dict[str, int] = {}

    def excess() -> int:
        widths = [least.get(head) or _width(head, cells, limit) for head, cells in columns.items()]
        return sum(widths) + 2 * (len(widths) - 1) - limit

    for step in (*empty, *equal, _SHORTEN, _WRAP, *rest):
        if excess() <= 0:
            break
        if step == _SHORTEN:
            long = [head for head in CUT if head in columns and head not in texts and not chosen]
            columns |= {head: [cut(cell, limit // 4) for cell in columns[head]] for head in long}
            columns |= {head: _shorten_names(columns[head]) for head in ("SESSION", "BY") if head in columns}
        elif step == _WRAP:
            columns |= {head: [_TIME.sub(r"\1 ", cell) for cell in columns[head]] for head in texts if head in columns}
            least |= {head: max(map(_longest_word, (head, *columns[head]))) for head in texts if head in columns}
        else:
            del columns[step]
    if (over := excess()) > 0 and "SESSION" in columns:
        longest = max(map(width_of, columns["SESSION"]), default=0)
        columns["SESSION"] = _shorten_to(columns["SESSION"], longest - over)
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    return _wrapped(rows, least, limit, -excess()) if least else rows


def _wrapped(table: Table, least: Mapping[str, int], limit: int, spare: int) -> Table:
    """Return a table with the cells of some columns wrapped: to their `least` width, and what the `spare` one adds."""
    columns = {head: cells for head, *cells in zip(*table, strict=True)}
    widths = {head: width for head, width in least.items() if head in columns}
    whole = {head: _width(head, columns[head], limit) for head in widths}
    for _ in range(spare):
        # The column with the most lines gains most.
        tallest = max(widths, key=lambda head: whole[head] / widths[head])
        if whole[tallest] <= widths[tallest]:
            break
        widths[tallest] += 1
    return [
        line
        for row in table
        for line in zip_longest(
            *(wrap(cell, widths[head]) if head in widths else [cell] for head, cell in zip(columns, row, strict=True)),
            fillvalue="",
        )
    ]


def widths_of(table: Table, limit: int) -> list[int]:
    """Return how wide each column is on a terminal of `limit` columns."""
    return [_width(head, cells, limit) for head, *cells in zip(*table, strict=True)]


def _width(head: str, cells: Sequence[str], limit: int) -> int:
    """Return the width of a column: a work item that takes more than half of a line makes no other line wider."""
    widths = [width_of(cell) for cell in (head, *cells)]
    return max([width for width in widths if width <= limit // 2] or widths[:1]) if head == "SD" else max(widths)


def _longest_word(cell: str) -> int:
    return max(map(width_of, cell.split(" ")))


def _shorten_names(cells: Sequence[str]) -> list[str]:
    """Return cells with the random id that each begins with shortened."""
    names, blanks, rest = zip(*(cell.partition(" ") for cell in cells), strict=True) if cells else ((), (), ())
    return ["".join(parts) for parts in zip(_shorten_random(names), blanks, rest, strict=True)]


def _shorten_random(ids: Sequence[str]) -> list[str]:
    """Return each random id by its beginning, and more of those that begin alike."""
    found = [RANDOM_ID.match(name) for name in ids]
    lengths = [match.end() if match else len(name) for name, match in zip(ids, found, strict=True)]
    while True:
        short = [name[:length] for name, length in zip(ids, lengths, strict=True)]
        if len(set(short)) == len(set(ids)):
            return short
        alike = {name for name, number in Counter(short).items() if number > 1}
        lengths = [length + (name in alike) for name, length in zip(short, lengths, strict=True)]


def _shorten_to(ids: Sequence[str], length: int) -> list[str]:
    """Return ids cut to `length`, or to the least length at which all differ."""
    length = max(length, _SHORTEST_ID)
    while len({name[:length] for name in ids}) < len(set(ids)):
        length += 1
    return [name[:length] for name in ids]


def _shown(value: object) -> str:
    return presentable(str(value)) if value not in (None, "") else EMPTY


def _with_note(reason: str | None, note: str | None) -> str:
    return f"{reason} ({note})" if note else str(reason)


def _actor(session: str | None, host: str | None, program: str | None, role: str | None, reader: str) -> str:
    name = (
        _of_role(session, role, reader) if session else " as ".join(part for part in (program, role) if part) or EMPTY
    )
    return f"{name} on {host}" if host else name


def _of_role(session: str, role: str | None, reader: str) -> str:
    return f"{session} as {role}" if role not in (None, reader) else session
