"""Contended claims per second: all clients want one item, over the same SQL through pgbench."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
from conftest import make_caller

from bench.peers import find
from bench.programs import Recording, recorded
from bench.rows import apply_schema
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release

NEEDS = ("pgbench",)
DATABASE, ITEM = "cs_bench_claims", "SD-BENCH-001"
CLIENTS = (1, 8)
SECONDS, TURNS = 3, 3
COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
# pgbench cannot judge the rows that it reads, so it asks once more.
HELD = """SELECT count(*) AS holders FROM public.claude_sessions
WHERE sd_id = '{item}' AND session_id <> 'racer-:client_id' AND status IS DISTINCT FROM 'released' \\gset
"""


def measure(sitting: Sitting) -> None:
    """Print the attempts and the wins per second; each winner releases the item at once."""
    rows: list[list[object]] = []
    with sitting.databases(DATABASE) as create, tempfile.TemporaryDirectory() as directory:
        dsn = create(DATABASE)
        apply_schema(dsn)
        script = Path(directory) / "claim.sql"
        script.write_text(_script(dsn))
        for clients in CLIENTS:
            runs: dict[str, Callable[[], list[float]]] = {"claude-sessions": partial(_race, dsn, clients)}
            if sitting.has("pgbench"):
                runs["same SQL, pgbench"] = partial(_pgbench, dsn, script, clients)
            turns = [{name: run() for name, run in runs.items()} for _ in range(TURNS)]
            medians = {
                name: [statistics.median(column) for column in zip(*(turn[name] for turn in turns), strict=True)]
                for name in runs
            }
            beside = medians.get("same SQL, pgbench")
            for name, (tried, won) in medians.items():
                rows.append([f"{name}, {clients} at once", tried, won, tried / beside[0] if beside else None])
    columns = ["", "claims each second", "of them won", "ratio"]
    title = f"claims of one item on open connections, the winner releases; medians of {TURNS} turns of {SECONDS} s"
    sitting.table(title, columns, rows)


def _race(dsn: str, clients: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        gate, tally = manager.Barrier(clients), manager.list()
        racers = [context.Process(target=_racer, args=(dsn, number, gate, tally)) for number in range(clients)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert len(tally) == clients
        won, refused = (sum(column) for column in zip(*tally, strict=True))
    return [(won + refused) / SECONDS, won / SECONDS]


def _racer(dsn: str, number: int, gate: threading.Barrier, tally: list[tuple[int, int]]) -> None:
    won = refused = 0
    with database.connect(dsn, "the bench") as connection:
        caller = make_caller(f"racer-{number}")
        gate.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                claim(connection, caller, ITEM)
            except HeldByAnother:
                refused += 1
            else:
                won += 1
                release(connection, caller)
    tally.append((won, refused))


def _script(dsn: str) -> str:
    """Return a pgbench script of the messages of a claim and of a release, each a round trip as in the tool."""
    caller = make_caller("racer-CLIENT")
    with recorded() as claimed, database.connect(dsn, "the bench") as connection:
        claim(connection, caller, ITEM)
    with recorded() as released, database.connect(dsn, "the bench") as connection:
        release(connection, caller)
    look, *take = _messages(claimed)
    held = HELD.format(item=ITEM)
    give_back = _messages(released)
    won = "".join(f"{message};\n" for message in [*take, *give_back])
    return f"{look} \\;\n{held}\\if :holders = 0\n{won}\\else\nROLLBACK;\n\\endif\n"


def _messages(found: Recording) -> list[str]:
    texts = [COMMENT.sub("", message.decode()).strip().rstrip(";") for message in found.messages]
    return [text.replace(";\n", " \\;\n").replace("racer-CLIENT", "racer-:client_id") for text in texts]


def _pgbench(dsn: str, script: Path, clients: int) -> list[float]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = _wins(connection)
        jobs = str(min(clients, multiprocessing.cpu_count()))
        options = ["-n", "-M", "simple", "-c", str(clients), "-j", jobs, "-T", str(SECONDS), "-f", str(script)]
        done = subprocess.run([str(find("pgbench")), *options, dsn], capture_output=True, text=True)
        found = re.search(r"actually processed: (\d+)", done.stdout)
        failed = re.search(r"failed transactions: ([1-9]\d*)", done.stdout)
        assert done.returncode == 0 and found and not failed, done.stdout + done.stderr
        return [int(found[1]) / SECONDS, (_wins(connection) - before) / SECONDS]


def _wins(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("SELECT count(*) FROM public.claude_session_events WHERE event = 'claimed'").fetchone()
    assert row is not None
    return row[0]
