"""Processes of this host: their ancestry, and whether the one that a row records is alive.

Linux is read from `/proc`; elsewhere from one call of `ps` with a fixed locale and time zone, because a start time
that changed with the caller's settings would make a live process look like another one.
"""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from claude_sessions_cli.model import Liveness, Session

PROC = Path("/proc")
SHELLS = frozenset({"ash", "bash", "csh", "dash", "elvish", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh", "zsh"})
# Programs that run their command on a terminal of its own, which is still the same window to the person.
RELAYS = frozenset({"doas", "pkexec", "runuser", "script", "su", "sudo"})
_PS_FIELDS = "pid=,ppid=,tty=,stat=,lstart=,command="


@dataclass(frozen=True, slots=True)
class Process:
    """A process as the kernel shows it; `start` identifies it together with the pid until the next boot."""

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
        """Whether this is a Claude Code process, by its name or, where node runs it, by its script."""
        if self.name == "claude" or self.program == "claude":
            return True
        script = self.argv[1] if len(self.argv) > 1 else ""
        return self.program in ("node", "bun") and (
            script.endswith("/claude") or "/claude-code/" in script or "/@anthropic-ai/" in script
        )

    @property
    def is_interactive_shell(self) -> bool:
        """Whether this is a shell that a person types into, not one that runs a command string or a script."""
        if self.program not in SHELLS:
            return False
        takes_word = False
        for word in self.argv[1:]:
            if takes_word:
                takes_word = False
            elif not word.startswith(("-", "+")):
                return False  # a script
            elif word.startswith("--"):
                takes_word = word in ("--rcfile", "--init-file")
            elif "c" in word:
                return False
            else:
                takes_word = word[-1] in "oO"
        return True

    @property
    def is_relay(self) -> bool:
        """Whether this runs its command on a new terminal inside the same window."""
        return self.program in RELAYS


@dataclass(frozen=True, slots=True)
class Host:
    """What tells this host, this boot and this pid namespace from any other."""

    hostname: str
    boot_id: str
    pid_ns: str


@lru_cache(maxsize=1)
def this_host() -> Host:
    """Return where this process runs."""
    return Host(socket.gethostname(), _boot_id(), _pid_namespace())


def read(pid: int) -> Process:
    """Return the process `pid`.

    Raises ProcessLookupError where no such process exists (ESRCH), PermissionError where it is hidden from this user.
    """
    found = _read_proc(pid) if has_proc() else _read_ps([pid]).get(pid)
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


def ancestors(pid: int) -> list[Process]:
    """Return the ancestors of `pid` that this user may see, its parent first."""
    chain: list[Process] = []
    try:
        current = read(pid)
        while current.ppid > 0 and all(current.ppid != seen.pid for seen in chain):
            current = read(current.ppid)
            chain.append(current)
    except (ProcessLookupError, PermissionError):
        pass
    return chain


def liveness(session: Session, host: Host) -> Liveness:
    """Say whether the process that the row records is alive, as far as this host can prove it.

    Alive needs the same boot, namespace, pid and start (hostnames change with the network, boot ids do not); dead needs
    the same hostname besides, and a pid that does not exist, started at another time, or is a zombie.
    """
    record = session.process
    if record is None or (record.boot_id, record.pid_ns) != (host.boot_id, host.pid_ns):
        return Liveness.UNKNOWN
    here = session.hostname == host.hostname
    try:
        found = read(record.pid)
    except ProcessLookupError:
        return Liveness.DEAD if here else Liveness.UNKNOWN
    except PermissionError:
        return Liveness.UNKNOWN
    if found.start == record.start and not found.zombie:
        return Liveness.ALIVE
    return Liveness.DEAD if here else Liveness.UNKNOWN


def has_proc() -> bool:
    """Whether `/proc` is the source; elsewhere it is `ps`."""
    return (PROC / "self" / "stat").exists()


def _read_proc(pid: int) -> Process | None:
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
        cmdline = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name may hold spaces and brackets: the fields begin after the last one.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    argv = tuple(word.decode(errors="replace") for word in cmdline.split(b"\0")[:-1])
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        tty=_tty_name(int(fields[4])),
        start=fields[19].decode(),
        zombie=fields[0] in (b"Z", b"X", b"x"),
        name=head.partition(b"(")[2].decode(errors="replace"),
        argv=argv,
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


def _read_ps(pids: list[int]) -> dict[int, Process]:
    command = ["ps", "-o", _PS_FIELDS, "-p", ",".join(map(str, pids))]
    environment = {"PATH": "/bin:/usr/bin", "LC_ALL": "C", "TZ": "UTC"}
    output = subprocess.run(command, env=environment, capture_output=True, check=False).stdout
    found = (_parse_ps(line) for line in output.decode(errors="replace").splitlines())
    return {process.pid: process for process in found if process}


def _parse_ps(line: str) -> Process | None:
    words = line.split(None, 9)
    if len(words) < 9:
        return None
    argv = tuple(words[9].split()) if len(words) > 9 else ()
    tty = None if words[2] in ("?", "??", "-") else "/dev/" + words[2].removeprefix("/dev/")
    return Process(
        pid=int(words[0]),
        ppid=int(words[1]),
        tty=tty,
        start=" ".join(words[4:9]),
        zombie=words[3].startswith("Z"),
        name=argv[0].rsplit("/", 1)[-1] if argv else "",
        argv=argv,
    )


def _boot_id() -> str:
    if has_proc():
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    answer = subprocess.run(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, check=False)
    return answer.stdout.decode().strip()


def _pid_namespace() -> str:
    return str((PROC / "self/ns/pid").readlink()) if has_proc() else "none"
