"""Every command with every fault of the wire at each of its messages.

Whatever happens: the command ends in time with one line, nothing is half done, and if the change may have been made,
the error says so and the same command settles it.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands.scenes import (
    LIVING,
    OTHER,
    OWN,
    Prepare,
    Scene,
    ended,
    held,
    holding,
    lapsed,
    living,
    nothing,
    parked,
    reaped,
    robbed,
    silent,
)
from conftest import Server, Table
from poll import until
from wire import AFTER, FAULTS, LATE, Fault, Message, Wire

from claude_sessions_cli import database
from claude_sessions_cli.operations import schema
from faults.pool import DOUBLE_HOLDERS

pytestmark = pytest.mark.faults
# In place of the tool's fifteen seconds.
ANSWER_TIMEOUT_S = 1.5
# From the fault to the end of the process: less than two answers take.
MOST_S = 2 * ANSWER_TIMEOUT_S
# The start of a process on a busy machine.
SLACK_S = 5.0
PROGRAM = f"""
from claude_sessions_cli import connection
assert connection.ANSWER_TIMEOUT_S
connection.ANSWER_TIMEOUT_S = {ANSWER_TIMEOUT_S}
from claude_sessions_cli.__main__ import main
main()
"""
LANES = 8
HINT = "the change may have been made; run the same command again to settle it"
TIMES = {"claimed_at", "heartbeat_at", "created_at", "updated_at", "at", "fence", "new_fence", "parked_until"}
EVENTS = "SELECT event, session_id, sd_id, reason, note FROM public.claude_session_events ORDER BY id"
State = dict[str, Any]


@dataclass
class Command:
    """A command line, the table before it, its exit code without a fault, and whether it writes."""

    line: str
    prepare: Prepare
    code: int = 0
    writes: bool = True

    def __str__(self) -> str:
        return f"{self.line} ({self.prepare.__name__})"


COMMANDS = [
    Command("heartbeat", holding),
    Command("heartbeat --register", nothing),
    Command("heartbeat", reaped),
    Command("heartbeat", robbed, 4),
    Command("heartbeat --here", living),
    Command("check SD-1", holding, writes=False),
    Command("list", held, writes=False),
    Command("history SD-1", holding, writes=False),
    Command("claim SD-1", nothing),
    Command("claim SD-1", holding),
    Command("claim SD-1", held, 3, writes=False),
    Command("claim SD-1", lapsed),
    Command("claim SD-2 --switch", holding),
    Command("claim SD-1 --force --reason urgent", held),
    Command("release", holding),
    Command("release --end", holding),
    Command(f"release --session {OTHER} --reason why", held),
    Command("park 20m", holding),
    Command("unpark", parked),
    Command("reap", silent),
    Command("reap --prune 1d", ended),
    Command("reap --dry-run", silent, writes=False),
]


@dataclass
class Ending:
    """How a process ended; the exit code is None if it had to be killed."""

    code: int | None
    seconds: float
    out: str
    err: str


@dataclass
class Clean:
    """A run without a fault: its messages, and what the table was before the first and after each."""

    messages: list[Message]
    states: list[State] = field(default_factory=list)


@dataclass
class Lane:
    """A database of its own, with a proxy before it."""

    scene: Scene
    wire: Wire
    directory: Path
    before: dict[str, Any] = field(default_factory=dict)

    def prepare(self, command: Command) -> None:
        """Make the table anew."""
        table = self.scene.table
        table.execute("SET session_replication_role = replica")
        table.execute("DELETE FROM public.claude_sessions")
        table.execute("DELETE FROM public.claude_session_events")
        table.execute("SET session_replication_role = origin")
        command.prepare(self.scene)
        self.before = self._rows()

    def run(self, command: Command, dsn: str, fault: Fault | None = None) -> Ending:
        """Run a command to its end, or until it is too late."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *command.line.split()],
            env={**environment, "CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": OWN},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while True:
            try:
                out, err = process.communicate(timeout=0.2)
                return Ending(process.returncode, time.monotonic() - begin, out, err)
            except subprocess.TimeoutExpired:
                started = (fault and fault.at) or begin + SLACK_S
                if time.monotonic() > started + MOST_S:
                    process.kill()
                    out, err = process.communicate()
                    return Ending(None, time.monotonic() - begin, out, err)

    def rests(self) -> bool:
        """Whether no statement of a command runs."""
        running = "backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()"
        found = self.scene.table.execute(
            f"SELECT FROM pg_stat_activity WHERE datname = current_database() AND {running}"
        )
        return not found

    def state(self) -> State:
        """Return the rows and the events of the table, with times as changed or unchanged since it was made."""
        # Several sessions change in the order of their random ids.
        events = sorted(self.scene.table.execute(EVENTS), key=lambda event: str(event["session_id"]))
        return {"rows": self.rows(), "events": events}

    def rows(self) -> dict[str, Any]:
        """Return the rows of the table, with times as changed or unchanged since it was made."""
        return {name: _relative(row, self.before.get(name)) for name, row in self._rows().items()}

    def _rows(self) -> dict[str, Any]:
        rows = self.scene.table.execute("SELECT session_id, to_jsonb(s) - 'id' AS whole FROM public.claude_sessions s")
        return {row["session_id"]: row["whole"] for row in rows}


