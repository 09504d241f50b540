"""`heartbeat --here`: all sessions of this host at once, judged by their processes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Cli, Sleeper, Table, make_caller, needs_open_checkout
from poll import until, until_waiting
from psycopg.types.json import Jsonb

from claude_sessions_cli import process
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.liveness import Host, this_host
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.claim import claim as claim_item
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.reap import reap as reap_sessions
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.transaction import Rows, Statement, Transaction


def _caller(name: str, pid: int, minutes: float = 0) -> Caller:
    return make_caller(name, anchor=process.read(pid), now=at(minutes))


def _here(table: Table, minutes: float, database: Any = None) -> tuple[int, list[str]]:
    result = heartbeat_here(database or table.database, make_caller(None, now=at(minutes)))
    return result.renewed, [released.session.session.session_id for released in result.released]


class _Watched:
    """A database that records its statements, and runs a function after one of them."""

    def __init__(self, table: Table, after: str = "", then: Callable[[], object] = lambda: None) -> None:
        self._database, self.after, self.then = table.database, after, then
        self.statements: list[str] = []

    def read(self, work: Any, *args: Any) -> Any:
        return self._database.read(self._noted(work, *args))

    def renew(self, actor: Any, work: Any, *args: Any) -> Any:
        return self._database.renew(actor, self._noted(work, *args))

    def write(self, actor: Any, work: Any, *args: Any) -> Any:
        return self._database.write(actor, self._noted(work, *args))

    def _noted(self, work: Any, *args: Any) -> Any:
        return lambda tx: work(_Noted(self, tx), *args)


class _Noted:
    def __init__(self, watched: _Watched, tx: Transaction) -> None:
        self._watched, self._tx = watched, tx

    def commit(self, *statements: Statement) -> list[Rows]:
        answers = self._tx.commit(*statements)
        names = [statement.query for statement in statements]
        self._watched.statements += names
        if self._watched.after in names:
            self._watched.then()
        return answers


def test_live_process_renews_only_heartbeat_at(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _caller("a", sleeper().pid), "SD-1", track="A")
    before = table.row("a")
    assert _here(table, 10) == (1, [])
    assert table.row("a") == {**before, "heartbeat_at": at(10)}


def test_dead_process_ends_session_with_tombstone(table: Table, sleeper: Sleeper) -> None:
    child, other = sleeper(), sleeper()
    fence = claim(table.database, _caller("a", child.pid), "SD-1", track="A").session.session.fence
    heartbeat(table.database, _caller("b", other.pid), register=True)
    child.kill()
    child.wait()
    assert _here(table, 1) == (1, ["a"])
    row, tombstone = table.row("a"), table.own("a")["tombstone"]
    assert (row["status"], row["sd_id"], row["track"], row["claimed_at"]) == ("released", None, None, None)
    assert (row["heartbeat_at"], row["updated_at"]) == (NOON, at(1))
    assert (tombstone["sd_id"], tombstone["fence"], tombstone["reason"]) == ("SD-1", fence, "process gone")
    assert claim(table.database, make_caller("c", now=at(1)), "SD-1").outcome == "claimed"
    assert _here(table, 2) == (1, [])


def test_zombie_counts_as_dead(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    claim(table.database, _caller("a", child.pid), "SD-1")
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    assert _here(table, 1) == (0, ["a"])


def test_reused_pid_counts_as_dead(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _caller("a", sleeper().pid), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions SET"
        " metadata = jsonb_set(metadata, '{claude_sessions_cli,process,start}', '\"1\"')"
    )
    assert _here(table, 1) == (0, ["a"])


def test_session_registered_in_between_is_left_alone(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper(), sleeper()
    heartbeat(table.database, _caller("a", first.pid), register=True)
    arrive = lambda: claim(table.another(), _caller("b", second.pid, 1), "SD-1")  # noqa: E731
    assert _here(table, 5, _Watched(table, "list_sessions_here", arrive)) == (1, [])
    row = table.row("b")
    assert (row["status"], row["sd_id"], row["heartbeat_at"]) == ("active", "SD-1", at(1))
    assert _here(table, 6) == (2, [])


def test_session_moved_in_between_is_not_renewed(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper(), sleeper()
    heartbeat(table.database, _caller("a", first.pid), register=True)

    def move() -> None:
        claim(table.another(), _caller("a", second.pid, 1), "SD-1", force_reason="moving")

    assert _here(table, 5, _Watched(table, "list_sessions_here", move)) == (0, [])
    assert (table.row("a")["pid"], table.row("a")["heartbeat_at"]) == (second.pid, at(1))


def test_session_restarted_in_between_is_not_released(table: Table, sleeper: Sleeper) -> None:
    child, second = sleeper(), sleeper()
    claim(table.database, _caller("a", child.pid), "SD-1")
    child.kill()
    child.wait()
    back = lambda: heartbeat(table.another(), _caller("a", second.pid, 1))  # noqa: E731
    assert _here(table, 5, _Watched(table, "list_sessions_here", back)) == (0, [])
    assert (table.row("a")["status"], table.row("a")["sd_id"]) == ("active", "SD-1")


def test_session_released_in_between_stays_released(table: Table, sleeper: Sleeper) -> None:
    caller = _caller("a", sleeper().pid)
    claim(table.database, caller, "SD-1")
    end = lambda: release(table.another(), caller, end=True)  # noqa: E731
    assert _here(table, 5, _Watched(table, "list_sessions_here", end)) == (0, [])
    assert (table.row("a")["status"], table.row("a")["heartbeat_at"]) == ("released", NOON)


@pytest.mark.parametrize(
    "change",
    [
        {"pid_ns": "pid:[1]"},
        {"boot_id": "another boot"},
        {"start": 7},
        {"pid": 1},
    ],
    ids=["another pid namespace", "another boot", "not a start", "another pid than the column's"],
)
@pytest.mark.parametrize("alive", [True, False])
def test_process_recorded_elsewhere_is_left_alone(
    table: Table, sleeper: Sleeper, change: dict[str, Any], alive: bool
) -> None:
    child = sleeper()
    claim(table.database, _caller("a", child.pid), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions SET"
        " metadata = jsonb_set(metadata, '{claude_sessions_cli,process}',"
        " metadata #> '{claude_sessions_cli,process}' || %s)",
        Jsonb(change),
    )
    if not alive:
        child.kill()
        child.wait()
    before = table.row("a")
    assert _here(table, 5) == (0, [])
    assert table.row("a") == before


def test_changed_hostname_protects_only_dead_process(table: Table, sleeper: Sleeper) -> None:
    child, other = sleeper(), sleeper()
    claim(table.database, _caller("a", child.pid), "SD-1")
    claim(table.database, _caller("b", other.pid), "SD-2")
    table.execute("UPDATE public.claude_sessions SET hostname = 'elsewhere'")
    other.kill()
    other.wait()
    before = table.row("b")
    assert _here(table, 5) == (1, [])
    assert table.row("a")["heartbeat_at"] == at(5)
    assert table.row("b") == before


@pytest.mark.parametrize(
    "metadata", [None, [1], {}, {"claude_sessions_cli": 7}, {"claude_sessions_cli": {"process": 7}}]
)
def test_rows_of_other_programs_are_left_alone(table: Table, sleeper: Sleeper, metadata: Any) -> None:
    hostname = this_host().hostname
    table.insert(
        "old", sd_id="SD-1", pid=sleeper().pid, hostname=hostname, heartbeat_at=NOON,
        metadata=None if metadata is None else Jsonb(metadata),
    )  # fmt: skip
    before = table.row("old")
    assert _here(table, 5) == (0, [])
    assert table.row("old") == before


# -- status and losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["active", "idle", None])
def test_status_is_kept(table: Table, sleeper: Sleeper, status: str | None) -> None:
    heartbeat(table.database, _caller("a", sleeper().pid), register=True)
    table.execute("UPDATE public.claude_sessions SET status = %s", status)
    assert _here(table, 5) == (1, [])
    assert (table.row("a")["status"], table.row("a")["heartbeat_at"]) == (status, at(5))


def _reaped_elsewhere(table: Table, pid: int) -> None:
    """Reap the claim of a silent session from another host, which cannot see its process."""
    claim(table.database, _caller("a", pid), "SD-1", track="C")
    caller = make_caller(None, now=at(16))
    elsewhere = Host("elsewhere", "another boot", "another namespace")
    identity = caller.identity._replace(host=elsewhere)
    reap(table.database, caller._replace(identity=identity))
    assert (table.row("a")["status"], table.row("a")["sd_id"]) == ("stale", None)


def test_stale_session_stays_stale(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    _reaped_elsewhere(table, pid)
    before = table.row("a")
    assert _here(table, 17) == (1, [])
    assert table.row("a") == {**before, "heartbeat_at": at(17)}
    # A day later, no host has a reason to end it.
    assert _here(table, 2 * DAY) == (1, [])
    reap(table.database, make_caller(None, now=at(2 * DAY + 1)))
    assert table.row("a")["status"] == "stale"


def test_only_own_heartbeat_restores_claim(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    _reaped_elsewhere(table, pid)
    assert _here(table, 17) == (1, [])
    assert table.row("a")["sd_id"] is None
    assert heartbeat(table.database, _caller("a", pid, 18)).outcome == "restored"
    assert table.row("a")["sd_id"] == "SD-1"


def test_renewal_keeps_reported_loss(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    _reaped_elsewhere(table, pid)
    claim(table.database, make_caller("b", now=at(17)), "SD-1")
    assert heartbeat(table.database, _caller("a", pid, 18)).outcome == "lost"
    assert _here(table, 19) == (1, [])
    assert (table.row("a")["status"], table.row("a")["heartbeat_at"]) == ("idle", at(19))
    assert heartbeat(table.database, _caller("a", pid, 20)).outcome == "lost"


def test_foreign_stale_claim_of_live_process_is_kept(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _caller("a", sleeper().pid), "SD-1")
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    before = table.row("a")
    assert _here(table, 5) == (1, [])
    assert table.row("a") == {**before, "heartbeat_at": at(5)}


def test_dead_process_ends_stale_session_and_keeps_loss(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    _reaped_elsewhere(table, child.pid)
    child.kill()
    child.wait()
    assert _here(table, 17) == (0, ["a"])
    assert table.row("a")["status"] == "released"
    assert table.own("a")["tombstone"]["reason"] == "silent"


@pytest.mark.parametrize("alive", [True, False])
def test_released_session_stays_released(table: Table, sleeper: Sleeper, alive: bool) -> None:
    child = sleeper()
    caller = _caller("a", child.pid)
    claim(table.database, caller, "SD-1")
    release(table.database, caller, end=True)
    if not alive:
        child.kill()
        child.wait()
    before = table.row("a")
    assert _here(table, 5) == (0, [])
    assert table.row("a") == before


def test_park_is_kept(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _caller("a", sleeper().pid), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,parked_until}', %s)",
        Jsonb(at(30).isoformat()),
    )
    assert _here(table, 5) == (1, [])
    assert table.own("a")["parked_until"] == at(30).isoformat()


def test_future_heartbeat_is_corrected(table: Table, sleeper: Sleeper) -> None:
    heartbeat(table.database, _caller("a", sleeper().pid, 1000), register=True)
    assert _here(table, 5) == (1, [])
    assert table.row("a")["heartbeat_at"] == at(5)


# -- concurrency and batches -------------------------------------------------------------------------------------------


def test_locked_row_is_left_to_next_run(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    for name in ("a", "b"):
        heartbeat(table.database, _caller(name, child.pid), register=True)
    with psycopg.connect(table.dsn) as holder:
        holder.execute("SELECT FROM public.claude_sessions WHERE session_id = 'a' FOR UPDATE")
        assert _here(table, 5) == (1, [])
        child.kill()
        child.wait()
        assert _here(table, 6) == (0, ["b"])
    assert _here(table, 7) == (0, ["a"])


@pytest.mark.parametrize("count", [1, 100])
def test_many_sessions_take_two_statements(table: Table, sleeper: Sleeper, count: int) -> None:
    pid = sleeper().pid
    for number in range(count):
        heartbeat(table.database, _caller(f"s-{number}", pid), register=True)
    watched = _Watched(table)
    assert _here(table, 5, watched) == (count, [])
    assert watched.statements == ["list_sessions_here", "renew_heartbeats"]
    assert table.execute("SELECT DISTINCT heartbeat_at AS at FROM public.claude_sessions") == [{"at": at(5)}]


def test_pages_of_sessions_are_renewed_each_in_a_message(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.heartbeat_here.PAGE", 2)
    pid = sleeper().pid
    for number in range(5):
        heartbeat(table.database, _caller(f"s-{number}", pid), register=True)
    watched = _Watched(table)
    assert _here(table, 5, watched) == (5, [])
    assert watched.statements == ["list_sessions_here", *["renew_heartbeats"] * 3]


def test_many_dead_sessions_are_released_in_one_statement(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    fences = {}
    for number in range(100):
        claimed = claim(table.database, _caller(f"s-{number}", child.pid), f"SD-{number}")
        fences[f"SD-{number}"] = claimed.session.session.fence
    child.kill()
    child.wait()
    watched = _Watched(table)
    renewed, released = _here(table, 1, watched)
    assert (renewed, sorted(released)) == (0, sorted(f"s-{number}" for number in range(100)))
    assert watched.statements == ["list_sessions_here", "reap_sessions"]
    for number in range(100):
        tombstone = table.own(f"s-{number}")["tombstone"]
        assert (tombstone["sd_id"], tombstone["fence"]) == (f"SD-{number}", fences[f"SD-{number}"])
    assert table.execute("SELECT DISTINCT status, sd_id FROM public.claude_sessions") == [
        {"status": "released", "sd_id": None}
    ]


def test_one_of_many_restarted_in_between_is_left_alone(table: Table, sleeper: Sleeper) -> None:
    child, second = sleeper(), sleeper()
    for name in ("a", "b", "c"):
        claim(table.database, _caller(name, child.pid), f"SD-{name}")
    child.kill()
    child.wait()
    back = lambda: heartbeat(table.another(), _caller("b", second.pid, 1))  # noqa: E731
    renewed, released = _here(table, 5, _Watched(table, "list_sessions_here", back))
    assert (renewed, sorted(released)) == (0, ["a", "c"])
    assert (table.row("b")["status"], table.row("b")["sd_id"], table.row("b")["heartbeat_at"]) == (
        "active",
        "SD-b",
        at(1),
    )


def test_no_session_takes_one_statement(table: Table) -> None:
    watched = _Watched(table)
    assert _here(table, 5, watched) == (0, [])
    assert watched.statements == ["list_sessions_here"]


@pytest.mark.parametrize("others", [0, 2000])
def test_claim_waiting_for_heartbeat_sees_holder(table: Table, others: int) -> None:
    for name in ("holder", "me"):
        heartbeat(table.database, make_caller(name), register=True)
    claim_item(table.database, make_caller("holder"), "SD-1")
    # The statistics of the table decide the plan.
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, status)"
        " SELECT 's-' || n, 'idle' FROM generate_series(1, %s) AS n",
        others,
    )
    table.execute("ANALYZE public.claude_sessions")
    with psycopg.connect(table.dsn) as beat, ThreadPoolExecutor(1) as pool:
        beat.execute("UPDATE public.claude_sessions SET heartbeat_at = now() WHERE session_id = 'holder'")
        claim = pool.submit(claim_item, table.another(), make_caller("me"), "SD-1")
        until_waiting(table.connection)
        beat.commit()
        with pytest.raises(HeldByAnother):
            claim.result()


def _deadlocks(table: Table) -> int:
    [row] = table.execute(
        "SELECT deadlocks, pg_stat_clear_snapshot() FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(row["deadlocks"])


@pytest.mark.faults
def test_two_at_once_with_claims_and_reaps_never_deadlock(table: Table, sleeper: Sleeper) -> None:
    living, corpse = [sleeper() for _ in range(3)], sleeper()
    dead, anonymous = process.read(corpse.pid), make_caller(None)
    corpse.kill()
    corpse.wait()
    callers = [make_caller(f"s-{n}", anchor=process.read(living[n % 3].pid)) for n in range(24)]
    for caller in callers:
        heartbeat(table.database, caller, register=True)
    before, over = _deadlocks(table), threading.Event()

    def beat(database: Database) -> list[str]:
        released = []
        while not over.is_set():
            released += heartbeat_here(database, anonymous).released
        return [verdict.session.session.session_id for verdict in released]

    def reap(database: Database) -> list[str]:
        changed = []
        while not over.is_set():
            changed += reap_sessions(database, anonymous).changed
        return [verdict.session.session.session_id for verdict in changed]

    def work(database: Database, mine: list[Caller], name: str) -> list[str]:
        for number in range(40):
            caller = mine[number % len(mine)]
            with suppress(HeldByAnother):
                claim(database, caller, f"SD-{number % 5}", switch=True)
                heartbeat(database, caller)
                release(database, caller)
            # Sessions of a dead process appear among the live ones.
            claim(database, make_caller(name, anchor=dead), f"SD-{name}")
        return []

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(do, table.another()) for do in (beat, beat, reap, reap)]
        workers = [pool.submit(work, table.another(), callers[n::4], f"d-{n}") for n in range(4)]
        try:
            for future in workers:
                future.result()
        finally:
            over.set()
        ended = [name for loop in loops for name in loop.result()]
    assert ended and all(name.startswith("d-") for name in ended)
    # The statistics are complete after the sessions have ended.
    assert _deadlocks(table) == before
    rows = table.execute(
        "SELECT status, sd_id, metadata FROM public.claude_sessions WHERE starts_with(session_id, 's-')"
    )
    assert len(rows) == 24
    assert {(row["status"], row["sd_id"]) for row in rows} == {("idle", None)}
    assert not any("tombstone" in row["metadata"]["claude_sessions_cli"] for row in rows)


# -- hidden processes and containers -----------------------------------------------------------------------------------

# Hide the processes of other users from an ordinary user, then run `heartbeat --here` as that user.
HIDDEN = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from claude_sessions_cli import database, process
from claude_sessions_cli.operations import heartbeat_here as keeping
from conftest import make_caller
with database.connect(sys.argv[1], "the test") as connection:
    assert ctypes.CDLL(None).unshare(0x20000) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    assert not Path(f"/proc/{os.getppid()}").exists()
    result = keeping.heartbeat_here(connection, make_caller(None))
    print(json.dumps([result.renewed, [seen.session.session.session_id for seen in result.released]]))
"""


