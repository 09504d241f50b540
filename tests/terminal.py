"""Real terminals for tests: a pseudoterminal with a shell that a test types into, and a tmux server of its own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from select import select
from typing import Any

from poll import PATIENCE_S, until

_numbers = count()
# sudo, env -i and cron drop variables; if Python needs this one to find the program, the command sets it.
_PLACES = f"env PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])} " if "PYTHONPATH" in os.environ else ""
CLI = f"{_PLACES}{shlex.quote(sys.executable)} -m claude_sessions_cli"
WHOAMI = f"{CLI} whoami --json"
PROMPT = "$ "
# Interactive, and without start-up files.
SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
# A new session takes the terminal on its standard input as its own, and becomes the program. It resets SIGHUP, which
# nohup ignores.
_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def environment(directory: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small environment without anything of the account that runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(directory), "LANG": "C.UTF-8", "TERM": "dumb", "PS1": PROMPT, **(more or {})}


def end_all(home: Path) -> None:
    """Kill the processes whose home this is: one in the background would write into the database of the next test."""
    mark = f"HOME={home}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if int(environ.parent.name) != os.getpid() and mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


def on_terminal(*argv: str, env: dict[str, str], columns: int = 80) -> str:
    """Return what a command prints on a terminal of so many columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    command = [sys.executable, "-m", "claude_sessions_cli", *argv]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **env}
    printing = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = b""
    # Linux reports the end of a terminal as an error.
    with suppress(OSError):
        while read := os.read(ours, 1 << 16):
            printed += read
    os.close(ours)
    assert printing.wait(60) == 0
    return printed.decode().replace("\r\n", "\n")


def bare(shown: str) -> list[str]:
    """Return the lines of a terminal without their styles."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


@dataclass(frozen=True)
class Answer:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The data of a JSON answer that succeeded."""
        assert self.code == 0, self
        data = json.loads(self.out)["data"]
        assert isinstance(data, dict)
        return data

    @property
    def session(self) -> str:
        """The session that `whoami --json` printed."""
        return str(self.data["session_id"])

    @property
    def winners(self) -> list[str]:
        """The winning rules of `whoami --json`."""
        return [rule["rule"] for rule in self.data["rules"] if rule["used"]]


class Keyboard:
    """An input that a test types commands into; each command's output, errors and exit code go to files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.status = "$?"

    def type(self, text: str) -> None:
        """Type a line."""
        raise NotImplementedError

    def seen(self) -> str:
        """Return what the screen showed."""
        raise NotImplementedError

    def run(self, text: str = WHOAMI) -> Answer:
        """Type a command and return its answer; `{out}` in it is the file to write to, else its output goes there."""
        stem = self.directory / f"answer-{next(_numbers)}"
        out, err, code = (stem.with_suffix(suffix) for suffix in (".out", ".err", ".code"))
        text = text.replace("{out}", str(out)) if "{out}" in text else f"{text} >{out}"
        self.type(f"{text} 2>{err}; echo {self.status} >{code}")
        written = until(lambda: code.exists() and code.read_text().endswith("\n"), f"{text}\n{self.seen()}")
        assert written
        read = [path.read_text() if path.exists() else "" for path in (out, err)]
        return Answer(int(code.read_text()), *read)


class Terminal(Keyboard):
    """A window: a program on a pseudoterminal of its own, a shell unless another is given."""

    def __init__(
        self,
        directory: Path,
        argv: Sequence[str] = SHELLS["bash"],
        more: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        super().__init__(directory)
        self._master, slave = os.openpty()
        self.tty = os.ttyname(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TAKE_TERMINAL, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(directory, more),
            cwd=cwd or directory,
        )
        os.close(slave)
        self.shell = self.process.pid
        self._speak(argv[0])
        self._seen = bytearray()
        self._closing, self._close = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # Keys typed before a shell has set its terminal up may be lost, and zsh prints before it has: wait for the
        # prompt if it is known.
        prompt = PROMPT.encode() if tuple(argv) in (SHELLS["bash"], SHELLS["zsh"]) else b""
        until(lambda: self._seen and prompt in self._seen, f"a prompt of {argv[0]}")

    @property
    def pid(self) -> int:
        """The pid of the program in the window."""
        return self.process.pid

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._master, text.encode() + b"\r")

    def enter(self, command: str, language: str = "bash") -> int:
        """Type a command that starts an inner shell, and return that shell's pid once it answers."""
        answer = self.directory / f"inner-{next(_numbers)}"
        self._speak(language)
        self.type(command)
        pid = "$fish_pid" if language == "fish" else "$$"
        patience = count()

        def answered() -> int | None:
            # Keys typed before the inner shell has set its terminal up may be lost: type them again later.
            if next(patience) % 50 == 0:
                self.type(f"echo {pid} >{answer}")
            text = answer.read_text() if answer.exists() else ""
            return int(text) if text.endswith("\n") and int(text) != self.shell else None

        self.shell = int(until(answered, f"a shell of {command}"))
        return self.shell

    def seen(self) -> str:
        """Return what the screen showed."""
        return self._seen.decode(errors="replace")

    def close(self) -> None:
        """Hang up, as closing a window does, and wait for its program."""
        if self.process.returncode is not None:
            return
        self.process.kill()
        self.process.wait()
        os.close(self._close)
        self._reader.join()
        os.close(self._closing)
        os.close(self._master)

    def _speak(self, language: str) -> None:
        self.status = "$status" if language == "fish" else "$?"

    def _read(self) -> None:
        while self._closing not in select([self._master, self._closing], [], [])[0]:
            try:
                read = os.read(self._master, 4096)
            except OSError:  # the last program on it has gone
                return
            if not read:
                return
            self._seen += read


