"""Processes of this host, their ancestors, and which programs they run.

Linux is read from `/proc`; elsewhere from `ps` with a fixed locale and time zone, because a start time that changed
with the caller's settings would make a live process look like another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

PROC = Path("/proc")
PS = "ps"
SHELLS = frozenset({"ash", "bash", "csh", "dash", "elvish", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh", "zsh"})
# Programs that open a new terminal for the command, inside the same window.
RELAYS = frozenset({"doas", "pkexec", "runuser", "script", "su", "sudo"})
_JAVASCRIPT = frozenset({"bun", "node", "nodejs"})
# Shell options that take the next word, which is then not a script. Terminals start shells with some of them.
_LONG_OPTIONS_WITH_WORD = frozenset({"--rcfile", "--init-file", "--init-command", "--features", "--debug"})
_SHORT_OPTIONS_WITH_WORD = {"fish": "CdfoD"}
# One -o for each: POSIX lets a header, an empty one too, swallow the rest of its argument, and the BSDs do so.
_PS_COLUMNS = ("pid", "ppid", "tty", "stat", "lstart", "ucomm", "command")


class Source(Enum):
    PROC = "proc"
    PS = "ps"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Process:
    """A process as the kernel shows it; pid and `start` together identify it until the next boot."""

    pid: int
    ppid: int
    tty: str | None
    start: str
    zombie: bool
    name: str
    argv: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """The program's name, without the dash of a login shell."""
        return (self.argv[0].rsplit("/", 1)[-1] if self.argv else self.name).lstrip("-")

    @property
    def is_claude(self) -> bool:
        """Whether this is a Claude Code process, by its name or, if node runs it, by its script."""
        if "claude" in (self.name, self.program):
            return True
        if self.program not in _JAVASCRIPT:
            return False
        script = next((word for word in self.argv[1:] if not word.startswith("-")), "")
        return script.endswith("/claude") or "/@anthropic-ai/claude-" in script

    @property
    def is_interactive_shell(self) -> bool:
        """Whether this is a shell that a person types into, not one that runs a command string or a script."""
        # A login shell may call itself anything: `su -` was long `-su`.
        shell = self.program if self.program in SHELLS else self.name
        if shell not in SHELLS:
            return False
        takes_word = False
        for word in self.argv[1:]:
            if takes_word:
                takes_word = False
            elif not word.startswith(("-", "+")):
                return False  # a script
            elif word.startswith("--"):
                if word.startswith("--command"):
                    return False
                takes_word = word in _LONG_OPTIONS_WITH_WORD
            elif "c" in word:
                return False
            else:
                takes_word = word[-1] in _SHORT_OPTIONS_WITH_WORD.get(shell, "oO")
        return True

    @property
    def is_relay(self) -> bool:
        """Whether this runs its command on a new terminal inside the same window."""
        return self.program in RELAYS


def this_program(called: str) -> list[str]:
    """Return the words that run this program from any directory; `called` is its argv[0]."""
    import shutil  # slow to import, and seldom needed

    script = Path(called).absolute()
    if script.name != "__main__.py" and os.access(script, os.X_OK):
        return [str(script)]
    beside = Path(sys.executable).with_name("claude-sessions")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    found = shutil.which("claude-sessions")
    return [str(Path(found).absolute())] if found else [sys.executable, "-m", "claude_sessions_cli"]


def read(pid: int) -> Process:
    """Return the process `pid`.

    Raises ProcessLookupError if it does not exist (ESRCH), PermissionError if it is hidden from this user.
    """
    found = _look_up(pid)
    if found is not None:
        return found
    if pid > 0:
        try:
            os.kill(pid, 0)
        except OverflowError:
            raise ProcessLookupError(pid) from None
        except PermissionError:
            pass
        raise PermissionError(f"process {pid} is hidden from this user")
    raise ProcessLookupError(pid)


def lineage(pid: int) -> list[Process]:
    """Return `pid` and its ancestors, nearest first, as far as this user may see them."""
    # ps costs as much for one process as for all.
    look_up: Callable[[int], Process | None] = _read_ps(None).get if source() is Source.PS else _look_up
    chain: list[Process] = []
    current = look_up(pid)
    while current is not None and all(current.pid != seen.pid for seen in chain):
        chain.append(current)
        current = look_up(current.ppid) if current.ppid > 0 else None
    return chain


@lru_cache(maxsize=1)
def source() -> Source:
    """Return where processes are read.

    A /proc that shows this process under another pid belongs to another pid namespace, and its pids are other
    processes.
    """
    try:
        own = (PROC / "self").readlink().name
    except OSError:
        return Source.NOTHING if (PROC / "uptime").exists() else Source.PS
    return Source.PROC if own == str(os.getpid()) else Source.NOTHING


def _look_up(pid: int) -> Process | None:
    found = source()
    if found is Source.PROC:
        return _read_proc(pid)
    return _read_ps(pid).get(pid) if found is Source.PS else None


def _read_proc(pid: int) -> Process | None:
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
        cmdline = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name may hold spaces and brackets: the fields begin after the last one.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    # A process that renamed itself may leave no NUL at the end, or several.
    words = cmdline.rstrip(b"\0").split(b"\0") if cmdline else []
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        tty=_tty_name(int(fields[4])),
        start=fields[19].decode(),
        # A process whose first thread ended before the others looks like a zombie.
        zombie=fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1,
        name=head.partition(b"(")[2].decode(errors="replace"),
        argv=tuple(word.decode(errors="replace") for word in words),
    )


def _tty_name(device: int) -> str | None:
    # The encoding of tty_nr is that of proc(5); majors 136 to 143 are the Unix98 pseudoterminals.
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    if device == 0:
        return None
    if 136 <= major <= 143:
        return f"/dev/pts/{(major - 136) * 256 + minor}"
    try:
        return "/dev/" + (Path("/sys/dev/char") / f"{major}:{minor}").readlink().name
    except OSError:
        return None


def _read_ps(pid: int | None) -> dict[int, Process]:
    """Return the process `pid`, or all of them for None."""
    which = ["-A"] if pid is None else ["-p", str(pid)]
    columns = [word for name in _PS_COLUMNS for word in ("-o", f"{name}=")]
    # Wide: without a terminal the BSDs cut lines at 79 columns.
    output = run([PS, "-ww", *which, *columns], PATH="/bin:/usr/bin", LC_ALL="C", TZ="UTC")
    found = (_parse_ps(line) for line in output.splitlines())
    return {process.pid: process for process in found if process}


def _parse_ps(line: str) -> Process | None:
    words = line.split(None, 10)
    if len(words) < 10 or not (words[0].isdecimal() and words[1].isdecimal()):
        return None
    # ps does not mark the end of a word; no program that is recognised here needs it.
    argv = tuple(words[10].split()) if len(words) > 10 else ()
    return Process(
        pid=int(words[0]),
        ppid=int(words[1]),
        tty=None if words[2].strip("?-") == "" else "/dev/" + words[2].removeprefix("/dev/"),
        start="_".join(words[4:9]),
        zombie=words[3].startswith("Z"),
        name=words[9],
        argv=argv,
    )


def run(command: list[str], **environment: str) -> str:
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace")