def _namespaces() -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("namespaces need root and unshare")
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode:
        pytest.skip("root cannot create namespaces on this machine")


@needs_open_checkout
def test_process_hidden_from_user_is_left_alone(table: Table, sleeper: Sleeper) -> None:
    _namespaces()
    hidden, gone = sleeper(), sleeper()
    visible = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "600"])
    try:
        until(lambda: process.read(visible.pid).name == "sleep", "the program to start")
        for name, pid in (("hidden", hidden.pid), ("visible", visible.pid), ("gone", gone.pid)):
            claim(table.database, make_caller(name, anchor=process.read(pid), now=NOON), f"SD-{name}")
        gone.kill()
        gone.wait()
        before = table.row("hidden")
        done = subprocess.run(
            [sys.executable, "-c", HIDDEN, table.dsn],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stderr, done.returncode) == ("", 0)
        assert json.loads(done.stdout) == [1, ["gone"]]
        assert table.row("hidden") == before
        assert table.row("visible")["heartbeat_at"] > NOON
    finally:
        visible.kill()
        visible.wait()


@pytest.mark.faults
def test_host_and_container_keep_only_own_sessions(table: Table, sleeper: Sleeper, cli: Cli) -> None:
    _namespaces()
    child = sleeper()
    claim(table.database, make_caller("outside", anchor=process.read(child.pid), now=NOON), "SD-1")
    child.kill()
    child.wait()
    program = f"{shlex.quote(sys.executable)} -m claude_sessions_cli"
    # Inside, the pids of both sessions are small numbers that belong to other processes outside.
    script = (
        f"sleep 600 & {program} claim SD-2 --session lives --pid $! -q;"
        f" sleep 600 & {program} claim SD-3 --session dies --pid $! -q; kill $!; wait $! 2>/dev/null; echo ready;"
        f" read _; {program} heartbeat --here --json; kill %1"
    )
    inside = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", script],
        env={**os.environ, "CLAUDE_SESSIONS_DSN": table.dsn},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with inside:
        assert inside.stdin and inside.stdout
        assert inside.stdout.readline() == "ready\n"
        before = [table.row(name) for name in ("lives", "dies")]
        outside = cli("heartbeat", "--here", "--json", env={"CLAUDE_SESSIONS_DSN": table.dsn})
        data = json.loads(outside.stdout)["data"]
        assert (data["renewed"], [seen["session_id"] for seen in data["released"]]) == (0, ["outside"])
        assert [table.row(name) for name in ("lives", "dies")] == before
        answer, _ = inside.communicate("go\n", timeout=60)
        data = json.loads(answer)["data"]
        assert (data["renewed"], [seen["session_id"] for seen in data["released"]]) == (1, ["dies"])