class Tmux:
    """A tmux server on a socket of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Not below the test's own directory: a socket's path may have 107 bytes.
        self._home = Path(tempfile.mkdtemp(prefix="cs-"))
        self.command = ["tmux", "-S", str(self._home / "socket"), "-f", "/dev/null"]

    def call(self, *words: str, more: Mapping[str, str] | None = None) -> str:
        """Give tmux a command and return its output."""
        done = subprocess.run(
            [*self.command, *words],
            # tmux starts commands by $SHELL, which may be anything in the account that runs the tests.
            env=environment(self.directory, {"SHELL": "/bin/sh", **(more or {})}),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return done.stdout.strip()

    def pane(self, more: Mapping[str, str] | None = None) -> Pane:
        """Open a window with a shell that inherits `more` besides the server's environment."""
        inherited = [word for name, value in (more or {}).items() for word in ("-e", f"{name}={value}")]
        started = subprocess.run([*self.command, "has-session"], env=environment(self.directory), capture_output=True)
        verb = ["new-session", "-d", "-x", "200", "-y", "50"] if started.returncode else ["new-window", "-d"]
        name = self.call(*verb, *inherited, "-P", "-F", "#{pane_id}", shlex.join(SHELLS["bash"]))
        return Pane(self, name)

    def close(self) -> None:
        """End the server."""
        subprocess.run([*self.command, "kill-server"], env=environment(self.directory), capture_output=True)
        shutil.rmtree(self._home, ignore_errors=True)


class Pane(Keyboard):
    """One pane of a tmux server."""

    def __init__(self, tmux: Tmux, name: str) -> None:
        super().__init__(tmux.directory)
        self._tmux, self._name = tmux, name
        until(self.seen, "a prompt in the pane")

    @property
    def tty(self) -> str:
        """The pane's terminal."""
        return self._tmux.call("display-message", "-p", "-t", self._name, "#{pane_tty}")

    def type(self, text: str) -> None:
        """Type a line."""
        self._tmux.call("send-keys", "-t", self._name, "-l", text)
        self._tmux.call("send-keys", "-t", self._name, "Enter")

    def seen(self) -> str:
        """Return what the pane shows."""
        return self._tmux.call("capture-pane", "-p", "-t", self._name)


class Agent(Keyboard):
    """A long-lived process that starts each command in a session of its own, without a terminal, as agents do.

    `program` reads commands like a shell does; `argv` is what it calls itself and gets as arguments.
    """

    def __init__(
        self,
        directory: Path,
        program: Path,
        argv: Sequence[str],
        more: Mapping[str, str] | None = None,
        on: Keyboard | None = None,
    ) -> None:
        super().__init__(directory)
        self._commands = directory / f"commands-{next(_numbers)}"
        os.mkfifo(self._commands)
        words = ["exec", "-a", shlex.quote(argv[0]), shlex.quote(str(program)), *map(shlex.quote, argv[1:])]
        starter = f"{' '.join(words)} <{self._commands}"
        variables = environment(directory, more)
        self._on = on
        self._process: subprocess.Popen[bytes] | None = None
        if on is None:
            self._process = subprocess.Popen(
                ["bash", "-c", starter], env=variables, cwd=directory, start_new_session=True, stderr=subprocess.DEVNULL
            )
        else:
            exports = [f"{name}={shlex.quote(value)}" for name, value in (more or {}).items()]
            on.type(f"env {' '.join(exports)} bash -c {shlex.quote(starter)}")
        # Open for writing while the agent lives.
        self._pipe = self._commands.open("w")
        self.pid = int(self.run("echo $PPID").out)

    def type(self, text: str) -> None:
        """Run a command in the agent."""
        self._pipe.write(f"setsid -w sh -c {shlex.quote(text)}\n")
        self._pipe.flush()

    def seen(self) -> str:
        """Return what the terminal of the agent showed."""
        return self._on.seen() if self._on else ""

    def close(self) -> None:
        """End the agent, as its end of input does."""
        self._pipe.close()
        if self._process:
            self._process.wait(PATIENCE_S)
