"""The order in which rows are locked, and rows that change while a claim or a release waits for their locks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psycopg
import pytest
from conftest import Sleeper, Table, make_caller
from poll import until, until_waiting

from claude_sessions_cli import process, queries
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.claim import claim as claim_item
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.release import release_other


def test_row_changed_during_lock_wait_is_seen(table: Table) -> None:
    # With the rows of a table in use, Postgres chooses the plan under which rows were lost before.
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, status)"
        " SELECT 'r' || n, 'released' FROM generate_series(1, 3000) AS n"
    )
    table.execute("ANALYZE public.claude_sessions")
    database = table.another()
    # The ids are random, and the row was lost unless it came first.
    for number in range(8):
        names = [f"{name}-{number}" for name in "abc"]
        item, mine = f"SD-{number}", names[0]
        heartbeat(table.database, make_caller(mine), register=True)
        for holder in names[1:]:
            table.insert(holder, sd_id=item, status="stale", heartbeat_at="2026-01-01")
        outcomes: list[str] = []

        def claim(mine: str = mine, item: str = item) -> None:
            outcomes.append(claim_item(database, make_caller(mine), item).outcome)  # noqa: B023

        waiting = threading.Thread(target=claim)
        with psycopg.connect(table.dsn) as other:
            # The row of the claimer stays unlocked, because its registration would wait for it.
            beat = "UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at WHERE session_id = ANY(%s)"
            other.execute(beat, [names[1:]])
            waiting.start()
            until_waiting(table.connection)
        waiting.join()
        assert outcomes == ["took_over"]
        holders = table.execute("SELECT session_id FROM public.claude_sessions WHERE sd_id = %s", item)
        assert [row["session_id"] for row in holders] == [mine]


def test_session_deleted_during_release_is_not_held(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    caught: list[str] = []

    def release() -> None:
        try:
            release_other(table.another(), make_caller("b", cwd="/tmp/elsewhere"), "a", None)
        except NotHeld as error:
            caught.append(error.message)

    waiting = threading.Thread(target=release)
    with psycopg.connect(table.dsn) as other:
        other.execute("DELETE FROM public.claude_sessions WHERE session_id = 'a'")
        waiting.start()
        until_waiting(table.connection)
    waiting.join()
    assert caught == ["session a was deleted"]


LOCKING = [path for path in queries.directory().rglob("*.sql") if "FOR UPDATE" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", LOCKING, ids=lambda path: path.stem)
def test_statement_locks_rows_in_order_of_id(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    # Of several rows; a key finds one.
    before = [part for part in text.split("FOR UPDATE")[:-1] if not re.search(r"WHERE session_id = \S+\s*$", part)]
    ordered = r"ORDER BY (\w+\.)?id(\s+LIMIT \S+)?\s*$"
    assert [part[-80:] for part in before if not re.search(ordered, part)] == []


def _stop_between_look_and_wait(backend: int, stopped: Path, go_on: Path) -> subprocess.Popen[bytes]:
    """Stop a backend just before it would skip a row whose writer has not ended, until `go_on` exists."""
    pause = f"shell touch {stopped}; for n in $(seq 600); do [ -e {go_on} ] && exit; sleep 0.05; done"
    steps = [
        "break ConditionalXactLockTableWait",
        f"shell touch {stopped}.ready",
        "continue",
        pause,
        "delete",
        "detach",
    ]
    words = ["gdb", "-q", "-batch", "-p", str(backend), *(word for step in steps for word in ("-ex", step))]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.faults
@pytest.mark.skipif(not (os.geteuid() == 0 and shutil.which("gdb")), reason="a debugger stops the server")
def test_row_written_while_it_is_skipped_causes_no_deadlock(
    table: Table, sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("claude_sessions_cli.database.ATTEMPTS", 1)
    alive = process.read(sleeper().pid)
    for name in ("a", "b"):
        heartbeat(table.database, make_caller(name, anchor=alive), register=True)
    database = table.another()
    [backend] = table.execute(
        "SELECT pid, datname FROM pg_stat_activity WHERE datname = current_database()"
        " ORDER BY backend_start DESC LIMIT 1"
    )
    command = Path(f"/proc/{backend['pid']}/cmdline")
    if not (command.exists() and f" {backend['datname']} " in command.read_text()):
        pytest.skip("the server runs elsewhere")
    first = table.execute("SELECT id FROM public.claude_sessions ORDER BY id")[0]["id"]
    write = "UPDATE public.claude_sessions SET updated_at = now() WHERE id = %s"
    # The row with the lesser id comes last in the table, and so in the list of those to renew.
    table.execute(write, first)
    stopped, go_on = tmp_path / "stopped", tmp_path / "go_on"
    with psycopg.connect(table.dsn) as writer, psycopg.connect(table.dsn) as locker, ThreadPoolExecutor(2) as pool:
        writer.execute(write, [first])
        gdb = _stop_between_look_and_wait(backend["pid"], stopped, go_on)
        try:
            until(Path(f"{stopped}.ready").exists, "gdb is attached")
            beating = pool.submit(heartbeat_here, database, make_caller(None))
            until(stopped.exists, "the backend has looked at the row")
            writer.commit()
            locking = pool.submit(locker.execute, "SELECT FROM public.claude_sessions ORDER BY id FOR UPDATE")
            wait([locking], timeout=0.5)
            go_on.touch()
            wait([locking])
            locker.commit()
            assert beating.result().renewed > 0
        finally:
            gdb.kill()
            gdb.wait()
