"""Servers that cannot be reached, locks that are held too long, and interrupts."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from conftest import Cli, Server
from poll import until_waiting

from claude_sessions_cli import cli as program
from claude_sessions_cli import transaction
from commands.answers import EVERY_COMMAND, Inside, Refused, failed, rows


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return the port of a listener that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_closed_port_is_unreachable(refused: Refused, closed_port: int) -> None:
    for argv in (*EVERY_COMMAND, ("schema", "check"), ("schema", "apply")):
        for dsn in (f"host=127.0.0.1 port={closed_port}", f"postgresql://127.0.0.1:{closed_port}/x"):
            message = "cannot connect to the database from --dsn: .*efused"
            refused(*argv, "--dsn", dsn, code=6, message=message, process=argv[0] == "list")


@pytest.fixture
def missing() -> Iterator[str]:
    """Return a path that does not exist, short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/missing"


@pytest.fixture
def other_port() -> Iterator[int]:
    """Return the port of a server that speaks HTTP, to one client after another."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(100)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):  # macOS refuses it, and Linux would not wake the thread without
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("mode", ["prefer", "disable"])
def test_port_of_another_protocol_is_named(inside: Inside, other_port: int, mode: str) -> None:
    done = inside("list", "--dsn", f"host=127.0.0.1 port={other_port} sslmode={mode}")
    failed(done, 6, r"received .*H \(what answers there is not Postgres: correct host and port in the DSN\)$")


def test_missing_socket_directory_is_unreachable(refused: Refused, missing: str) -> None:
    refused("list", "--dsn", f"host={missing}", code=6, message=f"{missing}.*No such file")


def test_host_without_address_is_unreachable(refused: Refused) -> None:
    refused("list", "--dsn", "host=no-such-host.invalid", code=6, message="cannot connect.*no-such-host.invalid")


def test_each_of_several_hosts_is_reported(refused: Refused, missing: str, closed_port: int) -> None:
    dsn = f"host={missing},127.0.0.1 port=5432,{closed_port}"
    message = f"from --dsn: connection to server on socket .{missing}/.* failed: [^;]*;"
    message += f" connection to server at .127.0.0.1., port {closed_port} failed: Connection refused( |$)"
    refused("list", "--dsn", dsn, code=6, message=message)


@pytest.mark.faults
def test_host_with_ipv6_alone_names_pooler(refused: Refused) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        # The kernel looks for a route.
        if probe.connect_ex(("2001:db8::1", 5432)) not in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH):
            pytest.skip("this machine has a way to IPv6, or a proxy")
    refused("list", "--dsn", "host=db.example.com hostaddr=2001:db8::1", code=6, message="name the provider's pooler")


def test_malformed_port_is_refused(refused: Refused) -> None:
    refused("list", "--dsn", "host=127.0.0.1 port=70000", code=6, message="70000")
    refused("list", "--dsn", "host=127.0.0.1 port=x", code=6, message="port")


@pytest.mark.faults
def test_silent_server_is_given_up_in_time(cli: Cli, silent_port: int) -> None:
    def timed(dsn: str, **env: str) -> float:
        begin = time.monotonic()
        failed(cli("list", "--dsn", dsn, env=env), 6, "cannot connect.*time")
        return time.monotonic() - begin

    dsn = f"host=127.0.0.1 port={silent_port}"
    with ThreadPoolExecutor(3) as pool:
        by_default = pool.submit(timed, dsn)
        by_variable = pool.submit(timed, dsn, PGCONNECT_TIMEOUT="2")
        by_dsn = pool.submit(timed, f"{dsn} connect_timeout=2", PGCONNECT_TIMEOUT="30")
        # All three run together, so that the load of the machine is the same.
        quicker = max(by_variable.result(), by_dsn.result())
        assert by_default.result() > 4.5
        assert quicker < by_default.result() < quicker + 6


def test_missing_database_is_unreachable(refused: Refused, server: Server) -> None:
    refused("list", "--dsn", server.database("cs_nowhere"), code=6, message='database "cs_nowhere" does not exist')


@pytest.mark.parametrize("lock", ["SELECT 1 FROM claude_sessions FOR UPDATE", "LOCK TABLE claude_sessions"])
def test_lock_held_too_long_is_timeout(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lock: str
) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_DSN", dsn)
    monkeypatch.setenv("CLAUDE_SESSIONS_SESSION_ID", "a")
    assert program.run(["claim", "SD-1", "--quiet"]) == 0
    monkeypatch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 100)
    before = rows(dsn)
    commands = [("claim", "SD-1"), ("heartbeat",), ("release",), *([("list",)] if lock.startswith("LOCK") else [])]
    with psycopg.connect(dsn) as holder:
        holder.execute(lock)
        for argv in commands:
            assert program.run([*argv]) == 6
            output = capsys.readouterr()
            assert output.out == ""
            [line] = output.err.splitlines()
            assert line.startswith("claude-sessions: the database did not answer in time")
    assert rows(dsn) == before


def test_hanging_claim_of_same_item_is_timeout(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 100)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
        assert program.run(["claim", "SD-1", "--session", "a", "--dsn", dsn, "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unreachable"
    assert rows(dsn) == []


def test_interrupt_during_lock_wait_changes_nothing(cli: Cli, dsn: str, tmp_path: Path) -> None:
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert cli("claim", "SD-1", env=environment).returncode == 0
    before = rows(dsn)
    for argv in (["claim", "SD-1"], ["heartbeat"], ["release", "--json"]):
        command = [sys.executable, "-m", "claude_sessions_cli", *argv]
        with psycopg.connect(dsn) as holder:
            holder.execute("SELECT 1 FROM claude_sessions FOR UPDATE")
            with subprocess.Popen(
                command,
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # A background job of a shell ignores interrupts, and this test may run in one.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            ) as child:
                until_waiting(holder)
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=30)
        assert (child.returncode, out, err) == (130, "", ""), argv
    assert rows(dsn) == before
