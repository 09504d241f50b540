"""Run commands in a process of their own or in this one."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Cli, Table
from run_bench import Bench, Proxy

from commands.answers import Env, Inside, Refused, Run, execute, failed, failed_json, rows


@pytest.fixture
def run(cli: Cli, inside: Inside, dsn: str) -> Run:
    """Return a function that runs a command as `session`, and checks the rules for every answer.

    Without a session it runs in its own process, for that of this one would be found.
    """

    def call(*argv: str, session: str | None = "a") -> subprocess.CompletedProcess[str]:
        how = inside if session else cli
        done = how(*argv, env={"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": session})
        assert "Traceback" not in done.stderr
        if "--json" in argv:
            assert done.stderr == ""
        return done

    return call


@pytest.fixture
def refused(cli: Cli, inside: Inside, dsn: str) -> Refused:
    """Return a function that asserts that a command line is refused, in words and in JSON, and changes no row.

    `process` runs the command in its own process.
    """
    columns = "(session_id, sd_id, status, claimed_at)"
    execute(dsn, f"INSERT INTO public.claude_sessions {columns} VALUES ('other', 'SD-OTHER', 'active', now())")
    execute(dsn, f"INSERT INTO public.claude_sessions {columns} VALUES ('a', 'SD-MINE', 'active', now())")

    def call(*argv: str, code: int, message: str, env: Env | None = None, process: bool = False) -> None:
        environment = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a", **(env or {})}
        before = rows(dsn)
        failed((cli if process else inside)(*argv, env=environment), code, message)
        failed_json(inside("--json", *argv, env=environment), code, message)
        assert rows(dsn) == before

    return call


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def bench(tmp_path: Path, full_table: Table) -> Iterator[Bench]:
    """Return a bench on the whole schema."""
    with Bench(tmp_path, full_table) as made:
        yield made


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """Return a proxy before the database."""
    made = Proxy(dsn)
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close at the end what a test has opened."""
    with ExitStack() as opened:
        yield opened
