"""A table that is drawn again and again on a terminal: a clock, marks for what changed, keys, and a filter."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.live import Live
from rich.text import Text

from claude_sessions_cli import render
from claude_sessions_cli.errors import Unreachable
from claude_sessions_cli.table import Layout, Table
from claude_sessions_cli.text import cut, presentable, width_of

# Their cells change with the clock alone.
AGES = ("CLAIMED", "HEARTBEAT", "EXPIRES")
CHANGED_STYLE, HINT_STYLE = "reverse", "dim"
# They stop or end this process, and the terminal is still there.
SIGNALS = (signal.SIGTSTP, signal.SIGTERM, signal.SIGQUIT)
ESCAPE, ENTER, ERASE = "\x1b", "\r\n", "\x7f\b"


@dataclass
class Screen:
    """What is drawn: the last table, what differed from the one before, the reader's filter, a problem."""

    layout: Layout
    title: str
    rows: Table = field(default_factory=list)
    footer: str = ""
    problem: str = ""
    filter: str = ""
    is_typing: bool = False
    _changed: set[tuple[str, str]] = field(default_factory=set)

    def show(self, rows: Table, footer: str) -> None:
        """Take a new table, and mark the cells that changed since the last one."""
        before, after = self._cells(self.rows), self._cells(rows)
        self._changed = {place for place, cell in after.items() if before and before.get(place) != cell}
        self.rows, self.footer, self.problem = rows, footer, ""

    def press(self, keys: str) -> bool:
        """Act on the keys that were pressed; return whether the reader quits."""
        if len(keys) > 1 and keys.startswith(ESCAPE):
            return False  # an arrow or the like
        return any(self._press(key) for key in keys)

    def _press(self, key: str) -> bool:
        if self.is_typing:
            if key in ENTER or key == ESCAPE:
                self.is_typing = False
                self.filter = "" if key == ESCAPE else self.filter
            elif key in ERASE:
                self.filter = self.filter[:-1]
            elif key.isprintable():
                self.filter += key
        elif key == "/":
            self.is_typing, self.filter = True, ""
        return key == "q" and not self.is_typing

    def draw(self, width: int, height: int) -> Text:
        """Return the screen: as many rows as fit, and how many do not."""
        heads, *found = self.rows or [()]
        kept = [row for row in found if self.filter.lower() in " ".join(row).lower()]
        room = max(1, height - 4)
        drawn: Text = Text(no_wrap=True, overflow="crop")
        title = f"{self.title}  {time.strftime('%H:%M:%S')}  "
        drawn.append(title, "bold")
        drawn.append(cut(self._hint(), max(1, width - width_of(title))) + "\n", HINT_STYLE)
        if heads:
            table = self.layout.fit([heads, *kept[:room]], width)
            for number, cells in enumerate(render.styled(table, Text, width)):
                for column, (head, cell) in enumerate(zip(table[0], cells, strict=True)):
                    text = cell if isinstance(cell, Text) else Text(cell)
                    if number and (kept[number - 1][_key(heads)], head) in self._changed:
                        text.stylize(CHANGED_STYLE)
                    drawn.append("  " if column else "").append(text)
                drawn.append("\n")
        below = f"{len(kept) - room} more below; " if len(kept) > room else ""
        drawn.append(cut(f"{below}{self.footer}", width) + "\n", HINT_STYLE)
        drawn.append(presentable(self.problem), "bold red")
        return drawn

    def _hint(self) -> str:
        if self.is_typing:
            return f"/{self.filter}_  Enter keeps it, Esc clears it"
        return f"q quits, / filters{f': {self.filter}' if self.filter else ''}"

    def _cells(self, rows: Table) -> dict[tuple[str, str], str]:
        if not rows:
            return {}
        heads, *lines = rows
        key = _key(heads)
        cells = ((line[key], head, cell) for line in lines for head, cell in zip(heads, line, strict=True))
        return {(name, head): cell for name, head, cell in cells if head not in AGES}


def _key(heads: tuple[str, ...]) -> int:
    """Return the column that names a row."""
    return heads.index("SESSION") if "SESSION" in heads else 0


def watch(look: Callable[[], tuple[Table, str]], layout: Layout, title: str, seconds: float) -> None:
    """Draw the table and the footer that `look` returns every `seconds`, until the reader quits.

    A database that cannot be reached is looked at again: the last table stays.
    """
    gc.enable()  # the program disables it, because most commands are short
    screen = Screen(layout, title)
    live = Live(screen=True, auto_refresh=False)
    with _terminal(live) as read:
        due = 0.0
        while True:
            if time.monotonic() >= due:
                try:
                    screen.show(*look())
                except Unreachable as error:
                    screen.problem = f"{error.message}; trying again"
                due = time.monotonic() + seconds
            with _undisturbed():
                live.update(screen.draw(live.console.width, live.console.height), refresh=True)
            if screen.press(read(due - time.monotonic())):
                return


def _wait(seconds: float) -> str:
    time.sleep(max(0.0, seconds))
    return ""


@contextmanager
def _terminal(live: Live) -> Iterator[Callable[[float], str]]:
    """Take the terminal, and yield a function that waits some seconds for keys.

    Its screen and modes are given back at the end, and before a signal stops or ends this process. A terminal that is
    not read keeps its modes.
    """
    number = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = None if number is None else termios.tcgetattr(number)

    def take() -> None:
        if number is not None:
            # In the background this stops the process again, before it draws.
            tty.setcbreak(number)
        live.start(refresh=True)

    def give_back() -> None:
        live.stop()
        if number is not None and before is not None:
            termios.tcsetattr(number, termios.TCSADRAIN, before)

    def pass_on(caught: int, _: object) -> None:
        give_back()
        signal.signal(caught, signal.SIG_DFL)
        signal.raise_signal(caught)
        # Continued.
        with _undisturbed():
            signal.signal(caught, pass_on)
            take()

    def read(seconds: float) -> str:
        # The clock shows seconds.
        ready, _, _ = select.select([sys.stdin], [], [], max(0.0, min(seconds, 1.0)))
        return os.read(sys.stdin.fileno(), 1024).decode(errors="ignore") if ready else ""

    try:
        with _undisturbed():
            take()
            for caught in SIGNALS:
                if signal.getsignal(caught) != signal.SIG_IGN:
                    signal.signal(caught, pass_on)
        yield _wait if number is None else read
    finally:
        give_back()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold the signals back: half a drawing must not be given back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
