"""Printing: tables on a terminal, plain lines in a pipe, JSON for programs.

Results go to stdout, notes and errors to stderr. Nothing else writes to either: each line for people is made
presentable here, whatever database, environment or command line it quotes, and no text is read as markup.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple, TextIO, TypeVar

from claude_sessions_cli import threads
from claude_sessions_cli.as_json import json_value, session_data
from claude_sessions_cli.errors import HeldByAnother, RowsRefused, SessionsError
from claude_sessions_cli.model import Label
from claude_sessions_cli.table import Layout, Table, widths_of
from claude_sessions_cli.text import align, cut, hang, pad, presentable, wrap

SCHEMA_VERSION = 1
PROGRAM = "claude-sessions"
CLEAR_LINE = "\r\x1b[K"
USUAL_COLUMNS = 80
Progress = Callable[[float, "HeldByAnother | None"], None]
HEAD_STYLE, FOOTER_STYLE = "bold", "dim"
LABEL_STYLES = {
    Label.YOURS: "bold green",
    Label.LIVE: "green",
    Label.PARKED: "cyan",
    Label.QUIET: "yellow",
    Label.LAPSED: "red",
    Label.DEAD: "bold red",
    Label.ENDED: "dim",
}


T = TypeVar("T")


class CannotWrite(SessionsError):
    """The command succeeded, but its output could not be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"cannot write the answer: {error.strerror}", "the command itself is done; write its answer elsewhere"
        )


class Output(NamedTuple):
    """How this invocation prints."""

    command: str
    json: bool = False
    quiet: bool = False

    def result(self, data: dict[str, Any], lines: Callable[[], list[str]], *, whole: bool = False) -> None:
        """Print the result of a command that succeeded, its lines wrapped on a terminal unless they stay `whole`."""
        if self.quiet:
            return
        if self.json:
            _write(sys.stdout, self._envelope(data, None))
        elif whole or not sys.stdout.isatty():
            _print(sys.stdout, lines())
        else:
            columns = columns_of(sys.stdout)
            _print(sys.stdout, [piece for line in lines() for piece in hang(presentable(line), columns)])

    def script(self, text: str) -> None:
        """Print a script for a shell, as it is."""
        _write(sys.stdout, self._envelope({"script": text}, None) if self.json else text)

    def result_unless_refused(
        self, data: dict[str, Any], lines: Callable[[], list[str]], refused: Sequence[str]
    ) -> None:
        """Print a result; raise RowsRefused if the table refused rows, after what is done has been printed."""
        if not (refused and self.json):
            self.result(data, lines)
        if refused:
            raise RowsRefused(refused, data)

    def table(self, data: dict[str, Any], rows: Table, layout: Layout, footer: str) -> None:
        """Print a table of sessions: laid out for a terminal, with a footer there, or as plain lines."""
        if self.json or self.quiet or layout.plain or not sys.stdout.isatty():
            self.result(data, lambda: align(rows), whole=True)
        else:
            _print_styled(rows, layout, footer)

    def tables(self, data: dict[str, Any], tables: Sequence[tuple[Table, Layout]]) -> None:
        """Print tables one below the other: each laid out for a terminal, or as plain lines."""
        if self.json or self.quiet or not sys.stdout.isatty():
            self.result(data, lambda: [line for rows, _ in tables for line in ("", *align(rows))][1:])
            return
        for number, (rows, layout) in enumerate(tables):
            _write(sys.stdout, "\n" if number else "")
            _print_styled(rows, layout, "")

    def objects(self, objects: Iterable[dict[str, Any] | None]) -> bool:
        """Print a JSON object on each line; return False if the reader has closed the pipe."""
        return _write(sys.stdout, "".join(json.dumps(one, default=json_value) + "\n" for one in objects))

    def again(self, data: dict[str, Any], rows: Table) -> bool:
        """Print one of many answers, as an object or as lines; return False if the reader has closed the pipe."""
        if self.json:
            return _write(sys.stdout, self._envelope(data, None))
        return _print(sys.stdout, [*align(rows), ""])

    @contextmanager
    def count_down(self) -> Iterator[Progress]:
        """Yield the function that shows the seconds left and the holder in one line; clear the line at the end."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield lambda left, refusal: None
            return
        try:
            yield _count_down
        finally:
            sys.stderr.write(CLEAR_LINE)

    def note(self, text: str) -> None:
        """Print a line for people on stderr; it is not the result."""
        if not self.quiet and not self.json:
            _talk([text])

    def loss(self, text: str) -> None:
        """Print a loss of this session on stderr, which --quiet does not silence; --json has it in its data."""
        if not self.json:
            _talk([text])

    def failure(self, error: SessionsError) -> None:
        """Print an error: one line on stderr, or the JSON envelope on stdout."""
        if self.json and not isinstance(error, CannotWrite):
            _write(sys.stdout, self._envelope(error.data, error))
        else:
            _talk(error.as_text())

    def traceback(self, error: Exception) -> None:
        """Print the traceback of an unforeseen failure on stderr."""
        import traceback

        _print(sys.stderr, "".join(traceback.format_exception(error)).splitlines())

    def _envelope(self, data: dict[str, Any] | None, error: SessionsError | None) -> str:
        envelope: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "ok": error is None,
            "data": data,
            "error": None,
        }
        if error is not None:
            envelope["error"] = {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "holder": session_data(error.holder),
            }
        return json.dumps(envelope, default=json_value) + "\n"


def answer(text: str) -> None:
    """Print the one object that another program reads from stdout. Raises OSError if nobody reads it."""
    os.write(1, f"{text}\n".encode())


def _print(stream: TextIO, lines: Iterable[str]) -> bool:
    """Print lines for people: each stays one line, and nothing in it is obeyed by a terminal."""
    return _write(stream, "".join(f"{presentable(line)}\n" for line in lines))


def _talk(lines: Iterable[str]) -> None:
    """Print lines for people on stderr."""
    _write(sys.stderr, "".join(map(_spoken, lines)))


def _spoken(line: str) -> str:
    """Return a line of stderr after the program's name, wrapped at words on a terminal."""
    text = f"{PROGRAM}: {presentable(line)}"
    pieces = wrap(text, columns_of(sys.stderr), "  ") if sys.stderr.isatty() else [text]
    return "".join(f"{piece}\n" for piece in pieces)


