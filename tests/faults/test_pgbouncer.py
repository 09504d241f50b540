"""Through PgBouncer in transaction mode: the same exclusion, and nothing left behind for the pool's next client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands.answers import apply_schema, failed
from conftest import Cli, make_caller
from poll import until
from psycopg.rows import dict_row

from claude_sessions_cli import database
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release
from faults import pool as racing
from faults import servers
from faults.pool import Pool, Watch

pytestmark = pytest.mark.faults
# Session state that outlives a transaction. PgBouncer itself keeps the first five in step with its clients.
LEFTOVERS = """
SELECT
    (
        SELECT jsonb_object_agg(name, setting) FROM pg_settings
        WHERE source = 'session' AND setting <> '' AND name NOT IN (
            'application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings'
        )
    ) AS settings,
    (SELECT count(*) FROM pg_prepared_statements) AS prepared,
    (SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors,
    (SELECT count(*) FROM pg_listening_channels()) AS channels,
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
    current_setting('statement_timeout') AS statement_timeout,
    current_setting('lock_timeout') AS lock_timeout,
    current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
    current_setting('TimeZone') AS zone,
    current_setting('DateStyle') AS style,
    current_setting('application_name') AS application,
    current_setting('search_path') AS path,
    coalesce(current_setting('claude_sessions.actor', true), '') AS actor
"""


@pytest.fixture(scope="module", params=racing.SCHEMAS)
def dsns(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Return a database's DSN, directly and through PgBouncer."""
    with servers.private_server() as server, servers.pgbouncer(server) as through:
        files = racing.SCHEMAS[request.param]
        with racing.racing_database(server.create, "bounced", files) as dsn:
            yield dsn, through(dsn)


@pytest.fixture
def watch(dsns: tuple[str, str]) -> Iterator[Watch]:
    """Return a direct view of the empty table, and check at the end that the pool's connections are as new."""
    direct, through = dsns
    counter = "SELECT deadlocks AS number FROM pg_stat_database WHERE datname = current_database()"
    with closing(Watch(direct)) as seen:
        seen.execute("TRUNCATE public.claude_sessions")
        before = seen.count(counter)
        yield seen
        seen.assert_single_holders()
        [fresh] = _leftovers(direct, 1)
        assert _leftovers(through, servers.POOL_SIZE) == [fresh] * servers.POOL_SIZE
        assert seen.count(counter) == before


def _leftovers(dsn: str, connections: int) -> list[dict[str, Any]]:
    """Return the session state that clients find on a number of server connections at once."""
    found, backends = [], set()
    # PgBouncer keeps the application name of the previous client for one that sets none.
    dsn = psycopg.conninfo.make_conninfo(dsn, application_name="another program")
    with ExitStack() as stack:
        for _ in range(connections):
            client = stack.enter_context(psycopg.connect(dsn, row_factory=dict_row, prepare_threshold=None))
            # Each holds its server connection by a transaction that stays open until all have looked.
            row = client.execute("SELECT pg_backend_pid() AS pid").fetchone()
            assert row
            backends.add(row["pid"])
            found += client.execute(LEFTOVERS).fetchall()
    assert len(backends) == connections
    return found


def test_believed_holder_is_alone(dsns: tuple[str, str], pool: Pool, watch: Watch, tmp_path: Path) -> None:
    attempts = racing.CONTENDED // 10 // len(pool) * len(pool)
    pool.all("connect", dsn=dsns[1])
    with watch.sampling():
        counts = racing.contend(pool, tmp_path / "locks", items=3, attempts=attempts)
    pool.all("disconnect")
    print(f"\n{dict(counts)}, {watch.samples} samples")
    assert counts["attempts"] == attempts == counts["held"] + counts["claimed"]


def test_one_of_sixteen_wins(dsns: tuple[str, str], pool: Pool, watch: Watch) -> None:
    pool.all("connect", dsn=dsns[1])
    racing.race_for_one_item(pool, watch, rounds=50)
    pool.all("disconnect")


def test_mixed_operations_neither_deadlock_nor_lose_claims(dsns: tuple[str, str], pool: Pool, watch: Watch) -> None:
    pool.all("connect", dsn=dsns[1])
    racing.churn(pool, watch, count=100)
    pool.all("disconnect")


def test_commands_work_through_pgbouncer(dsns: tuple[str, str], watch: Watch, cli: Cli) -> None:
    def run(code: int, *argv: str, who: str = "a") -> dict[str, Any]:
        done = cli(*argv, "--json", env={"CLAUDE_SESSIONS_DSN": dsns[1], "CLAUDE_SESSIONS_SESSION_ID": who})
        assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
        envelope = json.loads(done.stdout)
        assert isinstance(envelope, dict)
        return envelope

    assert run(0, "heartbeat", "--register")["data"]["outcome"] == "registered"
    assert run(0, "claim", "SD-1")["data"]["outcome"] == "claimed"
    assert run(0, "claim", "SD-1")["data"]["outcome"] == "already_yours"
    assert run(3, "claim", "SD-1", who="b")["error"]["holder"]["session_id"] == "a"
    assert run(3, "claim", "SD-1", "--wait", "1s", who="b")["error"]["code"] == "held"
    assert run(0, "heartbeat")["data"]["outcome"] == "renewed"
    assert run(0, "check", "SD-1")["ok"]
    assert run(0, "park", "5m")["ok"]
    assert run(0, "unpark")["ok"]
    assert [seen["session_id"] for seen in run(0, "list")["data"]["sessions"]] == ["a"]
    watch.silence("a")
    assert [verdict["to"] for verdict in run(0, "reap")["data"]["changed"]] == ["stale"]
    assert run(0, "heartbeat")["data"]["outcome"] == "restored"
    watch.silence("a")
    assert run(0, "claim", "SD-1", who="b")["data"]["outcome"] == "took_over"
    assert run(4, "heartbeat")["data"]["tombstone"]["by"] == "b"
    assert run(0, "release", who="b")["data"]["outcome"] == "released"
    assert run(0, "release", "--end", who="b")["data"]["outcome"] == "ended"


def test_statement_mode_is_named_with_remedy(cli: Cli) -> None:
    with servers.private_server() as server, servers.pgbouncer(server, "statement") as through:
        dsn = through(apply_schema(server.create("bounced")))
        env = {"CLAUDE_SESSIONS_SESSION_ID": "a", "CLAUDE_SESSIONS_DSN": dsn}
        for argv in (("claim", "SD-1"), ("schema", "apply"), ("claim", "SD-1", "--wait", "5s")):
            message = r"PgBouncer is in statement mode, .* \(set pool_mode = transaction in pgbouncer.ini"
            failed(cli(*argv, env=env), 6, message)
        # A transaction of one message passes.
        assert cli("heartbeat", "--register", env=env).returncode == 0
        failed(cli("release", "--end", env=env), 6, message)


def test_doctor_names_the_mode_of_the_pool(cli: Cli) -> None:
    with servers.private_server() as server:
        direct = apply_schema(server.create("bounced"))
        for mode, code, finding in (
            ("transaction", 0, "OK       pooler: a pooler, in transaction mode; waiting claims poll"),
            ("session", 0, "OK       pooler: a pooler, most likely in session mode: "),
            ("statement", 7, "FAILURE  pooler: PgBouncer is in statement mode, "),
        ):
            with servers.pgbouncer(server, mode) as through:
                done = cli("doctor", env={"CLAUDE_SESSIONS_DSN": through(direct)})
            assert (done.returncode, f"\n{finding}" in done.stdout) == (code, True), done.stdout
        with servers.pgbouncer(server, "session") as through, ExitStack() as stack:
            for _ in range(servers.POOL_SIZE - 1):
                stack.enter_context(psycopg.connect(through(direct))).execute("SELECT")
            done = cli("doctor", env={"CLAUDE_SESSIONS_DSN": through(direct)})
        hidden = "OK       pooler: a pooler, whose mode cannot be seen: the database fell silent"
        assert (done.returncode, f"\n{hidden}" in done.stdout) == (0, True), done.stdout


def test_every_waiter_gets_the_item(dsns: tuple[str, str], watch: Watch, cli: Cli) -> None:
    waiting = {f"w{number}" for number in range(5)}

    def wait(who: str) -> str:
        env = {"CLAUDE_SESSIONS_DSN": dsns[1], "CLAUDE_SESSIONS_SESSION_ID": who}
        done = cli("claim", "SD-1", "--wait", "2m", "--json", env=env, timeout=150)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return str(json.loads(done.stdout)["data"]["outcome"])

    had: list[str] = []
    with database.connect(dsns[0], "the test") as direct, ThreadPoolExecutor(len(waiting)) as started:
        claim(direct, make_caller("holder"), "SD-1")
        answers = {who: started.submit(wait, who) for who in waiting}
        release(direct, make_caller("holder"), end=True)
        while len(had) < len(waiting):
            until(lambda: watch.holders("SD-1"), "somebody claims")
            [holder] = watch.holders("SD-1")
            assert answers[holder].result(60) == "claimed"
            release(direct, make_caller(holder), end=True)
            had.append(holder)
    assert set(had) == waiting
