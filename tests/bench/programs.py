"""Whole processes, run in turn so that other load hits each alike; and the messages of a command in a bare script."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from claude_sessions_cli import cli

PROGRAM = str(Path(sys.executable).with_name("claude-sessions"))
ROWS, COLUMNS = 50, 200
BARE = """
import os, psycopg
with psycopg.connect(os.environ["CLAUDE_SESSIONS_DSN"], autocommit=True) as connection:
    connection.execute("SELECT 1").fetchall()
"""


@dataclass
class Program:
    """A command line, on a terminal or not, and how long its runs took."""

    argv: Sequence[str]
    terminal: bool = False
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.seconds) * 1000

    def run(self, environment: Mapping[str, str]) -> None:
        """Run it once. Ends the bench if it fails."""
        run = _on_terminal if self.terminal else _piped
        begin = time.perf_counter()
        run(self.argv, environment)
        self.seconds.append(time.perf_counter() - begin)


def _piped(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    if done.returncode:
        sys.exit(f"bench: {argv[0]} failed: {done.stderr.decode()}")


def _on_terminal(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execve(argv[0], list(argv), environment)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    output = b""
    # Linux raises EIO once the last process has closed the terminal.
    with contextlib.suppress(OSError):
        while data := os.read(master, 1 << 16):
            output += data
    _, status = os.waitpid(pid, 0)
    os.close(master)
    if status:
        sys.exit(f"bench: {argv[0]} failed on a terminal: {output.decode()}")


def take_turns(programs: Sequence[Program], environment: Mapping[str, str], rounds: int) -> None:
    """Run all programs in turn, round after round, after two that are not counted."""
    for number in range(-2, rounds):
        for program in programs:
            program.run(environment)
            if number < 0:
                program.seconds.clear()


@contextmanager
def clean_home(home: str, **more: str) -> Iterator[dict[str, str]]:
    """Take the caller's settings out of this process inside the block; yield the environment of the programs."""
    before = dict(os.environ)
    kept = {name: value for name, value in before.items() if not name.startswith(("CLAUDE", "PG", "PYTHON", "XDG"))}
    os.environ.clear()
    os.environ.update(kept, HOME=home, TERM="xterm-256color")
    try:
        yield {**os.environ, **more}
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass
class Recording:
    """The connection and the messages of a command, each of several statements."""

    conninfo: str = ""
    messages: list[bytes] = field(default_factory=list)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record the connection and the messages of this process inside the block."""
    found = Recording()
    connect, execute = psycopg.Connection.__dict__["connect"], psycopg.Cursor.execute

    def recording_connect(cls: Any, /, conninfo: str = "", **options: Any) -> Any:
        found.conninfo = conninfo
        return connect.__func__(cls, conninfo, **options)

    def recording_execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        found.messages.append(query)
        return execute(self, query, params, **options)

    psycopg.Connection.connect = classmethod(recording_connect)  # type: ignore[method-assign, assignment]
    psycopg.Cursor.execute = recording_execute  # type: ignore[method-assign]
    try:
        yield found
    finally:
        psycopg.Connection.connect = connect  # type: ignore[method-assign]
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]


def record(*argv: str) -> Recording:
    """Run a command inside this process and return its recording."""
    with recorded() as found, contextlib.redirect_stdout(io.StringIO()) as output:
        code = cli.run(list(argv))
    if code:
        sys.exit(f"bench: {' '.join(argv)} ended with {code}: {output.getvalue()}")
    return found


def bare_script(found: Recording) -> str:
    """Return a Python script that sends the same messages, and prints the rows."""
    lines = [
        "import psycopg",
        f"connection = psycopg.connect({found.conninfo!r}, autocommit=True, prepare_threshold=None)",
        "cursor = psycopg.ClientCursor(connection)",
    ]
    for message in found.messages:
        lines += [
            f"cursor.execute({message!r})",
            "while True:",
            "    for row in cursor if cursor.description else ():",
            "        print(*row)",
            "    if not cursor.nextset():",
            "        break",
        ]
    return "\n".join([*lines, "connection.close()", ""])
