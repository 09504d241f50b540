"""The commands at a distance from the server, by the delay each way, beside a bare connection with one statement.

A proxy delays every message; a TCP handshake is not delayed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from conftest import Table, make_caller
from wire import Wire

from bench.programs import BARE, PROGRAM, clean_home
from bench.rows import apply_schema, register, sleepers
from bench.sitting import Sitting
from claude_sessions_cli.operations.claim import claim

NEEDS = ()
DATABASE = "cs_bench_distance"
DELAYS_MS = (0, 10, 50, 150)
SESSION, ITEM, LIVING = "bench", "SD-BENCH-001", 3
# Each waits for several delays.
MAX_ROUNDS = 5
# The argv, whether the session holds the item before it, and the most messages after the connection.
COMMANDS = {
    "heartbeat": ("heartbeat", True, 1),
    "check": ("check", True, 1),
    "list": ("list", True, 1),
    "claim, free": (f"claim {ITEM}", False, 2),
    "claim, own": (f"claim {ITEM}", True, 2),
    "release": ("release", True, 2),
    "heartbeat --here": ("heartbeat --here", True, 2),
    "reap, nothing to do": ("reap", True, 2),
}


@dataclass
class Command:
    """A command line, whether its session holds the item before it, and how long its runs took at each distance."""

    name: str
    argv: Sequence[str]
    holding: bool = True
    messages: int = 0
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def ms(self, delay: int) -> float:
        """Return the median at a distance."""
        return statistics.median(self.seconds[delay]) * 1000


def measure(sitting: Sitting) -> None:
    """Print a line for each command, and the round trips that it takes beyond those of the bare connection."""
    rounds = min(sitting.rounds, MAX_ROUNDS)
    bare = Command("bare connection, SELECT 1", [sys.executable, "-c", BARE])
    commands = [Command(name, [PROGRAM, *line.split()], holding) for name, (line, holding, _) in COMMANDS.items()]
    with sitting.databases(DATABASE) as create, ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        dsn = create(DATABASE)
        apply_schema(dsn)
        table = Table(dsn)
        stack.enter_context(table.stack)
        pids = stack.enter_context(sleepers(LIVING))
        environment = stack.enter_context(clean_home(home))
        register(table.database, pids, range(LIVING))
        for delay in DELAYS_MS:
            with Wire(dsn, delay) as wire:
                _measure([bare, *commands], wire, table, delay, rounds, environment)
    farthest = DELAYS_MS[-1]
    travel = {it.name: it.ms(farthest) - it.ms(0) for it in (bare, *commands)}
    rows = []
    for it in (bare, *commands):
        more = (travel[it.name] - travel[bare.name]) / (2 * farthest)
        rows.append([it.name, it.messages, *(it.ms(delay) for delay in DELAYS_MS), more])
    columns = ["", "messages", *(f"{delay} ms" for delay in DELAYS_MS), "round trips"]
    sitting.table(f"whole processes in ms by the delay each way, medians of {rounds} in turn", columns, rows)
    for it in commands:
        sitting.bar(f"{it.name}: messages", it.messages, most=COMMANDS[it.name][2])


def _measure(
    commands: Sequence[Command], wire: Wire, table: Table, delay: int, rounds: int, base: Mapping[str, str]
) -> None:
    """Run all commands in turn, after a round that is not counted."""
    environment = {**base, "CLAUDE_SESSIONS_DSN": wire.tcp_dsn, "CLAUDE_SESSIONS_SESSION_ID": SESSION}
    for number in range(-1, rounds):
        for command in commands:
            table.execute("DELETE FROM public.claude_sessions WHERE session_id = %s", SESSION)
            if command.holding:
                claim(table.database, make_caller(SESSION), ITEM)
            wire.reset()
            begin = time.perf_counter()
            done = subprocess.run(
                command.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,
            )
            seconds = time.perf_counter() - begin
            if done.returncode:
                sys.exit(f"bench: {command.name} failed: {done.stderr}")
            command.messages = max(command.messages, len(wire.messages))
            if number >= 0:
                command.seconds.setdefault(delay, []).append(seconds)
