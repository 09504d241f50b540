"""The commands on a large table over their time on a small one, with every file of the schema, as whole processes."""

from __future__ import annotations

import tempfile

from bench.programs import PROGRAM, Program, clean_home, record, take_turns
from bench.rows import LIVE, apply_schema, every_optional_file, fill
from bench.sitting import Sitting

NEEDS = ()
FEW, STALE_SHARE = 2_000, 10
SESSION, ITEM = "bench", "SD-BENCH-001"
BAR = 1.5
COMMANDS = (
    "list --limit 20",
    f"list {ITEM}",
    "list --all --limit 20",
    f"claim {ITEM}",
    "heartbeat",
    "reap",
)


def measure(sitting: Sitting) -> None:
    """Print the table, and compare with the bar."""
    sizes = {"cs_bench_few": FEW, "cs_bench_many": sitting.rows}
    with (
        sitting.databases(*sizes) as create,
        tempfile.TemporaryDirectory() as home,
        clean_home(home, CLAUDE_SESSIONS_SESSION_ID=SESSION) as environment,
    ):
        dsns = [_filled(create(name), released) for name, released in sizes.items()]
        pairs = {command: [Program([PROGRAM, *command.split(), "--dsn", dsn]) for dsn in dsns] for command in COMMANDS}
        take_turns([program for pair in pairs.values() for program in pair], environment, sitting.rounds)
    rows = [[command, few.median, many.median, many.median / few.median] for command, (few, many) in pairs.items()]
    columns = ["", *(f"{released:,} + {released // STALE_SHARE:,}" for released in sizes.values()), "ratio"]
    title = f"with released and stale rows, in ms, medians of {sitting.rounds} whole processes in turn"
    sitting.table(title, columns, rows)
    for command, (few, many) in pairs.items():
        sitting.bar(f"{command} on the large table", many.median / few.median, most=BAR)


def _filled(dsn: str, released: int) -> str:
    """Fill a table in which nothing is due: no row has been stale for a day, and no claim has lapsed."""
    apply_schema(dsn, every_optional_file())
    stale = ("stale", released // STALE_SHARE, "NULL", "interval '1 hour' + n * interval '0.5 seconds'")
    fill(dsn, LIVE, ("released", released, "NULL", "n * interval '10 seconds'"), stale)
    record("claim", ITEM, "--dsn", dsn, "--session", SESSION)
    return dsn
