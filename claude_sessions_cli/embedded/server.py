"""The private Postgres server, which holds the sessions if no other database is configured."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from claude_sessions_cli import files, settings
from claude_sessions_cli.embedded import cluster
from claude_sessions_cli.embedded.cluster import ELSEWHERE, SOCKET, Paths
from claude_sessions_cli.errors import Unreachable

WAIT_SECONDS = 15.0
START = "start it: claude-sessions db start"
STOP_SECONDS = 60.0
MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes on Linux, 104 on macOS


@dataclass(frozen=True)
class Status:
    """The state of the server and its files; `stopped` says that `db stop` was its last command."""

    running: bool
    stopped: bool
    pid: int | None
    data_dir: Path
    socket_dir: Path
    log: Path
    version: str | None
    started_at: datetime | None = None


def ensure(announce: Callable[[str], None]) -> str:
    """Return the DSN of the running server; start it, and create it, if needed. Raises Unreachable."""
    with trusted() as paths:
        if not _is_ready(paths):
            _start(paths, announce)
    return paths.dsn


def running_dsn() -> str:
    """Return the DSN of the running server, for callers that must not start it. Raises Unreachable."""
    if not status().running:
        raise Unreachable("no database is configured, and the private server is not running", START)
    return dsn()


def stop() -> bool:
    """Shut the server down, wait for its last process, and leave a mark; return False if it was not running."""
    with trusted() as paths:
        if not paths.lock.exists():
            return False
        files.write(paths.stopped, b"")  # first: no timer starts it again meanwhile
        try:
            with stopped(paths) as (_, was_running):
                return was_running
        except Unreachable:
            paths.stopped.unlink()
            raise


def status() -> Status:
    """Return the state of the server, without touching it. Raises Unreachable, UsageError if it has no place."""
    with trusted() as paths:
        pid = _listener(paths) if _is_ready(paths) else None
        version = None
        with suppress(OSError):
            version = cluster.version_of(paths.cluster)
        started_at = _start_of(paths) if pid is not None else None
        return Status(
            running=pid is not None,
            stopped=pid is None and paths.stopped.exists(),
            pid=pid or None,
            data_dir=paths.home,
            socket_dir=paths.socket_dir,
            log=paths.log,
            version=version,
            started_at=started_at,
        )


def dsn() -> str:
    """Return the DSN, whether the server is running or not."""
    return _locate().dsn


def schema_marker() -> Path:
    """Return the file that records which schema version was applied; a new cluster begins without it."""
    return _locate().marker


def _locate() -> Paths:
    if configured := os.environ.get("CLAUDE_SESSIONS_DATA_DIR"):
        try:
            home = Path(configured).expanduser().absolute()
        except (OSError, RuntimeError) as error:  # the working directory is gone, or `~name` names nobody
            raise Unreachable(
                f"CLAUDE_SESSIONS_DATA_DIR is not a path here: {error}", "write an absolute one"
            ) from None
    elif os.geteuid() == 0:
        home = Path("/var/lib/claude-sessions")  # another account must reach it, and /root is closed
    else:
        home = settings.platform_directory("data")
    cluster = home / "postgres"
    socket_dir = cluster
    # libpq ends a host name at a comma.
    if len(os.fsencode(cluster / SOCKET)) > MAX_SOCKET_PATH or "," in str(cluster):
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        socket_dir = Path(f"/tmp/claude-sessions-{os.geteuid()}-{digest}") / "socket"
    lock, log, marker, mark = (home / name for name in ("postgres.lock", "postgres.log", "schema-applied", "stopped"))
    return Paths(home, cluster, lock, log, marker, mark, socket_dir)


@contextmanager
def trusted() -> Iterator[Paths]:
    """Yield the places of the files. Raises Unreachable for a stranger's, and for any error of the file system."""
    paths = _locate()
    try:
        # As root, the cluster is that of the server's account, in a directory that this account cannot write.
        for path in (paths.home, *([paths.cluster] if os.geteuid() else []), paths.lock):
            with suppress(FileNotFoundError, NotADirectoryError):
                if stranger := files.stranger_of(path):
                    raise Unreachable(
                        f"{path} is not used: {stranger} may write it",
                        f"chown {os.geteuid()} and chmod go-w it, or {ELSEWHERE}",
                    )
        with suppress(FileNotFoundError, NotADirectoryError):
            # Root, and under sudo the account that called it, are no strangers, but a server admits one account alone.
            if (owner := paths.lock.stat().st_uid) != os.geteuid():
                raise Unreachable(f"the server in {paths.home} belongs to another account (uid {owner})", ELSEWHERE)
        yield paths
    except OSError as error:
        raise Unreachable(f"cannot use {error.filename or paths.home}: {error.strerror or error}", ELSEWHERE) from error


