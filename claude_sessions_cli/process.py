"""Processes of this host, their ancestors, and which programs they run.

Linux is read from `/proc`; elsewhere from `ps` with a fixed locale and time zone, because a start time that changed
with the caller's settings would make a live process look like another one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Set
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
PS = "ps"
ETC_SHELLS = Path("/etc/shells")
SHELLS = frozenset(
    {"ash", "bash", "bsd-csh", "csh", "dash", "elvish", "fish", "ksh", "lksh", "mksh", "nu", "oksh", "pwsh", "rbash"}
    | {"rksh", "rzsh", "sh", "tcsh", "xonsh", "yash", "zsh"}
)
# Programs that open a new terminal for the command, inside the same window.
RELAYS = frozenset(
    {"asciinema", "doas", "expect", "hatch", "pipenv", "pkexec", "poetry", "rlwrap", "runuser", "script", "su", "sudo"}
    | {"ttyrec", "unbuffer"}
)
# Programs that open terminals which are windows of their own. Debian lists two of them as shells.
MULTIPLEXERS = frozenset(
    {"dvtm", "emacs", "emacs-nox", "mtm", "nvim", "screen", "ssh", "tmux", "vi", "view", "vim", "zellij"}
)
_JAVASCRIPT = frozenset({"bun", "node", "nodejs"})
_INTERPRETERS = frozenset({"pypy", "python", "tclsh"})
_SCRIPTS = frozenset({"asciinema", "hatch", "pipenv", "poetry", "unbuffer", "xonsh"})
# One program that is many, by its first argument.
_BOXES = frozenset({"busybox", "toybox"})
_CLAUDE_NAMES = ("claude", "claude.exe")
_CLAUDE_TITLES = tuple(f"{name} " for name in _CLAUDE_NAMES)
_CLAUDE_VERSIONS = "/claude/versions/"
_VERSION = re.compile(r"(?:[-.]?[0-9][0-9.]*)?(?:-static)?")
# Shell options that take the next word, which is then not a script. Terminals start shells with some of them.
_LONG_OPTIONS_WITH_WORD = frozenset(
    {"--rcfile", "--init-file", "--init-command", "--features", "--debug"} | {"--rc", "--shell-type", "--config-path"}
)
_SHORT_OPTIONS_WITH_WORD = {"fish": "CdfoD"}
# One -o for each: POSIX lets a header, an empty one too, swallow the rest of its argument, and the BSDs do so.
_PS_COLUMNS = ("pid", "ppid", "pgid", "tty", "stat", "lstart", "ucomm", "command")


class Source(Enum):
    PROC = "proc"
    PS = "ps"
    NOTHING = "nothing"


class Process(NamedTuple):
    """A process as the kernel shows it; pid and `start` together identify it until the next boot."""

    pid: int
    ppid: int
    tty: str | None
    start: str
    zombie: bool
    name: str
    argv: tuple[str, ...] = ()
    group: int = 0

    @property
    def program(self) -> str:
        """The program's name, without the dash of a login shell."""
        if not self.command:
            return self.name
        called = self.command[0]
        return called.partition(" ")[0] if called.startswith(_CLAUDE_TITLES) else _base(called)

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments, from the known script that an interpreter runs, or from busybox's applet."""
        if not self.argv:
            return ()
        runner = _unversioned(_base(self.argv[0]))
        if runner in _BOXES:
            return self.argv[1:] or self.argv
        script = _from_script(self.argv[1:]) if runner in _INTERPRETERS else ()
        return script if script and _base(script[0]) in _SCRIPTS else self.argv

    @property
    def is_claude(self) -> bool:
        """Whether this is a Claude Code process: by its name, its title, its place or, if node runs it, its script."""
        if not {self.name, self.program}.isdisjoint(_CLAUDE_NAMES):
            return True
        # An installed version has a number for a name.
        if self.argv and _CLAUDE_VERSIONS in self.argv[0]:
            return True
        if self.name[:1].isdigit() and _CLAUDE_VERSIONS in _executable(self.pid):
            return True
        if self.program not in _JAVASCRIPT:
            return False
        script = next((word for word in self.argv[1:] if not word.startswith("-")), "")
        return script.endswith("/claude") or "/@anthropic-ai/claude-" in script

    def runs(self, names: Collection[str]) -> bool:
        """Whether this is one of these programs: by its name or, if node runs it, its script."""
        if not {self.name, self.program}.isdisjoint(names):
            return True
        if self.program not in _JAVASCRIPT:
            return False
        script = next((word for word in self.argv[1:] if not word.startswith("-")), "")
        return _base(script).removesuffix(".js").removesuffix(".mjs") in names

    @property
    def is_interactive_shell(self) -> bool:
        """Whether this is a shell that a person types into, not one that runs a command string or a script."""
        # A login shell may call itself anything: `su -` was long `-su`.
        shell = next((name for name in (self.program, self.name) if _is_shell(name)), None)
        if shell is None:
            return False
        shell = _unversioned(shell)
        takes_word = False
        for word in self.command[1:]:
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

    def relays(self, inner: str) -> bool:
        """Whether this runs its command on the terminal `inner` inside its own window, as sudo and script do."""
        if self.program in RELAYS:
            return True
        return MULTIPLEXERS.isdisjoint((self.program, self.name)) and _forwards_keys(self, inner)


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1].lstrip("-")


