"""Sessions, other programs, processes and a clock, driven by Hypothesis and checked after every step."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import psycopg
from conftest import make_caller
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg.rows import dict_row

from claude_sessions_cli import process, queries
from claude_sessions_cli.errors import HeldByAnother, NotHeld, PermissionDenied, UsageError
from claude_sessions_cli.operations import term as term_module
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.history import History, read
from claude_sessions_cli.operations.history import Term as RecordedTerm
from claude_sessions_cli.operations.park import park, unpark
from claude_sessions_cli.operations.reap import ReapResult, reap
from claude_sessions_cli.operations.release import release, release_other
from claude_sessions_cli.operations.wait import claim_any
from faults import laws
from faults.laws import Change, Ledger, Row, Term, demand
from faults.oracle import Oracle
from faults.pool import SCHEMAS
from faults.stepping import Clock, Line, Operation, Stage

START = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
ITEMS = ["SD-A", "SD-B", "SD-C"]
# How long each session may be silent; the first three are processes of this host.
PATIENCE = {"alpha": 900.0, "beta": 300.0, "gamma": 900.0, "delta": 900.0, "omega": 300.0}
ANCHORED = ("alpha", "beta", "gamma")
STRANGERS = ["stranger-1", "stranger-2"]
REFUSALS = (HeldByAnother, NotHeld, UsageError)
STATUSES = ["active", "idle", "stale", "released", None]
AT_ONCE = 3

who = st.sampled_from(list(PATIENCE))
anyone = st.sampled_from([*PATIENCE, *STRANGERS])
# One item is wanted more than the others.
item = st.sampled_from([ITEMS[0], ITEMS[0], *ITEMS])
# The statement before which an operation stops; usually it does not.
hold = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
index = st.integers(0, 15)
flag = st.booleans()
seldom = st.sampled_from([False, False, False, True])


@dataclass
class Anchor:
    """A process that a session is."""

    child: subprocess.Popen[bytes]
    process: process.Process
    alive: bool = True


def make_database(create: Callable[[str], str], name: str, files: list[str]) -> str:
    """Make a database with repeatable read as the default isolation."""
    dsn = create(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for file in files:
            connection.execute((queries.directory() / "ddl" / file).read_bytes())
        connection.execute(laws.JOURNAL)
        for setting, value in {
            "default_transaction_isolation": "repeatable read",
            "deadlock_timeout": "10ms",
            "synchronous_commit": "off",
            "timezone": "UTC",
        }.items():
            connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    return dsn


@contextmanager
def stage_database(create: Callable[[str], str], name: str, schema: str) -> Iterator[str]:
    """Make a database for the machine, and drop it."""
    dsn = make_database(create, name, SCHEMAS[schema])
    yield dsn
    with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, dbname="template1"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class LeaseMachine(RuleBasedStateMachine):
    """The table, and all that act on it."""

    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self, dsn: str, has_history: bool) -> None:
        super().__init__()
        self.has_history = has_history
        self.clock = Clock(START)
        self._dsn = dsn
        self.stage = Stage(dsn, self.clock)
        self.observer = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self.observer.execute("TRUNCATE public.claude_sessions, public.journal")
        if has_history:
            self.observer.execute("TRUNCATE public.claude_session_events")
        self.anchors: dict[str, Anchor] = {}
        self.children: list[Anchor] = []
        self.ledger = Ledger(has_history, self.is_alive)
        self.oracle = Oracle(self.ledger, self.clock)
        self.changes: dict[Operation, list[Change]] = {}
        # False once a check failed: its consequences are not checked.
        self.sound = True

    # Actors.

    def is_alive(self, row: Row) -> bool | None:
        """Whether the process that a row records lives; None if the record is incomplete."""
        record = laws.own(row).get("process")
        if not isinstance(record, dict) or row["pid"] is None or record.get("pid") != row["pid"]:
            return None
        for anchor in self.children:
            if (anchor.process.pid, anchor.process.start) == (record.get("pid"), record.get("start")):
                return anchor.alive
        return None

    def anchor(self, session: str) -> Anchor:
        """Return a session's process, which it starts when it is first asked for."""
        if session not in self.anchors:
            child = subprocess.Popen(["sleep", "600"])
            self.anchors[session] = Anchor(child, process.read(child.pid))
            self.children.append(self.anchors[session])
        return self.anchors[session]

    def caller(self, session: str, sees: bool = True) -> Caller:
        """Return a session; `sees` is whether the command sees the process that the session is."""
        anchor = self.anchor(session).process if sees and session in ANCHORED else None
        return make_caller(
            session,
            anchor=anchor,
            now=START,
            stale_after=PATIENCE[session],
            cwd=f"/tmp/{session}",
            tty=f"/dev/{session}",
        )

    # How an operation runs.

    def operate(
        self,
        kind: str,
        caller: Caller,
        hold: int,
        work: Callable[[Line], Any],
        expected: Callable[[], object] | None = None,
        **facts: Any,
    ) -> Operation:
        """Start an operation of the tool, and check its changes and its answer so far."""
        facts = {"stale_after": caller.settings.stale_after, "process": caller.identity.process_record, **facts}
        return self._start(Operation(kind, caller.identity.session_id, work, hold, facts), expected)

    def write(self, kind: str, hold: int, statement: str, **parameters: Any) -> Operation:
        """Write as another program does."""
        # Few other programs keep a transaction open: it stops before COMMIT if at all.
        hold = 2 if hold > 5 else 0
        return self._start(
            Operation(kind, None, lambda line: line.write(statement, **parameters), hold, parameters, foreign=True),
            None,
        )

    def _start(self, operation: Operation, expected: Callable[[], object] | None) -> Operation:
        while len(self.stage.under_way) >= AT_ONCE:
            self.stage.resume(self.stage.stopped()[0])
            self.account()
        operation.facts["expected"] = expected() if expected else None
        self.stage.start(operation)
        self.account()
        return operation

    def account(self) -> None:
        """Read and check the changes since the last call."""
        self.sound = False
        entries: dict[int, dict[bool, Row]] = {}
        backends: dict[int, int] = {}
        for row in self.observer.execute("SELECT * FROM public.journal ORDER BY entry, later").fetchall():
            entry, later = row.pop("entry"), row.pop("later")
            backends[entry] = row.pop("backend")
            entries.setdefault(entry, {})[later] = row
        if entries:
            self.observer.execute("DELETE FROM public.journal WHERE entry = ANY(%s)", (list(entries),))
        changes = [
            Change(self.stage.find(backends[entry]), sides.get(False), sides.get(True))
            for entry, sides in entries.items()
        ]
        for change in changes:
            self.changes.setdefault(change.operation, []).append(change)
        self.ledger.record(changes)
        for operation in self.stage.collect():
            self.check_ended(operation)
        self.check_table()
        self.check_terms()
        self.sound = True

    def check_ended(self, operation: Operation) -> None:
        """Check the answer and the effects of an operation that has ended."""
        expected = operation.facts.pop("expected", None)
        changes = self.changes.pop(operation, [])
        answer = self.answer(operation)
        self.tally[f"{operation.kind}: {answer}"] += 1
        self.tally["not alone"] += not operation.alone
        if isinstance(operation.error, psycopg.errors.UniqueViolation):
            demand(operation.foreign, "a unique violation", operation)
        elif operation.error and not isinstance(operation.error, REFUSALS) and not operation.crashed:
            deleted = any(other.kind == "delete" for other in operation.overlapped)
            if not (deleted and isinstance(operation.error, PermissionDenied)):
                raise operation.error
        self.ledger.check_ended(operation, changes)
        if operation.alone and not operation.crashed and expected is not None:
            demand(answer == expected, "not the answer that was to be expected", operation, answer, expected)

    @staticmethod
    def answer(operation: Operation) -> Any:
        """Return the answer of an operation in a word."""
        if operation.error is not None:
            return type(operation.error).__name__
        result = operation.result
        if isinstance(result, ReapResult):
            return "reaped " + " ".join(
                sorted(f"{verdict.session.session.session_id}={verdict.to}" for verdict in result.changed)
            )
        return getattr(result, "outcome", "done")

    # The commands.

    @initialize(holders=st.permutations(list(PATIENCE)))
    def begin(self, holders: list[str]) -> None:
        """Begin with two items held and a session that waits."""
        for session, sd_id in zip(holders, ITEMS[:2], strict=False):
            self.claim(session, sd_id, switch=False, force=False, sees=True, hold=0)
        self.heartbeat(holders[2], register=True, sees=True, hold=0)

    @rule(first=who, second=who, sd_id=item, switch=flag, force=seldom, hold=st.integers(1, 8), steps=st.integers(0, 3))
    def race(self, first: str, second: str, sd_id: str, switch: bool, force: bool, hold: int, steps: int) -> None:
        """Claim an item by two sessions, by the second while the first has stopped."""
        self.claim(first, sd_id, switch=switch, force=force, sees=True, hold=hold)
        self.claim(second, sd_id, switch=switch, force=False, sees=True, hold=0)
        self.go_on(0, steps)

    @rule(session=who, sd_id=item, switch=seldom, force=seldom, sees=flag, hold=hold)
    def claim(self, session: str, sd_id: str, switch: bool, force: bool, sees: bool, hold: int) -> None:
        caller, reason = self.caller(session, sees), "it is urgent" if force else None
        self.operate(
            "claim",
            caller,
            hold,
            lambda line: claim(line.database, caller, sd_id, switch=switch, force_reason=reason),
            lambda: self.oracle.claim(caller, sd_id, switch, force),
            items=[sd_id],
            force=force,
        )

    @rule(session=who, sd_ids=st.permutations(ITEMS), hold=hold)
    def claim_any(self, session: str, sd_ids: list[str], hold: int) -> None:
        caller = self.caller(session)

        def work(line: Line) -> object:
            return claim_any(line.database, caller, sd_ids, lambda sd_id: claim(line.database, caller, sd_id))

        self.operate("claim_any", caller, hold, work, items=sd_ids, force=False)

    @rule(session=who, register=flag, sees=flag, hold=hold)
    def heartbeat(self, session: str, register: bool, sees: bool, hold: int) -> None:
        caller = self.caller(session, sees)
        self.operate(
            "heartbeat",
            caller,
            hold,
            lambda line: heartbeat(line.database, caller, register=register),
            lambda: self.oracle.heartbeat(caller, register),
        )

    @rule(hold=hold)
    def heartbeat_here(self, hold: int) -> None:
        caller = make_caller("cron", now=START)
        self.operate("here", caller, hold, lambda line: heartbeat_here(line.database, caller))

    @rule(session=who, sd_id=st.sampled_from([None, None, *ITEMS]), end=seldom, hold=hold)
    def release(self, session: str, sd_id: str | None, end: bool, hold: int) -> None:
        caller = self.caller(session)
        self.operate(
            "release",
            caller,
            hold,
            lambda line: release(line.database, caller, sd_id, end=end),
            lambda: self.oracle.release(caller, sd_id, end),
            sd_id=sd_id,
        )

    @rule(
        session=who,
        prefix=st.sampled_from([*PATIENCE, "al", "stranger", "stranger-1"]),
        end=seldom,
        reason=st.sampled_from([None, "on a word"]),
        hold=hold,
    )
    def release_other(self, session: str, prefix: str, end: bool, reason: str | None, hold: int) -> None:
        caller = self.caller(session)
        self.operate(
            "release_other",
            caller,
            hold,
            lambda line: release_other(line.database, caller, prefix, None, end=end, reason=reason),
            lambda: self.oracle.release_other(caller, prefix, end, reason),
            reason=reason,
        )

    @rule(session=who, seconds=st.sampled_from([300.0, 2700.0]), hold=hold)
    def park(self, session: str, seconds: float, hold: int) -> None:
        caller = self.caller(session)
        self.operate(
            "park",
            caller,
            hold,
            lambda line: park(line.database, caller, seconds),
            lambda: self.oracle.park(caller),
        )

    @rule(session=who, hold=hold)
    def unpark(self, session: str, hold: int) -> None:
        caller = self.caller(session)
        self.operate(
            "unpark", caller, hold, lambda line: unpark(line.database, caller), lambda: self.oracle.park(caller)
        )

    @rule(session=who, hold=hold)
    def check(self, session: str, hold: int) -> None:
        caller = self.caller(session)
        self.operate(
            "check",
            caller,
            hold,
            lambda line: check(line.database, caller),
            lambda: self.oracle.check(caller, None, None),
        )

    def term(self, number: int) -> Term | None:
        """Return one of the terms there were, the latest for 0."""
        terms = [term for term in self.ledger.terms if term.fence is not None and term.session in PATIENCE]
        return terms[-1 - number % len(terms)] if terms else None

    @rule(number=index, hold=hold)
    def check_fence(self, number: int, hold: int) -> None:
        term = self.term(number)
        if term is None:
            return
        caller, was_over = self.caller(term.session), term.ended
        done = self.operate(
            "check",
            caller,
            hold,
            lambda line: check(line.database, caller, term.item, fence=term.fence),
            lambda: self.oracle.check(caller, term.item, term.fence),
        )
        revived = any(operation.foreign for operation in done.overlapped)
        demand(
            not (was_over and term.ended and done.state == "ended" and not done.error) or revived, "an old fence", term
        )

    @rule(number=index, hold=hold)
    def renew_term(self, number: int, hold: int) -> None:
        term = self.term(number)
        if term is None or term.fence is None:
            return
        caller, fence = self.caller(term.session), term.fence
        self.operate(
            "renew_term",
            caller,
            hold,
            lambda line: term_module.renew(line.database, caller, term.item, fence),
            lambda: self.oracle.renew_term(caller, term.item, fence),
            term=term,
        )

    @rule(number=index, hold=hold)
    def release_term(self, number: int, hold: int) -> None:
        term = self.term(number)
        if term is None or term.fence is None:
            return
        caller, fence = self.caller(term.session), term.fence
        self.operate(
            "release_term",
            caller,
            hold,
            lambda line: term_module.release(line.database, caller, term.item, fence, reason="completed"),
            lambda: self.oracle.release_term(caller, term.item, fence),
            term=term,
        )

    @rule(
        max_age=st.sampled_from([None, None, 5000.0]),
        prune=st.sampled_from([None, None, 200000.0]),
        stale_after=st.sampled_from([300.0, 900.0]),
        hold=hold,
    )
    def reap(self, max_age: float | None, prune: float | None, stale_after: float, hold: int) -> None:
        caller = make_caller("cron", now=START, stale_after=stale_after)
        self.operate(
            "reap",
            caller,
            hold,
            lambda line: reap(line.database, caller, max_age=max_age, prune=prune),
            lambda: self.oracle.reap(caller, max_age),
            max_age=max_age,
            prune=prune,
        )

    # Events.

    def surprise(self) -> None:
        """Drop the expectations of running operations: something besides an operation has happened."""
        for operation in self.stage.stopped():
            operation.facts["expected"] = None

    @rule(seconds=st.sampled_from([61, 403, 907, 907, 2801, 90_001]))
    def advance_the_clock(self, seconds: int) -> None:
        self.surprise()
        self.clock.move(seconds)

    @rule(seconds=st.sampled_from([5, 650, 95_000]))
    def step_the_clock_back(self, seconds: int) -> None:
        self.surprise()
        self.clock.move(-seconds)

    @rule(session=st.sampled_from(ANCHORED), leaves_a_zombie=seldom)
    def kill(self, session: str, leaves_a_zombie: bool) -> None:
        anchor = self.anchors.pop(session, None)
        if anchor is None:
            return
        self.surprise()
        anchor.alive = False
        anchor.child.kill()
        if not leaves_a_zombie:
            anchor.child.wait()
            return
        while not process.read(anchor.child.pid).zombie:
            pass

    @rule(number=index, steps=st.integers(0, 4))
    def go_on(self, number: int, steps: int) -> None:
        if stopped := self.stage.stopped():
            self.stage.resume(stopped[number % len(stopped)], steps)
            self.account()

    @rule(number=index)
    def crash(self, number: int) -> None:
        if stopped := self.stage.stopped():
            self.stage.crash(stopped[number % len(stopped)])
            self.account()

    # Other programs.

    @rule(
        session=anyone,
        sd_id=st.sampled_from([None, *ITEMS]),
        status=st.sampled_from(STATUSES),
        age=st.sampled_from([None, 0, 1000, 100_000, -3600]),
        hold=hold,
    )
    def insert(self, session: str, sd_id: str | None, status: str | None, age: int | None, hold: int) -> None:
        self.write(
            "insert",
            hold,
            "INSERT INTO public.claude_sessions"
            " (session_id, sd_id, status, claimed_at, heartbeat_at, created_at, updated_at, metadata)"
            " VALUES (%(session)s, %(sd_id)s, %(status)s, %(now)s - make_interval(secs => %(age)s),"
            " %(now)s - make_interval(secs => %(age)s), %(now)s, %(now)s, '{\"theirs\": 1}')"
            " ON CONFLICT (session_id) DO NOTHING",
            session=session,
            sd_id=sd_id,
            status=status,
            # Without history nothing remembers a fence from the future.
            age=max(age, 0) if age is not None and not self.has_history else age,
        )

    @rule(session=anyone, hold=hold)
    def delete(self, session: str, hold: int) -> None:
        self.write("delete", hold, "DELETE FROM public.claude_sessions WHERE session_id = %(session)s", session=session)

    @rule(session=anyone, status=st.sampled_from(STATUSES), hold=hold)
    def set_status(self, session: str, status: str | None, hold: int) -> None:
        self.write(
            "set status",
            hold,
            "UPDATE public.claude_sessions SET status = %(status)s, updated_at = %(now)s"
            " WHERE session_id = %(session)s",
            session=session,
            status=status,
        )

    @rule(session=anyone, hold=hold)
    def beat(self, session: str, hold: int) -> None:
        self.write(
            "beat",
            hold,
            "UPDATE public.claude_sessions SET heartbeat_at = %(now)s WHERE session_id = %(session)s",
            session=session,
        )

    @rule(session=anyone, hold=hold)
    def write_metadata(self, session: str, hold: int) -> None:
        self.write(
            "write metadata",
            hold,
            'UPDATE public.claude_sessions SET metadata = metadata || \'{"theirs": 2, "seen": [true, null]}\''
            " WHERE session_id = %(session)s AND jsonb_typeof(metadata) = 'object'",
            session=session,
        )

    @rule(session=anyone, metadata=st.sampled_from([None, "[]", '{"claude_sessions_cli": "mine"}', '{"theirs": 3}']))
    def overwrite_metadata(self, session: str, metadata: str | None) -> None:
        self.write(
            "overwrite metadata",
            0,
            "UPDATE public.claude_sessions SET metadata = %(metadata)s WHERE session_id = %(session)s",
            session=session,
            metadata=metadata,
        )

    @rule(session=anyone, sd_id=item, hold=hold)
    def take(self, session: str, sd_id: str, hold: int) -> None:
        self.write(
            "take",
            hold,
            "UPDATE public.claude_sessions SET sd_id = %(sd_id)s, status = 'active', claimed_at = %(now)s,"
            " heartbeat_at = %(now)s WHERE session_id = %(session)s AND sd_id IS NULL",
            session=session,
            sd_id=sd_id,
        )

    @rule(session=anyone, in_part=flag, hold=hold)
    def clear(self, session: str, in_part: bool, hold: int) -> None:
        rest = "" if in_part else ", claimed_at = NULL, track = NULL, status = 'idle'"
        self.write(
            "clear",
            hold,
            f"UPDATE public.claude_sessions SET sd_id = NULL{rest} WHERE session_id = %(session)s",
            session=session,
        )

    # Invariants.

    def check_table(self) -> None:
        table = {row["id"]: row for row in self.observer.execute("SELECT * FROM public.claude_sessions").fetchall()}
        demand(table == self.ledger.rows, "the journal and the table differ", table, self.ledger.rows)
        self.ledger.check_state()

    def check_terms(self) -> None:
        if not self.has_history:
            return
        recorded = self.recorded_terms()
        began = [(term.session, term.item, term.fence) for term in self.ledger.terms]
        demand(
            sorted(map(str, began)) == sorted(str(key) for key, _ in recorded),
            "other terms than there were",
            began,
            recorded,
        )
        holders = {
            (row["session_id"], row["sd_id"], laws.fence(row)) for row in self.ledger.rows.values() if laws.holds(row)
        }
        lasting = [key for key, end in recorded if end is None]
        demand(
            len(lasting) == len(holders) and set(lasting) == holders,
            "the history and the table disagree on the open terms",
            recorded,
        )

    def recorded_terms(self) -> list[tuple[tuple[str, str, int | None], Row | None]]:
        """Return the terms by the order of their events, each with the event that ended it."""
        recorded: list[tuple[tuple[str, str, int | None], Row | None]] = []
        by_tool = {(t.session, t.item, t.fence) for t in self.ledger.terms if not t.operation.foreign}
        # Another program can bring a term of the tool back.
        by_tool -= {(t.session, t.item, t.fence) for t in self.ledger.terms if t.operation.foreign}
        events = self.observer.execute("SELECT * FROM public.claude_session_events ORDER BY id").fetchall()
        for event in events:
            key = (event["session_id"], event["sd_id"], laws.fence(event))
            if event["event"] == "claimed":
                over = [
                    other for other, end in recorded if end is None and other[1] == key[1] and {other, key} <= by_tool
                ]
                demand(not over, "terms overlap in the history", over, key)
                recorded.append((key, None))
            elif event["event"] == "unclaimed":
                last = next((n for n in reversed(range(len(recorded))) if recorded[n] == (key, None)), None)
                demand(last is not None, "the history ends a term that did not begin", event)
                assert last is not None
                recorded[last] = (key, event)
        return recorded

    def check_history(self) -> None:
        """Compare the terms that `history` returns with the events."""
        recorded = self.recorded_terms() if self.has_history else []
        for sd_id in ITEMS:
            mine = [(key, end) for key, end in recorded if key[1] == sd_id]
            if not mine:
                continue
            [line] = [Line(self._dsn, self.stage)]
            with line.stack:
                line.operation = Operation("history", None, lambda line: None)
                result: History = read(line.database, sd_id)
            demand(len(result.terms) == len(mine), "history returns another number of terms", result, mine)
            for (key, end), term in zip(reversed(mine), result.terms, strict=True):
                self._compare(key, end, term)

    @staticmethod
    def _compare(key: tuple[str, str, int | None], end: Row | None, term: RecordedTerm) -> None:
        demand((term.session_id, term.sd_id) == key[:2], "history returns another term", key, term)
        demand(term.ended_at == (end["at"] if end else None), "history returns another end", end, term)
        demand(term.ended_at is None or term.ended_at >= term.began_at, "a term ends before it begins", term)

    def teardown(self) -> None:
        """Finish all operations, and check them."""
        try:
            self.stage.finish()
            if self.sound:
                self.account()
                self.check_history()
        finally:
            self.stage.close()
            self.observer.close()
            for anchor in self.children:
                anchor.child.kill()
                anchor.child.wait()
