"""Renewals per second: alone, batched, and with a connection each, direct and through PgBouncer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
from conftest import make_caller
from faults.servers import pgbouncer, private_server

from bench.programs import PROGRAM, clean_home
from bench.rows import apply_schema, every_optional_file, register, sleepers
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.database import Database
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here

NEEDS = ("PgBouncer",)
DATABASE = "cs_bench_renewals"
SESSIONS, PROCESSES, SECONDS, TURNS = 1000, 200, 1, 7


def measure(sitting: Sitting) -> None:
    """Print the renewals that one client makes each second, one after another."""
    with private_server() as server, ExitStack() as stack:
        pids = stack.enter_context(sleepers(PROCESSES))
        dsn = server.create(DATABASE)
        with psycopg.connect(dsn) as watch:
            sitting.name_server(watch, "a private server")
        apply_schema(dsn, every_optional_file())
        environment = stack.enter_context(clean_home(stack.enter_context(tempfile.TemporaryDirectory())))
        connection = stack.enter_context(database.connect(dsn, "the bench"))
        register(connection, pids, range(SESSIONS))
        command = [PROGRAM, "heartbeat", "--session", "s-0", "--dsn", dsn]
        kinds: dict[str, Callable[[], int]] = {
            "on an open connection": lambda: _beat(connection),
            "1,000 at once: heartbeat --here": lambda: heartbeat_here(connection, make_caller(None)).renewed,
            "with a connection each": lambda: _connect_and_beat(dsn),
            "with a process each": lambda: _run(command, environment),
        }
        if sitting.has("PgBouncer"):
            through = stack.enter_context(pgbouncer(server))(dsn)
            kinds["with a connection each through PgBouncer"] = lambda: _connect_and_beat(through)
        turns: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(TURNS):
            for name, beat in kinds.items():
                turns[name].append(_rate(beat))
    rates = {name: statistics.median(found) for name, found in turns.items()}
    alone = rates["on an open connection"]
    rows = [[name, rate, rate / alone] for name, rate in rates.items()]
    sitting.table(f"renewals of one client, medians of {TURNS} turns", ["", "each second", "over alone"], rows)


def _rate(beat: Callable[[], int]) -> float:
    """Return how many renewals a turn makes each second."""
    beat()
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < SECONDS or not done:
        done += beat()
    return done / (now - began)


def _beat(connection: Database) -> int:
    heartbeat(connection, make_caller("s-0"))
    return 1


def _connect_and_beat(dsn: str) -> int:
    with database.connect(dsn, "the bench") as connection:
        return _beat(connection)


def _run(command: list[str], environment: dict[str, str]) -> int:
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: heartbeat failed: {done.stderr}")
    return 1
