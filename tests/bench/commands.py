"""The commands as whole processes, over a bare script with psycopg and over psql that send the same messages."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.peers import find
from bench.programs import PROGRAM, Program, bare_script, clean_home, record, take_turns
from bench.rows import LIVE, apply_schema, fill
from bench.sitting import Sitting

NEEDS = ("psql",)
DATABASE, SESSION, ITEM = "cs_bench_commands", "bench", "SD-BENCH-001"
RELEASED = ("released", 2_000, "NULL", "n * interval '10 seconds'")
COMMANDS = {
    "heartbeat": (["heartbeat"], 1.05),
    "claim": (["claim", ITEM], 1.1),
    "list | cat": (["list"], 1.1),
    "list": (["list"], 1.4),
}


def measure(sitting: Sitting) -> None:
    """Print the table, and compare with the bars."""
    with sitting.databases(DATABASE) as create, tempfile.TemporaryDirectory() as home:
        dsn = create(DATABASE)
        apply_schema(dsn)
        fill(dsn, LIVE, RELEASED)
        with clean_home(home, CLAUDE_SESSIONS_SESSION_ID=SESSION, CLAUDE_SESSIONS_DSN=dsn) as environment:
            record("claim", ITEM, "--dsn", dsn, "--session", SESSION)
            lines = {name: _programs(sitting, name, argv, dsn, home) for name, (argv, _) in COMMANDS.items()}
            turns = [program for _, line in lines.values() for program in line]
            take_turns(turns, environment, sitting.rounds)
    rows = []
    for name, (messages, (own, bare, *psql)) in lines.items():
        beside = (psql[0].median, own.median / psql[0].median) if psql else (None, None)
        rows.append([name, messages, own.median, bare.median, own.median / bare.median, *beside])
    columns = ["", "messages", "claude-sessions", "bare script", "ratio", "psql", "ratio"]
    sitting.table(f"whole processes in ms, medians of {sitting.rounds} in turn", columns, rows)
    for name, (_, (own, bare, *_)) in lines.items():
        sitting.bar(f"{name} over a bare script", own.median / bare.median, most=COMMANDS[name][1])


def _programs(sitting: Sitting, name: str, argv: list[str], dsn: str, home: str) -> tuple[int, list[Program]]:
    """Return the number of messages of a command; the command, the bare script, and psql if it is there."""
    found = record(*argv, "--dsn", dsn, "--session", SESSION)
    script = Path(home) / f"{argv[0]}.py"
    script.write_text(bare_script(found))
    terminal = name == "list"
    made = [Program([PROGRAM, *argv], terminal), Program([sys.executable, str(script)], terminal)]
    if sitting.has("psql"):
        messages = [word for message in found.messages for word in ("-c", message.decode())]
        made.append(Program([str(find("psql")), "-XqAt", "-d", found.conninfo, *messages], terminal))
    return len(found.messages), made