def _is_ready(paths: Paths) -> bool:
    with suppress(OSError, IndexError):
        return _pid_file(paths)[7].strip() == b"ready" and _listener(paths) is not None
    return False


def _start_of(paths: Paths) -> datetime | None:
    """Return when the server started, in its own words."""
    with suppress(OSError, IndexError, ValueError, OverflowError):
        return datetime.fromtimestamp(int(_pid_file(paths)[2]), timezone.utc)
    return None


def _pid_file(paths: Paths) -> list[bytes]:
    return files.read(paths.cluster / "postmaster.pid").split(b"\n")


def _listener(paths: Paths) -> int | None:
    """Return the pid that listens on the socket: None if nothing does, 0 for one in another pid namespace."""
    if paths.socket_dir != paths.cluster:
        _link_socket_dir(paths)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(paths.socket_dir / SOCKET))
        except (BlockingIOError, TimeoutError):
            return 0  # its queue is full: it is busy, but running
        except OSError:
            return None
        if sys.platform == "darwin":
            return probe.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(pid)


def _link_socket_dir(paths: Paths) -> None:
    """Give the cluster a short second path, through a directory that only this user can write."""
    private = paths.socket_dir.parent
    with suppress(FileExistsError):
        private.mkdir(0o700)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Unreachable(f"{private} is not a private directory of this user", f"remove it, or {ELSEWHERE}")
    with suppress(FileExistsError):
        paths.socket_dir.symlink_to(paths.cluster)


def _start(paths: Paths, announce: Callable[[str], None]) -> None:
    install = cluster.find_install(paths.cluster)
    account = cluster.server_account(paths.cluster)
    cluster.make_home(paths.home, account)
    lock = _lock_unless_ready(paths)
    if lock is None:
        return
    try:
        fresh = not (paths.cluster / "PG_VERSION").exists()
        announce(f"{'creating' if fresh else 'starting'} the private Postgres server in {paths.home}")
        install = cluster.within_reach(paths.home, install, account)
        if fresh:
            cluster.create(paths, install, account, lock)
        cluster.write_access_rules(paths.home)
        server, begin = cluster.launch(paths, install, account, lock)
        _await_ready(paths, server, begin)
        paths.stopped.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _try_lock(paths: Paths) -> int | None:
    lock = files.open_own(paths.lock, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def _lock_unless_ready(paths: Paths) -> int | None:
    """Take the lock that every server process holds; return None if another command started a server."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (lock := _try_lock(paths)) is None:
        if _is_ready(paths):
            return None
        if time.monotonic() > deadline:
            raise Unreachable(
                f"{paths.lock} is held, but no server answers at {paths.socket_dir / SOCKET}",
                f"another host or container may run it, or it is still starting: see {paths.log}; or {ELSEWHERE}",
            )
        time.sleep(0.02)
    if _is_ready(paths):
        os.close(lock)
        return None
    return lock


def _await_ready(paths: Paths, server: subprocess.Popen[bytes], log_begin: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while not _is_ready(paths):
            if server.poll() is not None:
                said = cluster.last_complaint(files.read(paths.log)[log_begin:])
                raise Unreachable(f"the private server did not start: {said}", f"see {paths.log}")
            if time.monotonic() > deadline:
                raise Unreachable("the private server is still starting", f"try again later, or see {paths.log}")
            time.sleep(0.005)
    finally:
        if server.returncode is None:
            server.returncode = 0  # it outlives this process, which must neither wait for it nor warn about it


@contextmanager
def stopped(paths: Paths) -> Iterator[tuple[int, bool]]:
    """Request a fast shutdown, and yield the lock, which the last process has left, and whether there was a server."""
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while (lock := _try_lock(paths)) is None:
        if not asked and (pid := _listener(paths)) is not None:
            if pid == 0:
                raise Unreachable("the server runs in another container", "stop it there, with the same command")
            os.kill(pid, signal.SIGINT)
            asked = True
        if time.monotonic() > deadline:
            raise Unreachable(f"{paths.lock} is still held", f"another host may run the server; see {paths.log}")
        time.sleep(0.01)
    try:
        yield lock, asked
    finally:
        os.close(lock)
