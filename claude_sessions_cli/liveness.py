"""Alive, dead or unknown: what this host can prove of the process that a row records."""

from __future__ import annotations

import re
import socket
from binascii import crc32
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from claude_sessions_cli import guardian, process
from claude_sessions_cli.model import Liveness, ProcessRecord, Session
from claude_sessions_cli.times import uptime

MACHINE_ID = Path("/etc/machine-id")
_INITIAL_PID_NAMESPACES = ("pid:[4026531836]", "")
_INITIAL_TIME_NAMESPACE = "time:[4026531834]"


class Host(NamedTuple):
    """The names of this host, its boot, its pid namespace and its machine; empty if unknown."""

    hostname: str
    boot_id: str
    pid_ns: str
    machine_id: str = ""


@lru_cache(maxsize=1)
def this_host() -> Host:
    """Return the host of this process."""
    return Host(socket.gethostname(), _boot_id(), _pid_namespace(), _machine_id())


def liveness(session: Session, host: Host) -> Liveness:
    """Return whether a process that the row records is alive, as far as this host can prove it.

    Alive needs the same boot, namespace, pid and start (hostnames change with the network, boot ids do not); dead needs
    the same hostname besides, and a pid that does not exist, started at another time, or is a zombie. A session under
    which a command runs records its runner and its guardian too: it is alive if one of the three is, dead if all are.
    """
    known = liveness_of(session.process, session.hostname, host)
    runner, guardian = session.runner, session.guardian
    if runner is None or known is Liveness.ALIVE or is_of_earlier_boot(runner, session, host):
        return known
    judged = {known, liveness_of(runner, session.hostname, host)}
    if guardian is not None:
        judged.add(liveness_of(guardian, session.hostname, host))
    if Liveness.ALIVE in judged:
        return Liveness.ALIVE
    return Liveness.DEAD if judged == {Liveness.DEAD} else Liveness.UNKNOWN


def is_of_earlier_boot(record: ProcessRecord | None, session: Session, host: Host) -> bool:
    """Whether a process that a session records ran on this machine before it booted last.

    A hostname and a machine id can be copied with an image, so the session must have been silent since the boot too.
    """
    return (
        record is not None
        and bool(host.machine_id)
        and (record.machine_id, session.hostname) == (host.machine_id, host.hostname)
        and record.pid_ns in _INITIAL_PID_NAMESPACES
        and host.pid_ns in _INITIAL_PID_NAMESPACES
        and record.boot_id != host.boot_id
        and session.heartbeat_age_s > uptime()
    )


def may_run(session: Session, host: Host) -> bool:
    """Whether the command that a session records may still run: its processes are not all proven dead."""
    if session.runner is None or is_of_earlier_boot(session.runner, session, host):
        return False
    records = [record for record in (session.runner, session.guardian) if record]
    return any(liveness_of(record, host.hostname, host) is not Liveness.DEAD for record in records)


def runs(session: Session, host: Host) -> bool:
    """Whether the command that a session records is proven to run here, or is being ended."""
    records = (session.runner, session.guardian)
    return any(liveness_of(record, host.hostname, host) is Liveness.ALIVE for record in records)


def is_gone(session: Session, host: Host) -> bool:
    """Whether the session's own process is proven dead, whatever command it has left running."""
    return liveness_of(session.process, session.hostname, host) is Liveness.DEAD


def group_left(session: Session, host: Host) -> int | None:
    """Return the process group that a guardian is ending here; None if its runner lives, or ran elsewhere."""
    if session.guardian is None or liveness_of(session.guardian, host.hostname, host) is not Liveness.ALIVE:
        return None
    try:
        return guardian.group_of(process.read(session.guardian.pid))
    except (ProcessLookupError, PermissionError):
        return None


def liveness_of(record: ProcessRecord | None, hostname: str | None, host: Host) -> Liveness:
    """Return the liveness of one process that was recorded on `hostname`."""
    if record is None or record.pid <= 0 or not (host.boot_id and host.pid_ns):
        return Liveness.UNKNOWN
    if (record.boot_id, record.pid_ns) != (host.boot_id, host.pid_ns):
        return Liveness.UNKNOWN
    gone = Liveness.DEAD if hostname == host.hostname else Liveness.UNKNOWN
    try:
        found = process.read(record.pid)
    except ProcessLookupError:
        return gone
    except PermissionError:
        return Liveness.UNKNOWN
    if found.zombie:
        return gone
    if found.start == record.start:
        return Liveness.ALIVE
    # A start in another format was read by other means, and proves nothing.
    return gone if _shape(found.start) == _shape(record.start) else Liveness.UNKNOWN


def _shape(start: str) -> tuple[bool, int]:
    return start.isdecimal(), start.count(":")


def _boot_id() -> str:
    try:
        return (process.PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return process.run(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]).strip()


def _machine_id() -> str:
    """Return a name of this machine that outlives a boot.

    It is a checksum, because the id itself is confidential.
    """
    try:
        text = MACHINE_ID.read_text().strip()
    except (OSError, ValueError):
        return ""
    return f"{crc32(text.encode()):08x}" if re.fullmatch("[0-9a-f]{32}", text) else ""


def _pid_namespace() -> str:
    if process.source() is process.Source.PS:
        return "none"
    try:
        namespace = str((process.PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
    try:
        clock = str((process.PROC / "self/ns/time").readlink())
    except OSError:
        return namespace
    # In a time namespace of its own, the same process shows another start.
    return namespace if clock == _INITIAL_TIME_NAMESPACE else f"{namespace} {clock}"