def _unversioned(name: str) -> str:
    """Return a program's name without its version, as in ksh93, bash-5.2 and zsh-static."""
    end = next((at for at in range(1, len(name)) if _VERSION.fullmatch(name, at)), len(name))
    return name[:end]


def _is_shell(name: str) -> bool:
    if name in RELAYS or name in MULTIPLEXERS:
        return False
    return name in SHELLS or _unversioned(name) in SHELLS or name in _listed_shells()


@lru_cache(maxsize=1)
def _listed_shells() -> frozenset[str]:
    """Return the names of the login shells of this host."""
    try:
        lines = ETC_SHELLS.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(_base(line.strip()) for line in lines if line.startswith("/"))


def _from_script(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return an interpreter's words from its script or module on; nothing if it runs neither."""
    for at, word in enumerate(words):
        if not word.startswith("-"):
            # The word before may belong to an option of Python.
            if at and words[at - 1] in ("-W", "-X", "--check-hash-based-pycs"):
                continue
            return words[at:]
        found = re.fullmatch(r"-[A-Za-z]*?([cm])(.*)", word) if not word.startswith(("--", "-W", "-X")) else None
        if found:
            rest = (found[2], *words[at + 1 :]) if found[2] else words[at + 1 :]
            return rest if found[1] == "m" else ()
    return ()


def _executable(pid: int) -> str:
    """Return the path of a process' executable; empty if it is hidden."""
    try:
        return str((PROC / str(pid) / "exe").readlink())
    except OSError:
        return ""


def _forwards_keys(process: Process, inner: str) -> bool:
    """Whether this process, of an unknown program, passes the keys of its own terminal on to `inner` and nowhere else.

    It reads its own in raw mode, in the foreground, and has no pseudoterminal but `inner` open. False if any of this is
    hidden, as without /proc.
    """
    if source() is not Source.PROC:
        return False
    directory = PROC / str(process.pid)
    try:
        if str((directory / "fd/0").readlink()) != process.tty:
            return False
        _, fields = _parse_stat((directory / "stat").read_bytes())
        # While a program is in the background, the line editor of its shell has the terminal in raw mode.
        if fields[2] != fields[5]:
            return False
        return _is_raw(directory / "fd/0") and _open_terminals(directory) == {inner}
    except OSError:
        return False


def _is_raw(terminal: Path) -> bool:
    import termios

    descriptor = os.open(terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        local_modes = termios.tcgetattr(descriptor)[3]
    except termios.error:
        return False
    finally:
        os.close(descriptor)
    return not local_modes & (termios.ICANON | termios.ECHO)


def _open_terminals(directory: Path) -> set[str]:
    """Return the pseudoterminals that a process has opened; one that an old kernel does not name has no number."""
    found = set()
    for entry in (directory / "fd").iterdir():
        if str(entry.readlink()) in ("/dev/ptmx", "/dev/pts/ptmx"):
            number = re.search(r"^tty-index:\s*(\d+)$", (directory / "fdinfo" / entry.name).read_text(), re.MULTILINE)
            found.add(f"/dev/pts/{number[1] if number else '?'}")
    return found


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


def alive_among(groups: Set[int]) -> set[int]:
    """Return the process groups that are alive; one that /proc hides from this user counts if it exists."""
    return {found.group for found in _living() if found.group in groups} | {*filter(_is_foreign, groups)}


def _is_foreign(group: int) -> bool:
    """Whether a process group exists, and this user may signal nothing in it."""
    try:
        os.killpg(group, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def with_descendants(groups: Set[int]) -> set[int]:
    """Return these process groups and those of all descendants: a shell with job control gives each job its own."""
    living, members, reached = _living(), set[int](), set(groups)
    while more := [
        found for found in living if found.pid not in members and (found.group in reached or found.ppid in members)
    ]:
        members |= {found.pid for found in more}
        reached |= {found.group for found in more}
    return reached


def _living() -> list[Process]:
    if source() is Source.PS:
        found: Iterable[Process | None] = _read_ps(None).values()
    else:
        found = (_read_proc(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdecimal())
    return [process for process in found if process and not process.zombie]


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
    name, fields = _parse_stat(stat)
    # A process that renamed itself may leave no NUL at the end, or several.
    words = cmdline.rstrip(b"\0").split(b"\0") if cmdline else []
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        tty=_tty_name(int(fields[4])),
        start=fields[19].decode(),
        # A process whose first thread ended before the others looks like a zombie.
        zombie=fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1,
        name=name,
        argv=tuple(word.decode(errors="replace") for word in words),
        group=int(fields[2]),
    )


def _parse_stat(stat: bytes) -> tuple[str, list[bytes]]:
    """Return the name, and the fields after it. The name may hold spaces and brackets."""
    head, _, tail = stat.rpartition(b")")
    return head.partition(b"(")[2].decode(errors="replace"), tail.split()


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
    words = line.split(None, 11)
    if len(words) < 11 or not all(word.isdecimal() for word in words[:3]):
        return None
    # ps does not mark the end of a word; no program that is recognised here needs it.
    argv = tuple(words[11].split()) if len(words) > 11 else ()
    return Process(
        pid=int(words[0]),
        ppid=int(words[1]),
        tty=None if words[3].strip("?-") == "" else "/dev/" + words[3].removeprefix("/dev/"),
        start="_".join(words[5:10]),
        zombie=words[4].startswith("Z"),
        name=words[10],
        argv=argv,
        group=int(words[2]),
    )


def run(command: list[str], **environment: str) -> str:
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace")
