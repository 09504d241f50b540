"""Time the commands as whole processes at a distance from the server, beside a bare connection with one statement.

A proxy delays every message; a TCP handshake is not delayed. Makes the database cs_bench_distance on the server that
the tests would use, and drops it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import PROGRAM, clean_environment, databases
from conftest import Table, make_caller
from wire import Wire

from claude_sessions_cli import database, process
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat

DATABASE = "cs_bench_distance"
DELAYS_MS = (0, 10, 50, 150)
SESSION, ITEM, LIVING = "bench", "SD-BENCH-001", 3
BARE = """
import os, psycopg
with psycopg.connect(os.environ["CLAUDE_SESSIONS_DSN"], autocommit=True) as connection:
    connection.execute("SELECT 1").fetchall()
"""


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


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each command runs at each distance [5]")
    parser.add_argument(
        "--program", default=str(PROGRAM), metavar="PATH", help="the claude-sessions to time [this one]"
    )
    arguments = parser.parse_args()
    bare = Command("bare connection, SELECT 1", [sys.executable, "-c", BARE])
    lines = {
        "heartbeat": ("heartbeat", True),
        "check": ("check", True),
        "list": ("list", True),
        "claim, free": (f"claim {ITEM}", False),
        "claim, own": (f"claim {ITEM}", True),
        "release": ("release", True),
        "heartbeat --here": ("heartbeat --here", True),
        "reap, nothing to do": ("reap", True),
    }
    commands = [Command(name, [arguments.program, *line.split()], holding) for name, (line, holding) in lines.items()]
    with tempfile.TemporaryDirectory(prefix="cs-bench-") as directory, ExitStack() as stack:
        create = stack.enter_context(databases([DATABASE]))
        os.environ.clear()
        os.environ.update(clean_environment(Path(directory)))
        table = _table(create(DATABASE), stack)
        for delay in DELAYS_MS:
            with Wire(table.dsn, delay) as wire:
                _measure([bare, *commands], wire, table, delay, arguments.rounds)
    _print(bare, commands, arguments.rounds)
    return 0


def _table(dsn: str, stack: ExitStack) -> Table:
    """Return a table with some live sessions."""
    with database.connect(dsn, "the bench") as connection:
        schema.apply(connection)
    table = Table(dsn)
    stack.enter_context(table.stack)
    for number in range(LIVING):
        started = subprocess.Popen(["sleep", "3600"])
        stack.callback(_end, started)
        anchor = process.read(started.pid)
        heartbeat(table.database, make_caller(f"live-{number}", anchor=anchor), register=True)
    return table


def _end(started: subprocess.Popen[bytes]) -> None:
    started.kill()
    started.wait()


def _measure(commands: Sequence[Command], wire: Wire, table: Table, delay: int, rounds: int) -> None:
    """Run all commands in turn, after a round that is not counted."""
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": wire.tcp_dsn, "CLAUDE_SESSIONS_SESSION_ID": SESSION}
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


def _print(bare: Command, commands: Sequence[Command], rounds: int) -> None:
    farthest = DELAYS_MS[-1]
    print(f"\nmedians of {rounds} whole processes, in ms, by the delay each way; round trips over the bare connection")
    print(f"at {farthest} ms, without what the program takes at 0 ms\n")
    print(f"{'':26}{'messages':>9}" + "".join(f"{f'{delay} ms':>9}" for delay in DELAYS_MS) + f"{'round trips':>13}")
    travel: Callable[[Command], float] = lambda command: command.ms(farthest) - command.ms(0)  # noqa: E731
    for command in (bare, *commands):
        more = (travel(command) - travel(bare)) / (2 * farthest)
        times = "".join(f"{command.ms(delay):9.1f}" for delay in DELAYS_MS)
        print(f"{command.name:26}{command.messages:9}{times}{more:13.1f}")


if __name__ == "__main__":
    sys.exit(main())