def _write(stream: TextIO, text: str) -> bool:
    """Write text and flush it; return False if the reader has closed the pipe."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # The rest of the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise CannotWrite(error) from None
        return False
    return True


def _count_down(left: float, refusal: HeldByAnother | None) -> None:
    held = refusal.holder.session if refusal and refusal.holder else None
    by = f"{held.sd_id}, held by {held.session_id}" if held else "the work item" if refusal else "the database"
    minutes, seconds = divmod(math.ceil(left), 60)
    time_left = f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s"
    # The way out comes first: names may have any length.
    line = presentable(f"{time_left} left (Ctrl-C gives up): waiting for {by}")
    # A second line of the terminal would not be cleared.
    sys.stderr.write(CLEAR_LINE + cut(line, columns_of(sys.stderr) - 1))
    sys.stderr.flush()


def columns_of(stream: TextIO | None = None) -> int:
    """Return the width of a terminal, that of stdout by default; by the variable COLUMNS first, as rich has it."""
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def styled(rows: Table, style: Callable[[str, str], T], limit: int) -> list[list[T | str]]:
    """Return a table's cells, padded for `limit` columns, its heads and states in their styles, made by `style`."""
    heads, *lines = pad(rows, widths_of(rows, limit))
    states = [number for number, head in enumerate(rows[0]) if head == "STATE"]
    made: list[list[T | str]] = [[style(head, HEAD_STYLE) for head in heads]]
    for line in lines:
        cells: list[T | str] = [*line]
        for number in states:
            cells[number] = style(line[number], LABEL_STYLES[Label(line[number].strip())])
        made.append(cells)
    return made


def _print_styled(rows: Table, layout: Layout, footer: str) -> None:
    """Print a table on a terminal. Rich would take seconds for the cells of ten thousand rows, and cut long ones."""
    from rich.console import Console
    from rich.text import Text

    console, width = Console(), columns_of()

    @lru_cache
    def style(text: str, name: str) -> str:
        with console.capture() as capture:
            console.print(Text(text, name), end="", soft_wrap=True)
        return capture.get()

    lines = ["  ".join(cells).rstrip() for cells in styled(layout.fit(rows, width), style, width)]
    if footer:
        lines.append(style(cut(presentable(footer), width), FOOTER_STYLE))
    _write(sys.stdout, "".join(f"{line}\n" for line in lines))


def report(text: str, seconds: float) -> None:
    """Print a line on stderr within some seconds: a slow reader must not delay this process."""
    line = _spoken(text).encode(errors="backslashreplace")

    def write() -> None:
        with suppress(OSError):
            os.write(2, line)

    # Not through sys.stderr: a thread that holds its lock at exit crashes the interpreter.
    threads.within(seconds, write)
