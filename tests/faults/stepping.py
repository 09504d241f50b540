"""Operations of the tool that stop before any of their statements, while others go on, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg

from claude_sessions_cli import database
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.transaction import Rows, Statement, Transaction
from faults.steps import OPENING, steps

GIVE_UP_S = 60

T = TypeVar("T")


class Clock:
    """The clock of the statements; no two read the same time."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._lock = threading.Lock()

    def move(self, seconds: float) -> None:
        """Let time pass, or step back."""
        with self._lock:
            self._now += timedelta(seconds=seconds)

    def read(self) -> datetime:
        """Return the time."""
        with self._lock:
            self._now += timedelta(microseconds=1)
            return self._now


@dataclass(eq=False)
class Operation:
    """One call of the tool, or one write of another program, in a thread of its own.

    `hold` is the statement before which it stops, counted after BEGIN; COMMIT counts as one.
    """

    kind: str
    session: str | None
    work: Callable[[Line], Any]
    hold: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False
    move: str = ""
    state: str = "running"
    result: Any = None
    error: Exception | None = None
    crashed: bool = False
    deadlocks: int = 0
    times: list[datetime] = field(default_factory=list)
    overlapped: set[Operation] = field(default_factory=set)
    statements: list[str] = field(default_factory=list)
    # What there was at each time from its begin to its end.
    moments: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        who = "another program" if self.foreign else self.session
        facts = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.kind} by {who} ({facts})"

    @property
    def alone(self) -> bool:
        """Whether nothing else was under way at any time."""
        return not self.overlapped


class Line:
    """A connection, and the operation that uses it."""

    def __init__(self, dsn: str, stage: Stage) -> None:
        self.stack = ExitStack()
        self.database: Database = self.stack.enter_context(database.connect(dsn, "the test"))
        self.connection = self.database._connection
        self.backend = self.connection.info.backend_pid
        self.operation: Operation | None = None
        self._stage = stage
        LINES[self.connection] = self

    def step(self, query: str, parameters: dict[str, Any], send: Callable[[dict[str, Any]], T]) -> T:
        """Stop before a statement, if it is the one; then send it, with the time of the stage."""
        operation = self.operation
        assert operation is not None
        self._stage.pass_gate(operation, query)
        if "now" in parameters:
            operation.times.append(self._stage.clock.read())
            parameters = {**parameters, "now": operation.times[-1]}
        try:
            return send(parameters)
        except psycopg.errors.DeadlockDetected:
            operation.deadlocks += 1
            raise

    def write(self, statement: str, **parameters: Any) -> int:
        """Write as another program does, in a transaction; return how many rows it touched."""
        # A failed ROLLBACK would become the next BEGIN's warning.
        execute = self.connection.execute
        execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            send = lambda given: execute(statement, given)  # noqa: E731
            count: int = self.step(statement, {"now": None, **parameters}, send).rowcount
            self.step("COMMIT", {}, lambda _: execute("COMMIT"))
            return count
        except psycopg.Error:
            if not self.connection.closed:
                execute("ROLLBACK")
            raise


# The lines by their connections.
LINES: WeakKeyDictionary[psycopg.Connection[Any], Line] = WeakKeyDictionary()


def _send_in_steps(tx: Transaction, statements: Sequence[Statement]) -> list[Rows]:
    """Send a message in steps, and stop before each but the first of a transaction: it has nothing to see yet."""
    line = LINES.get(tx._connection)
    if line is None:
        return _exchange(tx, statements)
    answers = []
    for step in steps(statements):
        if step[0].query in OPENING:
            answers += _exchange(tx, step)
            continue
        [statement] = step

        def send(given: dict[str, Any], query: str = statement.query) -> list[Rows]:
            return _exchange(tx, [Statement(query, **given)])

        answers += line.step(statement.query, statement.parameters, send)
    return answers


_exchange = Transaction._exchange
Transaction._exchange = _send_in_steps  # type: ignore[method-assign, assignment]


