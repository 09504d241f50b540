"""Hooked shells for tests: real shells on pseudoterminals, and a program that records its calls."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from poll import PATIENCE_S, until
from run_bench import is_alive
from terminal import Terminal

from claude_sessions_cli import process
from claude_sessions_cli.shell import hooks

_windows = count()
NEVER = 3600
STARTED_WITH = {
    "bash": ("bash", "--noprofile", "--rcfile", "{rc}", "-i"),
    "zsh": ("zsh", "-d", "-i"),
    "fish": ("fish", "--no-config", "--init-command", "source {rc}", "-i"),
}
PLAIN_PROMPT = {
    "bash": "PS1='ready> '",
    "zsh": "PROMPT='ready> '; unsetopt prompt_cr prompt_sp",
    "fish": "function fish_prompt; echo -n 'ready> '; end; function fish_greeting; end",
}
# Records its arguments, its streams, the signals it ignores and its identity variables.
RECORDER = """#!/bin/sh
exec 2>/dev/null
read -r _ ignored <<END
$(grep SigIgn /proc/$$/status)
END
printf '%s|%s|%s\\n' "$*" "${CLAUDE_SESSIONS_DSN-}" "${PGHOST-}/${PGPASSWORD-}" >>LOG.databases
printf '%s|%s|%s|%s|%s\\n' "$*" "$(readlink /proc/$$/fd/0)" "$(readlink /proc/$$/fd/1)" "$ignored" \\
    "${CLAUDE_SESSIONS_SESSION_ID-}/${CLAUDE_CODE_SESSION_ID-}/$CLAUDE_SESSIONS_SHELL" >>LOG
"""


@dataclass(frozen=True)
class Call:
    """One call of the program by a hook."""

    words: str
    stdin: str
    stdout: str
    ignored_signals: str
    environment: str

    @property
    def kind(self) -> str:
        """The purpose: `beat` or `end`."""
        first = self.words.split(" --quiet")[0]
        return {"heartbeat --register": "beat", "release --end": "end"}.get(first, first)

    def option(self, name: str) -> str:
        """Return the value of an option."""
        words = self.words.split()
        return words[words.index(name) + 1]


class Calls:
    """A program that only records its calls."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "recorder with 'a quote"
        self._log = directory / "calls"
        self.program.write_text(RECORDER.replace("LOG", shlex.quote(str(self._log))))
        self.program.chmod(0o755)

    def all(self) -> list[Call]:
        """Return the calls so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Call(*line.split("|")) for line in lines]

    def databases(self) -> list[tuple[str, str, str]]:
        """Return the purpose, the DSN, and host with password of each call, in alphabetical order."""
        log = self._log.with_name("calls.databases")
        lines = [line.split("|") for line in log.read_text().splitlines()]
        purposes = {"--elsewhere": "beat elsewhere"}
        return sorted(
            (purposes.get(words.split()[-1], Call(words, "", "", "", "").kind), dsn, host) for words, dsn, host in lines
        )

    def forget(self) -> None:
        """Forget the calls so far."""
        for log in (self._log, self._log.with_name("calls.databases")):
            log.unlink(missing_ok=True)

    def kinds(self) -> list[str]:
        """Return the kinds of the calls."""
        return [call.kind for call in self.all()]

    def wait(self, number: int) -> list[Call]:
        """Wait for a number of calls and return them."""
        until(lambda: len(self.all()) >= number, f"call number {number}")
        return self.all()


class Window(Terminal):
    """A window whose shell reads the lines of `start` first."""

    def __init__(
        self,
        directory: Path,
        shell: str,
        start: str = "",
        more: Mapping[str, str] | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        place = directory / f"window-{next(_windows)}"
        place.mkdir()
        rc = place / (".zshrc" if shell == "zsh" else "rc")
        rc.write_text(f"{PLAIN_PROMPT[shell]}\n{start}\n")
        alive = place / "alive"
        os.mkfifo(alive)
        self._alive = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        words = argv or [word.format(rc=rc) for word in STARTED_WITH[shell]]
        # Every process of the shell has the pipe open, and the last one closes it; the program's background calls close
        # it themselves, and are found by their environment.
        starter = ("sh", "-c", 'exec 9>"$0"; exec "$@"', str(alive), *words)
        self._is_closed = False
        self._mark = f"HOOKED_WINDOW={place}".encode()
        super().__init__(place, starter, {"ZDOTDIR": str(place), "HOOKED_WINDOW": str(place), **(more or {})})
        self._speak(shell)
        self.do("true")

    def do(self, line: str) -> None:
        """Type a line and wait until the shell has come back to its prompt."""
        self.type(line)
        self.run("true")

    def at_prompt(self, line: str = ".code") -> None:
        """Wait for the prompt after the last line, by default the one that ends a `do`."""
        pattern = re.compile(rf"{re.escape(line)}.*ready> (\x1b\[\S+)?$", re.DOTALL)
        until(lambda: pattern.search(self.seen()), f"a prompt\n{self.seen()!r}")

    def leave(self, language: str) -> None:
        """Leave an inner shell, for one that speaks another language."""
        inner, self.shell = self.shell, self.pid
        self.type("exit")
        until(lambda: not is_alive(inner), "the end of the inner shell")
        self._speak(language)
        self.do("true")

    def ask(self, text: str) -> str:
        """Return a text in double quotes as the shell expands it."""
        return self.run(f'echo "{text}"').out.rstrip("\n")

    def wait(self) -> None:
        """Wait until the shell and all that it started have ended."""
        self.process.wait(PATIENCE_S)
        until(self._is_gone, f"the end of what the shell started\n{self.seen()}")

    def hang_up(self) -> None:
        """Close the terminal's other side, as a terminal emulator that is closed does."""
        os.close(self._close)
        self._reader.join()
        os.close(self._closing)
        os.close(self._master)
        self._is_closed = True

    def close(self) -> None:
        """End the shell and everything that depends on it."""
        self.process.kill()
        self.process.wait()
        if not self._is_closed:
            self.hang_up()
        os.close(self._alive)

    def pipe_is_closed(self) -> bool:
        """Return whether no process holds the pipe open."""
        readable, _, _ = select.select([self._alive], [], [], 0)
        return bool(readable) and os.read(self._alive, 1) == b""

    def running(self) -> list[int]:
        """Return the processes that the shell has started, itself included, if there is /proc."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self._mark in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
        return found

    def _is_gone(self) -> bool:
        return self.pipe_is_closed() and not self.running()


def hook(directory: Path, shell: str, program: Path | Sequence[str], every: float = NEVER) -> str:
    """Write the hook of a shell and return the line that reads it."""
    words = [str(program)] if isinstance(program, Path) else list(program)
    rendered = directory / f"hook-{every:g}.{shell}"
    if not rendered.exists():
        rendered.write_text(hooks.render(shell, words, every))
    return f"source {shlex.quote(str(rendered))}"


HOOKS = Path(hooks.__file__).parent


Open = Callable[..., Window]


def rows(dsn: str) -> list[tuple[str, str | None, str, int | None]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(
            "SELECT session_id, sd_id, status, pid FROM public.claude_sessions ORDER BY created_at"
        ).fetchall()


def make_due(window: Window) -> None:
    """Make a heartbeat due at the next prompt."""
    fish = window.status == "$status"
    window.type("set -g __claude_sessions_next 0" if fish else "__claude_sessions_last=0 __claude_sessions_next=0")


def set_variables(window: Window, **values: str | None) -> None:
    """Export variables at the prompt, or unset them, as direnv does when the directory changes."""
    fish = window.status == "$status"
    words = []
    for name, value in values.items():
        if value is None:
            words.append(f"set -e {name}" if fish else f"unset {name}")
        else:
            words.append(f"set -gx {name} {shlex.quote(value)}" if fish else f"export {name}={shlex.quote(value)}")
    window.do("; ".join(words))


def shows_held_item(window: Window, states: Path) -> bool:
    """Return whether the prompt shows the item that the window's file names, held for twelve minutes."""
    state_of(states, window).write_text(f"held {int(time.time()) - 725} SD-1 s\n")
    window.do("true")
    return window.ask("$CLAUDE_SESSIONS_PROMPT") == "SD-1 12m"


