"""A Postgres server that a test may break, and PgBouncer in front of it, both as an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from poll import until

from claude_sessions_cli.embedded import cluster
from claude_sessions_cli.errors import Unreachable

NAME = "faults"
PORT = "6432"
POOL_SIZE = 4


@dataclass
class Home:
    """A directory of an account that is not root's, and programs that run as that account."""

    path: Path
    account: pwd.struct_passwd
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def options(self) -> dict[str, Any]:
        """Return the Popen options that run a program as the account."""
        identity = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return {
            "cwd": self.path,
            "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"},
            "stdin": subprocess.DEVNULL,
            "stdout": (self.path / "log").open("ab"),
            "stderr": subprocess.STDOUT,
            "start_new_session": True,
            **(identity if os.geteuid() == 0 else {}),
        }

    def run(self, *command: str) -> None:
        """Run a program to its end."""
        options = self.options()
        with options["stdout"]:
            assert subprocess.run(command, **options).returncode == 0, (self.path / "log").read_text()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program that ends with the test."""
        options = self.options()
        with options["stdout"]:
            self.running.append(subprocess.Popen(command, **options))
        return self.running[-1]


@contextmanager
def _home() -> Iterator[Home]:
    # Not pytest's own: a socket's path must be short, and another account must reach it.
    path = Path(tempfile.mkdtemp(prefix="cs-faults-", dir="/tmp"))
    home = Home(path, cluster.server_account(path / "none"))
    try:
        if os.geteuid() == 0:
            path.chmod(0o700)
            os.chown(path, home.account.pw_uid, home.account.pw_gid)
        yield home
    finally:
        for process in reversed(home.running):
            # A fast shutdown.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class PrivateServer:
    """A server that trusts every client of its socket, which is in a private directory."""

    home: Home
    programs: Path
    data: str = "data"
    port: int = 5432
    process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The DSN of the maintenance database."""
        return f"host={self.home.path} port={self.port} user={NAME} dbname=postgres"

    def create(self, name: str) -> str:
        """Create a database and return its DSN."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return psycopg.conninfo.make_conninfo(self.dsn, dbname=name)

    def start(self, listen_addresses: str = "") -> None:
        """Start the server and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": listen_addresses,
            "unix_socket_directories": self.home.path,
            "max_connections": 100,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        data = str(self.home.path / self.data)
        self.process = self.home.start(str(self.programs / "postgres"), "-D", data, *options)
        until(lambda: _answers(self.dsn), "the private server starts")

    def stop_immediately(self) -> None:
        """Stop like `pg_ctl stop -m immediate`: the next start recovers."""
        assert self.process
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(60)
        self.home.running.remove(self.process)

    def kill_backend(self) -> None:
        """Kill one of the server's processes, on which all of them end and the server recovers by itself."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            with suppress(psycopg.OperationalError):
                connection.execute("SELECT")
        until(lambda: _answers(self.dsn), "the private server recovers")


@contextmanager
def private_server(programs: Path | None = None) -> Iterator[PrivateServer]:
    """Start a private server from the programs of a directory, else from the embedded ones or the system's newest."""
    with _home() as home:
        server = PrivateServer(home, programs or _programs(home))
        home.run(str(server.programs / "initdb"), "-D", "data", "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C")
        server.start()
        yield server


@contextmanager
def standby(primary: PrivateServer) -> Iterator[PrivateServer]:
    """Start a hot standby that follows a private server."""
    backup = str(primary.programs / "pg_basebackup")
    place = ["-h", str(primary.home.path), "-p", str(primary.port), "-U", NAME]
    primary.home.run(backup, *place, "-D", "standby", "--write-recovery-conf", "--checkpoint=fast")
    server = PrivateServer(primary.home, primary.programs, "standby", primary.port + 1)
    server.start()
    yield server


def _programs(home: Home) -> Path:
    try:
        install = cluster.find_install(home.path / "none")
        return cluster.within_reach(home.path, install, home.account) / "bin"
    except Unreachable:
        return system_programs("no Postgres programs: neither the embedded extra nor /usr/lib/postgresql is installed")


def system_programs(reason: str) -> Path:
    """Return the directory of the system's newest Postgres programs; skip the test without them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not found:
        pytest.skip(reason)
    return found[-1]


@contextmanager
def pgbouncer(server: PrivateServer, mode: str = "transaction") -> Iterator[Callable[[str], str]]:
    """Start PgBouncer in a mode before a server; yield a function from a DSN to the one through PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    home = server.home
    (home.path / "users").write_text(f'"{NAME}" ""\n')
    (home.path / "ini").write_text(
        f"[databases]\n* = host={home.path} port=5432\n[pgbouncer]\n"
        f"listen_addr =\nlisten_port = {PORT}\nunix_socket_dir = {home.path}\n"
        f"auth_type = trust\nauth_file = {home.path}/users\n"
        f"pool_mode = {mode}\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 1000\n"
    )
    for name in ("users", "ini"):
        (home.path / name).chmod(0o644)
    process = home.start(program, str(home.path / "ini"))
    through = psycopg.conninfo.make_conninfo(server.dsn, port=PORT)
    try:
        until(lambda: _answers(through), f"PgBouncer starts; its log is {home.path / 'log'}")
        yield lambda dsn: psycopg.conninfo.make_conninfo(dsn, port=PORT)
    finally:
        process.terminate()
        process.wait(30)
        home.running.remove(process)


def _answers(dsn: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(dsn):
        return True
    return False