def _relative(value: Any, before: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        was = before if isinstance(before, dict) else {}
        return {key: _relative(part, was.get(key), key) for key, part in value.items()}
    if name in TIMES and value is not None:
        return "unchanged" if value == before else "new"
    return value


@pytest.fixture(scope="module")
def lanes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[queue.SimpleQueue[Lane]]:
    """Return databases for cases that run at once."""
    free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    with ExitStack() as stack:
        # The same everywhere, as a row records them.
        started = [stack.enter_context(_process()) for _ in range(LIVING)]
        directory = tmp_path_factory.mktemp("codebase")
        for number in range(LANES):
            table = Table(stack.enter_context(_database(server, f"cs_wire_{number}")))
            stack.enter_context(table.stack)
            turns = itertools.cycle(started)
            scene = Scene(table, _no_cli, partial(next, turns))
            free.put(Lane(scene, stack.enter_context(Wire(table.dsn)), directory))
        yield free


@contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(["sleep", "600"])
    yield started
    started.kill()
    started.wait()


@contextmanager
def _database(server: Server, name: str) -> Iterator[str]:
    dsn = server.create(name)
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    yield dsn
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _no_cli(*argv: str, **_: Any) -> subprocess.CompletedProcess[str]:
    raise AssertionError("these scenes are set in this process")


def _run_cleanly(command: Command, lane: Lane) -> Clean:
    lane.prepare(command)
    states = [lane.state()]
    lane.wire.reset()
    lane.wire.observe = lambda _: states.append(lane.state())
    ending = lane.run(command, lane.wire.dsn)
    lane.wire.observe = None
    assert ending.code == command.code, ending
    clean = Clean(lane.wire.messages, states)
    assert len(states) == len(clean.messages) + 1 > 1
    # A command with several transactions would have a state between the two.
    assert all(state in (states[0], states[-1]) for state in states)
    assert command.writes == (states[0] != states[-1])
    return clean


@dataclass
class Case:
    """A fault at a message, and what is wrong with how the command ended."""

    command: Command
    message: Message
    kind: str
    ending: Ending | None = None
    after: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return a line of the table."""
        assert self.ending
        code = "hangs" if self.ending.code is None else str(self.ending.code)
        facts = f"{self.command!s:44}{self.message.number:3}  {self.kind:16}{self.ending.seconds:6.2f}{self.after:6.2f}"
        return "  ".join([f"{facts}{code:>6}", *self.wrong])


def _run_case(case: Case, clean: Clean, lane: Lane) -> None:
    command, number, kind = case.command, case.message.number, case.kind
    lane.prepare(command)
    fault = lane.wire.arm(Fault(kind, number, seconds=ANSWER_TIMEOUT_S / 2))
    case.ending = ending = lane.run(command, lane.wire.dsn, fault)
    case.after = time.monotonic() - (fault.at or time.monotonic())

    def check(holds: object, what: str) -> None:
        if not holds:
            case.wrong.append(what)

    came = fault.came.wait(SLACK_S)
    check(came, "the fault did not come")
    check(case.after < MOST_S, "too late")
    codes = {command.code} if kind == LATE else {6}
    if any(re.match(r"\s*ROLLBACK", text, re.I) for text in case.message.statements):
        # The answer is known already.
        codes.add(command.code)
    check(ending.code in codes, f"exit code {ending.code}, not {codes}")
    check("Traceback" not in ending.err, "a traceback")
    lines = ending.err.splitlines()
    check(len(lines) == (ending.code != 0), f"{len(lines)} lines of error")
    check(all(line.startswith("claude-sessions: ") and line.isprintable() for line in lines), f"printed {ending.err!r}")
    check(ending.code == command.code or not ending.out, f"printed {ending.out!r}")

    # An answer may be cut while the statements behind it still run.
    until(lane.rests, "the server has done what it was sent")
    state = lane.state()
    done = number if kind in (*AFTER, LATE) else number - 1
    wanted = clean.states[-1] if kind == LATE else clean.states[done]
    check(state == wanted, "half done" if state not in (clean.states[0], clean.states[-1]) else "not what was asked")
    check(lane.scene.table.execute(DOUBLE_HOLDERS) == [], "two holders")

    commits = clean.states[number] != clean.states[number - 1]
    if kind not in (LATE, "unknown error"):
        said = HINT in ending.err
        check(said or not commits, "does not say that the change may have been made")
        check(not said or command.writes, "says that it may have made a change, though it makes none")
    if commits:
        settled = lane.run(command, lane.scene.table.dsn)
        check(settled.code == command.code, f"again: exit code {settled.code}: {settled.err}")
        check(lane.rows() == clean.states[-1]["rows"], "again: not settled")
        check(lane.scene.table.execute(DOUBLE_HOLDERS) == [], "again: two holders")


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_fault_at_any_message_ends_in_time_and_whole(command: Command, lanes: queue.SimpleQueue[Lane]) -> None:
    lane = lanes.get()
    clean = _run_cleanly(command, lane)
    lanes.put(lane)
    cases = [Case(command, message, kind) for message in clean.messages for kind in FAULTS]

    def run(case: Case) -> None:
        lane = lanes.get()
        try:
            _run_case(case, clean, lane)
        finally:
            lanes.put(lane)

    with ThreadPoolExecutor(LANES) as started:
        list(started.map(run, cases))
    head = f"{'command':44}message, fault  seconds, after the fault, exit code"
    print("\n".join(["", head, *(case.line() for case in cases)]))
    wrong = [case.line() for case in cases if case.wrong]
    assert not wrong, "\n" + "\n".join(wrong)