class Stage:
    """Where operations run, one at a time unless one stops or waits for a lock."""

    def __init__(self, dsn: str, clock: Clock) -> None:
        self.clock = clock
        self.under_way: list[tuple[Operation, Line]] = []
        self.ended: list[tuple[Operation, Line]] = []
        self._dsn = dsn
        self._turn = threading.Condition()
        self._idle: list[Line] = []
        self._observer = psycopg.connect(dsn, autocommit=True)

    def start(self, operation: Operation) -> None:
        """Run an operation until it ends, stops or waits, and those that waited for it as well."""
        for other, _ in self.under_way:
            other.overlapped.add(operation)
            operation.overlapped.add(other)
        line = self._idle.pop() if self._idle else Line(self._dsn, self)
        line.operation = operation
        self.under_way.append((operation, line))
        threading.Thread(target=self._run, args=(operation, line), daemon=True).start()
        self._settle()

    def resume(self, operation: Operation, steps: int = 0) -> None:
        """Resume a stopped operation, for `steps` statements or to its end."""
        with self._turn:
            operation.hold, operation.state = steps, "running"
            self._turn.notify_all()
        self._settle()

    def crash(self, operation: Operation) -> None:
        """Kill the client of a stopped operation."""
        [line] = [line for other, line in self.under_way if other is operation]
        operation.crashed = True
        self._observer.execute("SELECT pg_terminate_backend(%s, 5000)", (line.backend,))
        self.resume(operation)

    def pass_gate(self, operation: Operation, query: str) -> None:
        """Stop before a statement, if it is this one."""
        operation.statements.append(query.strip().splitlines()[-1])
        with self._turn:
            if operation.hold > 0:
                operation.hold -= 1
                if operation.hold == 0:
                    operation.state = "parked"
                    self._turn.notify_all()
                    self._turn.wait_for(lambda: operation.state == "running")

    def collect(self) -> list[Operation]:
        """Return the operations that have ended since, and use their connections again."""
        operations = []
        for operation, line in self.ended:
            operations.append(operation)
            line.operation = None
            if line.connection.closed or operation.crashed:
                line.stack.close()
            else:
                self._idle.append(line)
        self.ended = []
        return operations

    def find(self, backend: int) -> Operation:
        """Return the operation of a connection."""
        for operation, line in self.under_way + self.ended:
            if line.backend == backend:
                return operation
        raise AssertionError("a change by no operation")

    def stopped(self) -> list[Operation]:
        """Return the stopped operations; if any is running, at least one is stopped."""
        return [operation for operation, _ in self.under_way if operation.state == "parked"]

    def finish(self) -> None:
        """Finish all operations."""
        while self.under_way:
            self.resume(self.stopped()[0])

    def close(self) -> None:
        """Close the connections."""
        self.collect()
        for line in self._idle:
            line.stack.close()
        self._observer.close()

    def _run(self, operation: Operation, line: Line) -> None:
        try:
            operation.result = operation.work(line)
        except (SessionsError, psycopg.Error) as error:
            operation.error = error
        except Exception as error:  # a bug, which the test's own thread reports
            operation.error = error
        with self._turn:
            operation.state = "ended"
            self._turn.notify_all()

    def _settle(self) -> None:
        """Wait until nothing runs: all have ended, stopped, or wait for one that has stopped."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            with self._turn:
                self._turn.wait_for(lambda: not self._running(), timeout=0.005)
                running = self._running()
                self.ended += [pair for pair in self.under_way if pair[0].state == "ended"]
                self.under_way = [pair for pair in self.under_way if pair[0].state != "ended"]
            if not running or self._all_wait([line.backend for _, line in running]):
                return
            assert time.monotonic() < deadline, f"does not end: {running[0][0]}"

    def _running(self) -> list[tuple[Operation, Line]]:
        return [pair for pair in self.under_way if pair[0].state == "running"]

    def _all_wait(self, backends: list[int]) -> bool:
        row = self._observer.execute(
            "SELECT bool_and(cardinality(pg_blocking_pids(pid)) > 0) FROM unnest(%s::integer[]) AS pid", (backends,)
        ).fetchone()
        return row is not None and bool(row[0])
