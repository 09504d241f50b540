"""A server, a pooler or a network that falls silent after the connection."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from conftest import Cli, Table, make_caller
from run_bench import Proxy
from wire import Fault, Wire

from claude_sessions_cli import connection, database
from claude_sessions_cli.database import NOBODY
from claude_sessions_cli.errors import Unreachable
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.transaction import Transaction
from commands.answers import EVERY_COMMAND, Inside, failed, failed_json

SILENT = "the database fell silent: no answer for 0.3 s"
MORE = [
    *[
        ("history", "SD-1"),
        ("check",),
        ("park", "20m"),
        ("unpark",),
        ("heartbeat", "--here"),
        ("reap", "--prune", "1d"),
    ],
    *[("release", "--session", "other"), ("claim", "SD-1", "--wait", "30s"), ("schema", "check"), ("schema", "apply")],
    ("run", "SD-1", "--", "true"),
]


@pytest.fixture
def silent(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return a proxy that completes connections and answers no query, to clients of little patience."""
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(database, "SCHEMA_ANSWER_TIMEOUT_S", 0.3)
    proxy.stall()
    yield proxy


def test_silent_server_is_given_up(inside: Inside, silent: Proxy) -> None:
    env = {"CLAUDE_SESSIONS_DSN": silent.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (*EVERY_COMMAND, *MORE):
        begin = time.monotonic()
        failed(inside(*argv, env=env), 6, SILENT)
        assert time.monotonic() - begin < 15, argv
    failed_json(inside("list", "--json", env=env), 6, SILENT)


@pytest.mark.faults
def test_silent_server_ends_command_in_seconds(cli: Cli, proxy: Proxy) -> None:
    proxy.stall()
    begin = time.monotonic()
    failed(cli("list", "--dsn", proxy.dsn), 6, "the database fell silent: no answer for 15 s")
    assert 14 < time.monotonic() - begin < 30


@pytest.mark.faults
def test_wait_on_silent_server_ends_in_its_own_time(cli: Cli, proxy: Proxy) -> None:
    proxy.stall()
    begin = time.monotonic()
    failed(_wait(cli, proxy.dsn), 6, "the database fell silent")
    assert 3 <= time.monotonic() - begin < connection.ANSWER_TIMEOUT_S


@pytest.mark.faults
def test_wait_ends_in_time_if_server_falls_silent_later(full_table: Table, cli: Cli) -> None:
    claim(full_table.database, make_caller("holder"), "SD-1")
    with Wire(full_table.dsn) as wire:
        # A refusal, and what comes before it.
        assert cli("claim", "SD-1", "--session", "w", "--dsn", wire.dsn).returncode == 3
        once = len(wire.messages)
        assert _wait(cli, wire.dsn, "0.1s").returncode == 3
        first = len(wire.messages) - once
        fault = wire.arm(Fault("answer lost", first + 1))
        begin = time.monotonic()
        done = _wait(cli, wire.dsn)
        assert fault.came.is_set()
        assert done.returncode in (3, 6), done.stderr
        assert 3 <= time.monotonic() - begin < connection.ANSWER_TIMEOUT_S


def _wait(cli: Cli, dsn: str, seconds: str = "3s") -> subprocess.CompletedProcess[str]:
    return cli("claim", "SD-1", "--wait", seconds, "--session", "w", "--dsn", dsn)


def test_lost_commit_names_the_way_to_settle_it(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_silent(tx: Transaction) -> None:
        tx.send()
        proxy.stall()

    with database.connect(proxy.dsn, "the test") as opened:
        monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.3)
        with pytest.raises(Unreachable) as caught:
            opened.write(NOBODY, fall_silent)
        assert caught.value.hint == "the change may have been made; run the same command again to settle it"
        proxy.resume()
        opened.reconnect()
        opened.read(lambda tx: tx.commit())
        with pytest.raises(Unreachable) as caught:
            opened.read(fall_silent)
        assert caught.value.hint == "try again; see what is wrong: claude-sessions doctor"


def test_command_after_lost_commit_settles_it(full_table: Table, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.connect(proxy.dsn, "the test") as opened:
        monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.3)
        taken = claim(opened, make_caller("a"), "SD-1").session.session.fence
        proxy.stall()
        with pytest.raises(Unreachable):
            heartbeat(opened, make_caller("a"))
    assert claim(full_table.database, make_caller("a"), "SD-1").session.session.fence == taken


def test_notifications_are_awaited_longer_than_answers(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.3)
    with database.connect(dsn, "the test") as opened:
        opened.listen()
        assert not opened.notified({"none"}, 0.9)
        assert opened.read(rows.read, make_caller("a")) is None
