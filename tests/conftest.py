"""Real Postgres for every test: a given DSN, else a Docker container, else the private server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from claude_sessions_cli import cli as program
from claude_sessions_cli import database, queries
from claude_sessions_cli.database import Database
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.identity import Identity
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.process import Process
from claude_sessions_cli.settings import Settings
from claude_sessions_cli.transaction import Rows, Statement

FOREIGN = ("CLAUDE", "PG", "SUDO_", "DOAS_")
CHECKOUT = Path(__file__).resolve().parents[1]
# Skipped only for root: every other user can read their own checkout.
needs_open_checkout = pytest.mark.skipif(
    os.geteuid() == 0 and not all(place.stat().st_mode & 0o001 for place in (CHECKOUT, *CHECKOUT.parents)),
    reason="other accounts cannot read this checkout",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers. Each starts its own server, unless CLAUDE_SESSIONS_TEST_DSN names one for all."""
    # Many tests wait for a server or a process, so there is room for more workers than processors.
    return 0 if os.environ.get("CLAUDE_SESSIONS_TEST_DSN") else 2 * (os.cpu_count() or 1)


SOURCES = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the list of servers used, and restore the default signals for child processes."""
    config.stash[SOURCES] = set[str]()
    # Commands are compiled once, as for users.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Background jobs of scripts, and nohup, ignore these signals, and their children inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Record the server of a worker."""
    # A crashed worker has no output.
    node.config.stash[SOURCES].update(getattr(node, "workeroutput", {}).get("postgres", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the server of this worker to the controlling process."""
    if hasattr(session.config, "workeroutput"):
        sources = session.config.stash[SOURCES]
        session.config.workeroutput["postgres"] = [*sources]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the Postgres servers of this run."""
    for source in terminalreporter.config.stash[SOURCES]:
        terminalreporter.line(f"Postgres: {source}")


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the developer's settings and directories by those of the test."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name != "CLAUDE_SESSIONS_TEST_DSN":
            monkeypatch.delenv(name)
    # Config and state are below it.
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # The data of root are not, and may belong to a server in use. A line of a crontab would repeat the variable.
    if "in_private_cron" not in request.fixturenames:
        monkeypatch.setenv("CLAUDE_SESSIONS_DATA_DIR", str(tmp_path / ".local/share/claude-sessions"))


@dataclass(frozen=True)
class Server:
    """A Postgres server that tests may create databases and roles on."""

    dsn: str
    source: str

    def database(self, name: str) -> str:
        """Return the DSN of another database on this server."""
        return psycopg.conninfo.make_conninfo(self.dsn, dbname=name)

    def create(self, name: str, extra: str = "") -> str:
        """Create a database, replacing any of the same name, and return its DSN."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}" {extra}')
        return self.database(name)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return the server that this run uses."""
    with ExitStack() as stack:
        given = os.environ.get("CLAUDE_SESSIONS_TEST_DSN")
        found = Server(given, "CLAUDE_SESSIONS_TEST_DSN") if given else _container(stack) or _embedded(stack)
        request.config.stash[SOURCES].add(found.source)
        yield found


def _container(stack: ExitStack) -> Server | None:
    # Without an engine the client library leaks a socket, and testcontainers prints deprecation warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import docker  # type: ignore[import-untyped]
        from testcontainers.postgres import PostgresContainer

        engine = False
        with suppress(docker.errors.DockerException):
            docker.from_env().close()
            engine = True
        gc.collect()
        if not engine:
            return None
        container = stack.enter_context(PostgresContainer("postgres:15", driver=None))
        return Server(container.get_connection_url(), "a Docker container of postgres:15")


def _embedded(stack: ExitStack) -> Server:
    # For root, the server runs as another account, which must reach this directory.
    directory = tempfile.mkdtemp(prefix="claude-sessions-test-")
    Path(directory).chmod(0o755)
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("CLAUDE_SESSIONS_DATA_DIR", directory)
    # All workers start their servers at the same time.
    patch.setattr(embedded, "WAIT_SECONDS", 120.0)
    dsn = embedded.ensure(lambda _: None)
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The data need not survive a crash, and the tests create many databases.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    version = embedded.status().version

    def stop() -> None:
        with pytest.MonkeyPatch.context() as again:
            again.setenv("CLAUDE_SESSIONS_DATA_DIR", directory)
            embedded.stop()

    stack.callback(stop)
    return Server(dsn, f"the private server, {version}")


@pytest.fixture(scope="session")
def _full_database(server: Server) -> str:
    dsn = server.create("cs_full")
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    return dsn


@pytest.fixture(scope="session")
def _seed_database(server: Server) -> str:
    dsn = server.create("cs_seed")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((queries.directory() / "ddl/001_claude_sessions.sql").read_bytes())
    return dsn


def _emptied(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        # DELETE takes a third of the time of TRUNCATE on tables of a few rows. As a replica, no trigger records it.
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM public.claude_sessions")
        if connection.execute("SELECT to_regclass('public.claude_session_events')").fetchone() != (None,):
            connection.execute("DELETE FROM public.claude_session_events")
    return dsn


@pytest.fixture
def dsn(_full_database: str) -> str:
    """Return the DSN of an empty table under the whole schema."""
    return _emptied(_full_database)


@pytest.fixture
def seed_dsn(_seed_database: str) -> str:
    """Return the DSN of an empty table that has only `001`."""
    return _emptied(_seed_database)


@pytest.fixture(params=["001 alone", "whole schema"])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table, once of the seed and once under the whole schema."""
    return dsn_of(request)


def dsn_of(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table under the schema of a fixture's parameter."""
    name = "seed_dsn" if request.param == "001 alone" else "dsn"
    return str(request.getfixturevalue(name))


@pytest.fixture
def fresh_database(server: Server) -> Iterator[Callable[..., str]]:
    """Return a function that creates a database without a table and returns its DSN."""
    made: list[str] = []

    def create(extra: str = "") -> str:
        made.append(f"cs_fresh_{len(made)}")
        return server.create(made[-1], extra)

    yield create
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for name in made:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def make_role(server: Server) -> Iterator[Callable[..., str]]:
    """Return a function that creates a role; request it before `fresh_database`, whose databases depend on it."""
    made: list[sql.Identifier] = []

    def create(name: str, attributes: str = "NOLOGIN") -> str:
        made.append(sql.Identifier(name))
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(made[-1]))
            connection.execute(sql.SQL("CREATE ROLE {} " + attributes).format(made[-1]))
        return name

    yield create
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


@dataclass
class Table:
    """The table as another program sees it, and sessions that act on it inside this process."""

    dsn: str
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.connection = self.stack.enter_context(psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row))
        self.database = self.stack.enter_context(database.connect(self.dsn, "the test"))

    def another(self) -> Database:
        """Return one more connection."""
        return self.stack.enter_context(database.connect(self.dsn, "the test"))

    def execute(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a statement as another program would."""
        cursor = self.connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def ask(self, query: str, **parameters: Any) -> Rows:
        """Run one of the tool's own statements in a transaction of its own."""
        return self.database.read(lambda tx: tx.commit(Statement(query, **parameters))[0])

    def row(self, session_id: str) -> dict[str, Any]:
        """Return a session's row."""
        [row] = self.execute("SELECT * FROM public.claude_sessions WHERE session_id = %s", session_id)
        return row

    def own(self, session_id: str) -> dict[str, Any]:
        """Return the tool's part of a session's metadata."""
        part = self.row(session_id)["metadata"]["claude_sessions_cli"]
        assert isinstance(part, dict)
        return part

    def insert(self, session_id: str, **columns: Any) -> None:
        """Insert a row as another program would."""
        columns = {"session_id": session_id, **columns}
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        self.execute(f"INSERT INTO public.claude_sessions ({names}) VALUES ({marks})", *columns.values())


@pytest.fixture
def table(either_dsn: str) -> Iterator[Table]:
    """Return the table, on both kinds of schema."""
    made = Table(either_dsn)
    with made.stack:
        yield made


@pytest.fixture
def full_table(dsn: str) -> Iterator[Table]:
    """Return the table under the whole schema."""
    made = Table(dsn)
    with made.stack:
        yield made


def make_caller(
    session_id: str | None,
    *,
    anchor: Process | None = None,
    now: datetime | None = None,
    stale_after: float = 900.0,
    heartbeat_every: float = 60.0,
    tty: str | None = None,
    cwd: str = "/tmp/codebase",
) -> Caller:
    """Return a caller that is `session_id`, as the process `anchor`, at the time `now`."""
    identity = Identity(session_id, anchor, tty, "codebase", cwd, "main", this_host())
    return Caller(identity, Settings(None, "the test", stale_after, heartbeat_every), now)


Sleeper = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """Return a function that starts a process which lives until the test ends it."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return a function that runs the program in its own process, without a terminal."""

    def run(
        *argv: str, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **{name: value for name, value in (env or {}).items() if value is not None}}
        for name, value in (env or {}).items():
            if value is None:
                environment.pop(name, None)
        return subprocess.run(
            [sys.executable, "-m", "claude_sessions_cli", *argv],
            **{
                "env": environment,
                "cwd": tmp_path,
                "stdin": subprocess.DEVNULL,
                "capture_output": True,
                "text": True,
                "timeout": 60,
                # No terminal: a test must not act as the session of its developer.
                "start_new_session": True,
                **options,
            },
        )

    return run


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs a command line in this process, ten times as fast as in a new one."""

    def call(*argv: str, env: Mapping[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            capfd.readouterr()
            code = program.run([*argv])
        output = capfd.readouterr()
        return subprocess.CompletedProcess(argv, code, output.out, output.err)

    return call
