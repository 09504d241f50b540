"""A process with a connection of its own: reads commands from stdin, one JSON object a line, and answers each in kind.

It ends with its stdin. `arm` makes it kill or stop itself, or lose its connection, before a chosen statement.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from claude_sessions_cli import database, process, transaction
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError, Unreachable, UsageError
from claude_sessions_cli.identity import Identity
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import ClaimResult, claim
from claude_sessions_cli.operations.heartbeat import HeartbeatResult, heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import ReleaseResult, release
from claude_sessions_cli.settings import Settings
from claude_sessions_cli.transaction import Rows, Statement, Transaction
from faults.steps import steps

Answer = dict[str, Any]
T = TypeVar("T")
# Legitimate refusals; any other error is a failure of the tool.
REFUSALS = (HeldByAnother, NotHeld, UsageError)
RECONNECT_S = 30.0
HOLD_S = 0.01


@dataclass
class Fault:
    """The fault of this process before the statement that is `countdown` statements away."""

    countdown: int = 0
    kind: str = ""
    admin_dsn: str = ""

    def step(self, connection: psycopg.Connection[Any]) -> None:
        """Count a statement that is about to be sent."""
        if not self.countdown:
            return
        self.countdown -= 1
        if self.countdown:
            return
        if self.kind == "terminate":
            with psycopg.connect(self.admin_dsn, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        else:
            os.kill(os.getpid(), getattr(signal, f"SIG{self.kind.upper()}"))


fault = Fault()


def _hook_statements() -> None:
    exchange = Transaction._exchange

    def one_by_one(tx: Transaction, statements: Sequence[Statement]) -> list[Rows]:
        answers = []
        for step in steps(statements):
            fault.step(tx._connection)
            answers += exchange(tx, step)
        return answers

    Transaction._exchange = one_by_one  # type: ignore[method-assign, assignment]


class Oracle:
    """Exclusion as the kernel sees it: a session that believes to hold an item holds the lock of its file as well."""

    def __init__(self, directory: str, item: str) -> None:
        self._file = os.open(Path(directory, item), os.O_RDWR | os.O_CREAT)

    def enter(self, fence: int) -> str | None:
        """Take the lock under a fence; return the problem, if any."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "two holders"
        last = int(os.pread(self._file, 32, 0) or 0)
        os.pwrite(self._file, str(fence).encode(), 0)
        return None if last < fence else f"fence {fence} after {last}"

    def leave(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)


