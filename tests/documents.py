"""The documents as blocks of code, and a terminal that does what they show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from poll import until
from terminal import CLI, Terminal

COLUMNS = 120
_HEADING = r"^#+ (?P<heading>[^\n]+)$"
_BEFORE = r"^<!-- before\n(?P<before>(?:(?!-->).)*)^-->\n\n?"
_BLOCK = rf"(?:{_BEFORE})?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$"
_PARTS = re.compile(f"{_HEADING}|{_BLOCK}", re.DOTALL | re.MULTILINE)
# What differs from run to run, and what stands for it.
_CHANGING = (
    (r"\x1b\[[0-9;?]*[a-zA-Z]", ""),
    (r"session_[0-9a-f]{8}_\w+", "SESSION"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d{16}\b", "FENCE"),
    (r"\b(pid|port|process group) \d+", r"\1 N"),
    (r"pg_terminate_backend\(\d+\)", "pg_terminate_backend(N)"),
    (r"/dev/(pts/\d+|ttys\d+)", "TTY"),
    (r"\b\d+(\.\d+)?(ms|s|m|h|d)\b", "AGE"),
    (r"\bchown \d+", "chown N"),
    # Versions of Postgres.
    (r"\b1\d(\.\d+)?\b", "N"),
    (r"\s+", " "),
)


@dataclass(frozen=True)
class Step:
    """A command of a console, and what it prints."""

    command: str
    output: str


@dataclass(frozen=True)
class Block:
    """A block of code: its heading and language, and the lines of the invisible comment that prepares it."""

    heading: str
    language: str
    text: str
    before: str

    @property
    def steps(self) -> list[Step]:
        """The commands of a console, each with its output."""
        nothing, *found = re.split(r"^\$ (.+)\n", self.text, flags=re.MULTILINE)
        assert not nothing, f"{self.heading}: a console begins with a command"
        return [Step(command, output) for command, output in zip(found[::2], found[1::2], strict=True)]

    @property
    def commands(self) -> list[str]:
        """The command lines of a console or of a script, without comments."""
        lines = [step.command for step in self.steps] if self.language == "console" else self.text.splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks(document: Path) -> list[Block]:
    """Return a document's blocks of code, in order."""
    found: list[Block] = []
    heading = ""
    for part in _PARTS.finditer(document.read_text(encoding="utf-8")):
        heading = part["heading"] or heading
        if part["text"] is not None:
            found.append(Block(heading, part["language"], part["text"], part["before"] or ""))
    return found


@dataclass
class Reader:
    """A reader of one document, who does what it shows: each block in a new window, in an account of its own."""

    dsn: str
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        # As root, the private server runs as another account, which must reach this directory.
        self.home = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp")).resolve()
        self.home.chmod(0o755)
        self.stack.callback(shutil.rmtree, self.home, ignore_errors=True)
        self.codebase = self.home / "shop"
        for place in (self.codebase, self.home / ".local/share", self.home / ".local/state"):
            place.mkdir(parents=True)
        programs = self.home / ".programs"
        programs.mkdir()
        for name, script in (
            ("claude-sessions", f'exec {CLI} "$@"'),
            # That of this machine is not the document's.
            ("crontab", '[ "$1" = - ] && cat >~/.crontab || cat ~/.crontab'),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        self._variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TERM": "xterm",
            "NO_COLOR": "1",
            "CLAUDE_SESSIONS_DSN": self.dsn,
            # That of root is not below its home.
            "CLAUDE_SESSIONS_DATA_DIR": str(self.home / ".local/share/claude-sessions"),
        }
        self._numbers = count()
        self._admin = self.stack.enter_context(psycopg.connect(self.dsn, autocommit=True))
        self.stack.callback(self._stop_server)

    def read(self, block: Block) -> Iterator[tuple[Step, str]]:
        """Do what a console shows; yield each step with what it printed."""
        window = Terminal(self.home, more=self._variables, cwd=self.codebase)
        self.stack.callback(window.close)
        self._enter(window, f"stty cols {COLUMNS}")
        for line in block.before.splitlines():
            verb, *words = shlex.split(line)
            if verb == "sql":
                self._admin.execute(words[0].encode())
            else:
                self._enter(window, line)
        for step in block.steps:
            yield step, self._enter(window, step.command)

    def plain(self, text: str) -> str:
        """Return an output with what differs from run to run, or from account to account, replaced."""
        database = re.search(r"dbname=(\S+)", self.dsn)
        directory = re.search(r"host=(\S+)", self.dsn)
        for place, name in ((str(self.home), "/home/me"), (socket.gethostname(), "vm")):
            text = text.replace(place, name)
        if database:
            text = text.replace(database[1], "work")
        if directory and directory[1].startswith("/"):
            text = text.replace(directory[1], "db.example.com")
        for pattern, name in _CHANGING:
            text = re.sub(pattern, name, text)
        return text.strip()

    def _enter(self, window: Terminal, command: str) -> str:
        """Run a command in a window, where the next one finds its exit code, and return what it printed."""
        script = self.home / ".programs" / f"step-{next(self._numbers)}"
        # Typed, the end would be seen before the command ends.
        script.write_text(f"(exit ${{code_:-0}})\n{command}\ncode_=$?; printf '<%s>' end\n")
        start = len(window.seen())
        window.type(f". {script}")
        # Typed before the next prompt, a line is echoed twice.
        pattern = re.compile(r"\n(.*)<end>.*\$ $", re.DOTALL)
        printed = until(lambda: pattern.search(window.seen(), start), f"the end of {command}\n{window.seen()[start:]}")
        return str(printed[1])

    def _stop_server(self) -> None:
        command = [sys.executable, "-m", "claude_sessions_cli", "db", "stop"]
        subprocess.run(command, env={**os.environ, "HOME": str(self.home), **self._variables}, capture_output=True)