def type_exit(window: Window) -> None:
    window.type("exit")


def type_end_of_input(window: Window) -> None:
    # A shell that changes the terminal's modes at that moment may miss the key: press it again.
    while window.process.poll() is None:
        with suppress(OSError):
            os.write(window._master, b"\x04")
        with suppress(subprocess.TimeoutExpired):
            window.process.wait(0.5)


def send_hangup(window: Window) -> None:
    window.process.send_signal(signal.SIGHUP)
    # A shell that had just checked for signals ends at its next key.
    with suppress(subprocess.TimeoutExpired):
        window.process.wait(1)
    if window.process.poll() is None:
        with suppress(OSError):
            os.write(window._master, b"\n")


def close_terminal(window: Window) -> None:
    window.hang_up()


def kill_shell(window: Window) -> None:
    window.process.kill()


def exec_true(window: Window) -> None:
    window.type("exec true")


def state_of(states: Path, window: Window) -> Path:
    """Return the file of a window's session."""
    return states / f"{window.pid}-{process.read(window.pid).start}"


def nested_line(opened: Window, tmp_path: Path, calls: Calls, shell: str) -> str:
    """Return a command that starts a hooked shell inside another."""
    place = opened.directory / "nested"
    place.mkdir()
    rc = place / (".zshrc" if shell == "zsh" else "rc")
    rc.write_text(f"{PLAIN_PROMPT[shell]}\n{hook(tmp_path, shell, calls.program)}\n")
    return {
        "bash": f"bash --noprofile --rcfile {rc} -i",
        "zsh": f"env ZDOTDIR={place} zsh -d -i",
        "fish": f"fish --no-config --init-command 'source {rc}' -i",
    }[shell]
