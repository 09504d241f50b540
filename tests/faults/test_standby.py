"""A hot standby, a fail-over, a server that is full, and one that does not wait for its disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from clock import NOON
from commands.answers import apply_schema, failed
from conftest import Cli, Sleeper, make_caller
from poll import until
from run_bench import PROGRAM
from terminal import environment

from claude_sessions_cli.database import Database, connect
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release
from faults import servers
from faults.servers import PrivateServer

pytestmark = pytest.mark.faults
LATER = NOON + timedelta(hours=1)


@pytest.fixture
def primary() -> Iterator[PrivateServer]:
    """Return a server that a test may break."""
    with servers.private_server() as server:
        yield server


@pytest.fixture
def dsn(primary: PrivateServer) -> str:
    """Return the DSN of an empty table on it."""
    return apply_schema(primary.create("main"))


@pytest.fixture
def follower(primary: PrivateServer, dsn: str) -> Iterator[str]:
    """Return the DSN of the same table on a hot standby, in which `a` holds SD-1."""
    with connect(dsn, "the test") as opened:
        claim(opened, make_caller("a"), "SD-1")
    with servers.standby(primary) as server:
        yield psycopg.conninfo.make_conninfo(dsn, port=server.port)


def _start(directory: Path, dsn: str, *argv: str) -> subprocess.Popen[str]:
    env = environment(directory, {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "waiter"})
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*PROGRAM, *argv],
        env=env,
        stdout=pipe,
        stderr=pipe,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_standby_lists_and_takes_no_writes(follower: str, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": follower, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    until(lambda: "SD-1" in cli("list", env=env).stdout, "the claim arrives")
    for argv in (("history", "SD-1"), ("schema", "check"), ("reap", "--dry-run")):
        assert cli(*argv, env=env).returncode == 0, argv
    writing = ["claim SD-1", "check", "heartbeat", "release", "park 20m", "reap", "schema apply", "run SD-2 -- true"]
    for line in writing:
        failed(cli(*line.split(), env=env), 6, "the server takes no writes: ")


def test_wait_outlasts_failover(follower: str, tmp_path: Path) -> None:
    with psycopg.connect(follower, autocommit=True) as admin:
        waiter = _start(tmp_path, follower, "claim", "SD-2", "--wait", "60s")
        connected = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'claude-sessions' AND state = 'idle'"
        until(lambda: admin.execute(connected).fetchall() or waiter.poll() is not None, "it was refused")
        assert waiter.poll() is None, waiter.communicate()
        admin.execute("SELECT pg_promote()")
    out, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, err) == (0, "")
    assert out.startswith("claimed SD-2")


def test_full_server_is_waited_for(dsn: str, cli: Cli, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE guest LOGIN CONNECTION LIMIT 1")
    apply = cli("schema", "apply", "--grant", "guest", "--dsn", dsn)
    assert apply.returncode == 0, apply.stderr
    guest = psycopg.conninfo.make_conninfo(dsn, user="guest")
    with psycopg.connect(guest):
        env = {"CLAUDE_SESSIONS_DSN": guest, "CLAUDE_SESSIONS_SESSION_ID": "a"}
        failed(cli("claim", "SD-1", env=env), 6, "too many connections")
        failed(cli("claim", "SD-1", "--wait", "0.1s", env=env), 6, "too many connections")
        waiter = _start(tmp_path, guest, "claim", "SD-1", "--wait", "60s")
        assert waiter.stderr
        assert "too many connections" in (line := waiter.stderr.readline()), line
        assert line.endswith("; waiting\n")
    out, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, err) == (0, "")
    assert out.startswith("claimed SD-1")


Act = Callable[[Database], object]
ACTS: dict[str, tuple[Act, tuple[str, str | None]]] = {
    "claim": (lambda db: claim(db, make_caller("b", now=LATER), "SD-2"), ("active", "SD-2")),
    "take over": (lambda db: claim(db, make_caller("b", now=LATER), "SD-1"), ("active", "SD-1")),
    "release": (lambda db: release(db, make_caller("a", now=NOON)), ("idle", None)),
    "end": (lambda db: release(db, make_caller("a", now=NOON), end=True), ("released", None)),
    "reap": (lambda db: reap(db, make_caller(None, now=LATER)), ("stale", None)),
}


def test_acknowledged_term_survives_crash(primary: PrivateServer, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        # Nothing is written to the disk for as long as the server may delay it.
        admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("ALTER DATABASE main SET synchronous_commit = off")
    lost_heartbeats = 0
    for name, (act, expected) in ACTS.items():
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("SET synchronous_commit = on")
            admin.execute("DELETE FROM public.claude_sessions")
        with connect(dsn, "the test") as opened:
            claim(opened, make_caller("a", now=NOON), "SD-1")
            act(opened)
            heartbeat(opened, make_caller("beating"), register=True)
            primary.stop_immediately()
        primary.start()
        with psycopg.connect(dsn) as admin:
            seen = admin.execute("SELECT session_id, status, sd_id FROM public.claude_sessions").fetchall()
        found = {session: (status, item) for session, status, item in seen}
        assert found["b" if "b" in found else "a"] == expected, name
        lost_heartbeats += "beating" not in found
    assert lost_heartbeats, "the crash loses nothing, so that this test proves nothing"


def test_claim_that_a_failover_lost_is_noticed(
    primary: PrivateServer, dsn: str, cli: Cli, sleeper: Sleeper, tmp_path: Path
) -> None:
    with servers.standby(primary) as server:
        follower = psycopg.conninfo.make_conninfo(dsn, port=server.port)
        # One name for both servers, as a cluster has.
        place = {"host": f"{primary.home.path},{primary.home.path}", "port": f"{primary.port},{server.port}"}
        both = psycopg.conninfo.make_conninfo(dsn, **place, target_session_attrs="read-write")
        env = {"CLAUDE_SESSIONS_DSN": both, "CLAUDE_SESSIONS_SESSION_ID": "a"}
        pid = ["--pid", str(sleeper().pid)]
        assert cli("heartbeat", "--register", *pid, env=env).returncode == 0
        with psycopg.connect(follower, autocommit=True) as admin:
            registered = "SELECT 1 FROM public.claude_sessions"
            until(lambda: admin.execute(registered).fetchall(), "the registration arrives")
        # It misses the claim, and becomes the primary.
        server.stop_immediately()
        assert cli("claim", "SD-1", *pid, env=env).returncode == 0
        assert cli("heartbeat", *pid, env=env).returncode == 0
        primary.stop_immediately()
        (server.home.path / server.data / "standby.signal").unlink()
        server.start()
        for _ in range(2):
            done = cli("heartbeat", "--register", *pid, env=env)
            assert (done.returncode, done.stdout) == (4, "")
            assert "lost SD-1" in done.stderr and "forgotten by the database" in done.stderr
        assert cli("claim", "SD-1", *pid, env=env).returncode == 0