class Worker:
    """The commands of this process, one per method."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._database: Database | None = None
        self._dsn = ""
        self._oracles: dict[str, Oracle] = {}

    def connect(self, dsn: str, timeout_ms: int = transaction.STATEMENT_TIMEOUT_MS) -> Answer:
        """Open a connection, closing the one before."""
        self.disconnect()
        transaction.STATEMENT_TIMEOUT_MS = timeout_ms
        self._dsn = dsn
        self._database = self._stack.enter_context(database.connect(dsn, "the test"))
        return {}

    def disconnect(self) -> Answer:
        """Close the connection."""
        self._stack.close()
        self._database = None
        return {}

    def arm(self, statement: int, kind: str, admin_dsn: str = "") -> Answer:
        """Make `kill`, `stop` or `terminate` hit this process before its n-th statement from now."""
        fault.countdown, fault.kind, fault.admin_dsn = statement, kind, admin_dsn
        return {}

    def disarm(self) -> Answer:
        """Cancel the fault, and return whether it came."""
        came, fault.countdown = fault.countdown == 0, 0
        return {"came": came}

    def claim(self, session: str, sd: str, switch: bool = False, force: bool = False, **who: Any) -> Answer:
        """Claim an item once."""
        reason = "a race" if force else None
        return _claimed(claim(self._connection, _caller(session, **who), sd, switch=switch, force_reason=reason))

    def heartbeat(self, session: str, register: bool = False, **who: Any) -> Answer:
        """Prove a session's life."""
        return _beaten(heartbeat(self._connection, _caller(session, **who), register=register))

    def release(self, session: str, sd: str | None = None, end: bool = False) -> Answer:
        """Give a session's claim back."""
        return _released(release(self._connection, _caller(session), sd, end=end))

    def reap(self, session: str = "reaper", **who: Any) -> Answer:
        """Reap once."""
        result = reap(self._connection, _caller(session, **who))
        return {"changed": sorted(verdict.session.session.session_id for verdict in result.changed)}

    def contend(self, session: str, items: list[str], attempts: int, directory: str, restarts: bool = False) -> Answer:
        """Claim and release `attempts` times, and report the counts and the errors.

        With `restarts` the server may go away at any moment: its answers must still hold afterwards.
        """
        caller, counts, wrong = _caller(session), Counter[str](), []
        choose = random.Random(session)
        for _ in range(attempts):
            item = choose.choice(items)
            counts["attempts"] += 1
            try:
                result, in_doubt = self._survive(restarts, partial(self._claim, caller, item))
            except HeldByAnother:
                counts["held"] += 1
                continue
            counts[result.outcome] += 1
            counts["went away"] += in_doubt
            # If the answer was lost with the server, the first attempt may have been carried out.
            if result.outcome != "claimed" and not (in_doubt and result.outcome == "already_yours"):
                wrong.append(f"{session} on {item}: {result.outcome}")
            oracle = self._oracle(directory, item)
            problem = oracle.enter(result.session.session.fence or 0)
            if problem:
                wrong.append(f"{session} on {item}: {problem}")
            # A holder that keeps its item for a moment makes the others lose.
            time.sleep(choose.uniform(0, HOLD_S))
            oracle.leave()
            released, in_doubt = self._survive(restarts, lambda: release(self._connection, caller))
            counts["went away"] += in_doubt
            if released.sd_id != item and not in_doubt:
                wrong.append(f"{session} on {item}: its release found {released.outcome}")
        return {"counts": counts, "wrong": wrong}

    def churn(self, session: str, items: list[str], count: int, weights: dict[str, int], stale_after: float) -> Answer:
        """Do `count` operations at random, and report the counts of the answers and the failures."""
        choose, counts, wrong = random.Random(session), Counter[str](), []
        caller = _caller(session, stale_after)
        names, chances = list(weights), list(weights.values())
        for _ in range(count):
            name, item = choose.choices(names, chances)[0], choose.choice(items)
            try:
                answer = self._do(name, caller, item)
                counts[f"{name}: {answer.get('outcome') or len(answer['changed'])}"] += 1
            except REFUSALS as error:
                counts[f"{name}: {type(error).__name__}"] += 1
            except SessionsError as error:
                wrong.append(f"{session} {name}: {type(error).__name__}: {error.message}")
        return {"counts": counts, "wrong": wrong}

    def _do(self, name: str, caller: Caller, item: str) -> Answer:
        connection = self._connection
        if name == "reap":
            result = reap(connection, caller)
            return {"changed": result.changed}
        if name == "heartbeat":
            return _beaten(heartbeat(connection, caller, register=True))
        if name in ("release", "end"):
            return _released(release(connection, caller, end=name == "end"))
        reason = "a race" if name == "force" else None
        return _claimed(claim(connection, caller, item, switch=name != "claim", force_reason=reason))

    @property
    def _connection(self) -> Database:
        assert self._database is not None, "not connected"
        return self._database

    def _claim(self, caller: Caller, item: str) -> ClaimResult:
        return claim(self._connection, caller, item)

    def _oracle(self, directory: str, item: str) -> Oracle:
        if item not in self._oracles:
            self._oracles[item] = Oracle(directory, item)
        return self._oracles[item]

    def _survive(self, restarts: bool, work: Callable[[], T]) -> tuple[T, int]:
        """Do `work`, once more on a new connection for every time that the server went away; count those."""
        deadline = time.monotonic() + RECONNECT_S
        failures = 0
        while True:
            try:
                if self._database is None:
                    self.connect(self._dsn)
                return work(), failures
            except Unreachable:
                if not restarts or time.monotonic() > deadline:
                    raise
                failures += 1
                self.disconnect()
                time.sleep(0.02)


def _caller(session: str, stale_after: float = 900.0, pid: int | None = None) -> Caller:
    anchor = process.read(pid) if pid else None
    identity = Identity(session, anchor, None, "codebase", "/tmp/codebase", "main", this_host())
    return Caller(identity, Settings(None, "the test", stale_after, 60.0))


def _claimed(result: ClaimResult) -> Answer:
    evicted = result.evicted.session.session_id if result.evicted else None
    return {"outcome": result.outcome, "fence": result.session.session.fence, "evicted": evicted}


def _beaten(result: HeartbeatResult) -> Answer:
    tombstone = result.tombstone.as_metadata() if result.tombstone else None
    return {"outcome": result.outcome, "fence": result.session.session.fence, "tombstone": tombstone}


def _released(result: ReleaseResult) -> Answer:
    return {"outcome": result.outcome, "sd_id": result.sd_id}


def main() -> None:
    """Answer commands until stdin ends."""
    _hook_statements()
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except SessionsError as error:
            answer = {"error": type(error).__name__, "exit_code": error.exit_code, "message": error.message}
        except Exception as error:
            answer = {"error": type(error).__name__, "exit_code": 1, "message": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
