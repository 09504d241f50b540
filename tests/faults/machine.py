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
from claude_sessions_cli.model import JudgedSession, ProcessRecord, Session
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
# The ids that one process of an agent has, one after another.
AGENT, ROTATING = "agent", ("id-1", "id-2", "id-3")
STRANGERS = ["stranger-1", "stranger-2"]
REFUSALS = (HeldByAnother, NotHeld, UsageError)
STATUSES = ["active", "idle", "stale", "released", None]
AT_ONCE = 3
# The operations whose answer proves something, and the answers of a heartbeat that do.
PROOFS = {"claim", "claim_any", "heartbeat", "check", "renew_term", "park", "unpark", "enter"}
RENEWALS = {"renewed", "registered", "restored", "moved", "continued"}

who = st.sampled_from(list(PATIENCE))
anyone = st.sampled_from([*PATIENCE, *ROTATING, *STRANGERS])
# Whose claims other programs change.
victim = st.sampled_from([*PATIENCE, *ROTATING])
# One item is wanted more than the others.
item = st.sampled_from([ITEMS[0], ITEMS[0], *ITEMS])
# The statement before which an operation stops; usually it does not.
hold = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
index = st.integers(0, 15)
flag = st.booleans()
seldom = st.sampled_from([False, False, False, True])
seat = st.sampled_from([0, 0, 0, 1])
verb = st.sampled_from(
    ["claim", "claim", "force", "heartbeat", "heartbeat", "register", "park", "check", "release", "end", "enter"]
)


@dataclass
class Anchor:
    """A process that a session is."""

    child: subprocess.Popen[bytes]
    process: process.Process
    alive: bool = True


@dataclass
class Moment:
    """The table at a time, the processes that were gone, and the sessions with a loss that nothing has told."""

    rows: dict[str, Row]
    gone: frozenset[tuple[int, str]]
    losses: frozenset[str]

    def contradiction(self, said: Session, operation: Operation, missed: set[tuple[str, str]]) -> str | None:
        """Return why the answer that a session lives, or holds its item, is wrong."""
        row, mine = self.rows.get(said.session_id), operation.facts.get("process")
        if row is None or row["status"] == "released":
            return "the session has ended"
        names = [laws.own(other).get("continued_as") for other in self.rows.values()]
        if getattr(operation.result, "outcome", None) == "continued" and said.session_id not in names:
            return "no other session was continued"
        recorded = laws.known(row)
        if mine and recorded and recorded != mine and (recorded["pid"], recorded["start"]) not in self.gone:
            return "the session is another live process"
        if (row["sd_id"], laws.fence(row)) != (said.sd_id, said.fence):
            return f"the session holds {row['sd_id']} under {laws.fence(row)}"
        key = (laws.fence(row) or 0, said.session_id)
        later = [
            name
            for name, other in self.rows.items()
            if laws.holds(other) and other["sd_id"] == said.sd_id and laws.fence(other)
            if (laws.fence(other) or 0, name) > key and (name, other["sd_id"]) not in missed
        ]
        # A row of an older version does not say which term it began: only a claim and a check look further.
        older = laws.recorded_term(row) is None and operation.kind in ("heartbeat", "park", "unpark", "enter")
        if said.sd_id and later and not older:
            return f"{later[0]} holds {said.sd_id} under a later fence"
        if operation.kind == "heartbeat" and (laws.unsettled(row) or said.session_id in self.losses):
            return "the session lost its claim, and nothing has told it"
        return None


def report(tried: Counter[str], wrong: Counter[str]) -> str:
    """Return the moves as a table: how often each was tried, and its answer wrong."""
    lines = [f"{'move':40}{'tried':>8}{'wrong':>8}"]
    for move, count in sorted(tried.items()):
        lines.append(f"{move:40}{count:8}{wrong[move]:8}")
    lines.append(f"{'all':40}{tried.total():8}{wrong.total():8}")
    return "\n".join(lines)


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
    # How often each move was tried, and its answer wrong.
    tried: ClassVar[Counter[str]] = Counter()
    wrong: ClassVar[Counter[str]] = Counter()
    move: str | None = None

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
        self.anchors: dict[tuple[str, int], Anchor] = {}
        self.runners: dict[str, tuple[Caller, Anchor]] = {}
        self.children: list[Anchor] = []
        self.ledger = Ledger(has_history, self.is_alive)
        self.oracle = Oracle(self.ledger, self.clock)
        self.changes: dict[Operation, list[Change]] = {}
        # False once a check failed: its consequences are not checked.
        self.sound = True
        # Which of its ids the agent has now, in each seat.
        self.current = [0, 0]

    # Actors.

    def is_alive(self, row: Row) -> bool | None:
        """Whether the process that a row records lives, or runs a command; None if no record is complete."""
        runner = self.find(laws.own(row).get("run"))
        if runner and runner.alive:
            return True
        anchor = self.find(laws.known(row))
        return anchor.alive if anchor else None

    def find(self, record: object) -> Anchor | None:
        """Return the process of a record."""
        if not isinstance(record, dict):
            return None
        key = (record.get("pid"), record.get("start"))
        return next((child for child in self.children if (child.process.pid, child.process.start) == key), None)

    def spawn(self) -> Anchor:
        """Start a process."""
        child = subprocess.Popen(["sleep", "600"])
        self.children.append(Anchor(child, process.read(child.pid)))
        return self.children[-1]

    def anchor(self, place: str, seat: int = 0) -> Anchor:
        """Return the process of a session, or of the rotating ids, which it starts when it is first asked for."""
        if (place, seat) not in self.anchors:
            self.anchors[place, seat] = self.spawn()
        return self.anchors[place, seat]

    def caller(self, session: str, sees: bool = True, seat: int = 0) -> Caller:
        """Return a session; `sees` is whether the command sees the process that the session is, or that in `seat`."""
        rotates = session in ROTATING
        place = AGENT if rotates else session
        anchor = self.anchor(place, seat).process if sees and place in (*ANCHORED, AGENT) else None
        made = make_caller(
            session,
            anchor=anchor,
            now=START,
            stale_after=PATIENCE.get(session, 900.0),
            cwd=f"/tmp/{place}",
            tty=f"/dev/{place}/{seat}",
        )
        id_from = "claude_code" if rotates else "environment"
        return made._replace(identity=made.identity._replace(id_from=id_from))

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
        name, mine = caller.session_id, caller.identity.process_record
        facts = {"stale_after": caller.settings.stale_after, "process": mine, **facts}
        if name in ROTATING and mine:
            facts["ids"] = ROTATING
        return self._start(Operation(kind, name, work, hold, facts, move=self.move or kind), expected)

    def write(self, kind: str, hold: int, statement: str, **parameters: Any) -> Operation:
        """Write as another program does."""
        # Few other programs keep a transaction open: it stops before COMMIT if at all.
        hold = 2 if hold > 5 else 0
        return self._start(
            Operation(
                *(kind, None, lambda line: line.write(statement, **parameters), hold, parameters),
                foreign=True,
                move=f"another program: {kind}",
            ),
            None,
        )

    def _start(self, operation: Operation, expected: Callable[[], object] | None) -> Operation:
        while len(self.stage.under_way) >= AT_ONCE:
            self.stage.resume(self.stage.stopped()[0])
            self.account()
        operation.facts["expected"] = expected() if expected else None
        operation.moments.append(self.moment())
        self.tried[operation.move] += 1
        self.stage.start(operation)
        self.account()
        return operation

    def moment(self) -> Moment:
        """Return what there is now."""
        gone = frozenset((child.process.pid, child.process.start) for child in self.children if not child.alive)
        rows = {row["session_id"]: row for row in self.ledger.rows.values()}
        return Moment(rows, gone, frozenset(self.ledger.losses))

    def remember(self) -> None:
        """Keep what there is now for all operations that run, or have just ended."""
        now = self.moment()
        for operation, _ in (*self.stage.under_way, *self.stage.ended):
            operation.moments.append(now)

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
        for change in changes:
            self.ledger.record(change)
            self.remember()
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
        if not operation.foreign and not operation.crashed and operation.error is None:
            self.check_truth(operation)
        if operation.alone and not operation.crashed and expected is not None:
            self.wrong[operation.move] += answer != expected
            demand(answer == expected, "not the answer that was to be expected", operation, answer, expected)

    def check_truth(self, operation: Operation) -> None:
        """Check that a good answer was true at some time while the operation ran."""
        answer = self.answer(operation)
        if operation.kind not in PROOFS or (operation.kind == "heartbeat" and answer not in RENEWALS):
            return
        said = getattr(operation.result, "session", operation.result)
        said = said.session if isinstance(said, JudgedSession) else said
        # Another program locks nothing: a claim may miss its concurrent writes.
        missed = {
            (t.session, t.item)
            for t in self.ledger.terms
            if t.operation.foreign and t.operation in operation.overlapped
        }
        problems = [moment.contradiction(said, operation, missed) for moment in operation.moments]
        is_wrong = all(problems)
        self.wrong[operation.move] += is_wrong
        demand(not is_wrong, f"a wrong answer, {answer}: {problems[-1]}", operation, said)

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
        self.claim_as(self.caller(session, sees), sd_id, switch, force, hold)

    def claim_as(self, caller: Caller, sd_id: str, switch: bool, force: bool, hold: int) -> None:
        reason = "it is urgent" if force else None
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
            return claim_any(
                line.database, caller, sd_ids, lambda sd_id: claim(line.database, caller, sd_id, several=True)
            )

        self.operate("claim_any", caller, hold, work, items=sd_ids, force=False)

    @rule(session=who, register=flag, sees=flag, hold=hold)
    def heartbeat(self, session: str, register: bool, sees: bool, hold: int) -> None:
        self.heartbeat_as(self.caller(session, sees), register, hold)

    def heartbeat_as(self, caller: Caller, register: bool, hold: int) -> None:
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
        self.release_as(self.caller(session), sd_id, end, hold)

    def release_as(self, caller: Caller, sd_id: str | None, end: bool, hold: int) -> None:
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
        self.park_as(self.caller(session), seconds, hold)

    def park_as(self, caller: Caller, seconds: float, hold: int) -> None:
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
        self.check_as(self.caller(session), hold)

    def check_as(self, caller: Caller, hold: int) -> None:
        self.operate(
            "check",
            caller,
            hold,
            lambda line: check(line.database, caller),
            lambda: self.oracle.check(caller, None, None),
        )

    def enter_as(self, caller: Caller, sd_id: str, hold: int) -> None:
        if caller.session_id in self.runners:
            self.end_run_of(caller.session_id, killed=True, hold=0)
        runner = self.spawn()
        self.runners[caller.session_id] = caller, runner
        record, host = runner.process, caller.identity.host
        entered = ProcessRecord(record.pid, record.start, host.boot_id, host.pid_ns)
        self.operate(
            "enter",
            caller,
            hold,
            lambda line: term_module.enter(line.database, caller, entered, sd_id),
            lambda: self.oracle.enter(caller, sd_id),
        )

    def act(self, move: str, caller: Caller, verb: str, sd_id: str, hold: int) -> None:
        """Let a caller act in one of all ways."""
        self.move = f"{move}: {verb}"
        if verb in ("claim", "force"):
            self.claim_as(caller, sd_id, verb == "force", verb == "force", hold)
        elif verb in ("heartbeat", "register"):
            self.heartbeat_as(caller, verb == "register", hold)
        elif verb in ("release", "end"):
            self.release_as(caller, None, verb == "end", hold)
        elif verb == "park":
            self.park_as(caller, 300.0, hold)
        elif verb == "check":
            self.check_as(caller, hold)
        else:
            self.enter_as(caller, sd_id, hold)
        self.move = None

    # One id in two processes, and one process with many ids.

    @rule(session=st.sampled_from(ANCHORED), verb=verb, sd_id=item, hold=hold)
    def twin(self, session: str, verb: str, sd_id: str, hold: int) -> None:
        self.act("twin", self.caller(session, seat=1), verb, sd_id, hold)

    @rule(session=st.sampled_from(ANCHORED), sd_id=item, verb=verb, later=verb, dies=flag, hold=hold)
    def claim_then_twin(self, session: str, sd_id: str, verb: str, later: str, dies: bool, hold: int) -> None:
        self.act("first process", self.caller(session), "claim", sd_id, 0)
        if dies:
            self.kill(session, seat=0, leaves_a_zombie=False)
        self.act("twin", self.caller(session, seat=1), verb, sd_id, hold)
        if not dies:
            self.act("first process", self.caller(session), later, sd_id, 0)

    def rotating(self, seat: int, late: bool = False) -> Caller:
        """Return the agent under its current id, or the one before."""
        return self.caller(ROTATING[(self.current[seat] - late) % len(ROTATING)], seat=seat)

    @rule(verb=verb, sd_id=item, seat=seat, hold=hold)
    def agent(self, verb: str, sd_id: str, seat: int, hold: int) -> None:
        self.act("agent", self.rotating(seat), verb, sd_id, hold)

    @rule(verb=verb, sd_id=item, seat=seat, hold=hold)
    def late(self, verb: str, sd_id: str, seat: int, hold: int) -> None:
        self.act("agent, late", self.rotating(seat, late=True), verb, sd_id, hold)

    @rule(seat=seat)
    def rotate(self, seat: int) -> None:
        self.tried["rotate"] += 1
        self.current[seat] += 1

    @rule(sd_id=item, runs=flag, verb=verb, late=verb, hold=hold, steps=st.integers(0, 3))
    def claim_then_rotate(self, sd_id: str, runs: bool, verb: str, late: str, hold: int, steps: int) -> None:
        self.act("agent", self.rotating(0), "claim", sd_id, 0)
        if runs:
            self.act("agent", self.rotating(0), "enter", sd_id, 0)
        self.rotate(0)
        self.act("agent, rotated", self.rotating(0), verb, sd_id, hold)
        self.act("agent, late", self.rotating(0, late=True), late, sd_id, 0)
        self.go_on(0, steps)

    @rule(session=victim, sd_id=item, sees=flag, hold=hold)
    def enter(self, session: str, sd_id: str, sees: bool, hold: int) -> None:
        self.enter_as(self.caller(session, sees), sd_id, hold)

    @rule(number=index, killed=flag, hold=hold)
    def end_run(self, number: int, killed: bool, hold: int) -> None:
        if self.runners:
            self.end_run_of(list(self.runners)[number % len(self.runners)], killed, hold)

    def end_run_of(self, session: str, killed: bool, hold: int) -> None:
        """End the run of a session, in order or with a kill."""
        caller, runner = self.runners.pop(session)
        if not killed:
            self.leave(caller, runner, hold)
        self.end_process(runner, leaves_a_zombie=False)

    def leave(self, caller: Caller, runner: Anchor, hold: int) -> None:
        """End a run in order, under the term that its session has."""
        row, host = self.ledger.row(caller.session_id), caller.identity.host
        item, fence = (row["sd_id"], laws.fence(row)) if row else (None, None)
        if item is None or fence is None:
            return
        entered = ProcessRecord(runner.process.pid, runner.process.start, host.boot_id, host.pid_ns)
        self.operate(
            "leave",
            caller,
            hold,
            lambda line: term_module.leave(line.database, caller, entered, item, fence),
            lambda: self.oracle.release_term(caller, item, fence),
        )

    def term(self, number: int) -> Term | None:
        """Return one of the terms there were, the latest for 0."""
        known = (*PATIENCE, *ROTATING)
        terms = [term for term in self.ledger.terms if term.fence is not None and term.session in known]
        return terms[-1 - number % len(terms)] if terms else None

    def caller_of(self, term: Term) -> Caller:
        """Return the session of a term, as the process that began it if that lives."""
        began = term.operation.facts.get("process")
        callers = [self.caller(term.session, seat=seat) for seat in (0, 1)]
        found = [caller for caller in callers if caller.identity.process_record == began]
        return found[0] if found else self.caller(term.session, sees=False)

    @rule(number=index, hold=hold)
    def check_fence(self, number: int, hold: int) -> None:
        term = self.term(number)
        if term is None:
            return
        caller, was_over = self.caller_of(term), term.ended
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
        caller, fence = self.caller_of(term), term.fence
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
        caller, fence = self.caller_of(term), term.fence
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

    @rule(session=st.sampled_from([*ANCHORED, AGENT]), seat=seat, leaves_a_zombie=seldom)
    def kill(self, session: str, seat: int, leaves_a_zombie: bool) -> None:
        anchor = self.anchors.pop((session, seat), None)
        if anchor is not None:
            self.end_process(anchor, leaves_a_zombie)

    def end_process(self, anchor: Anchor, leaves_a_zombie: bool) -> None:
        """Kill a process."""
        self.surprise()
        self.remember()
        anchor.alive = False
        anchor.child.kill()
        if leaves_a_zombie:
            while not process.read(anchor.child.pid).zombie:
                pass
        else:
            anchor.child.wait()
        self.remember()

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

    @rule(session=anyone, in_part=seldom, status=st.sampled_from(["idle", "stale"]), hold=hold)
    def clear(self, session: str, in_part: bool, status: str, hold: int) -> None:
        rest = "" if in_part else f", claimed_at = NULL, track = NULL, status = '{status}'"
        self.write(
            "clear",
            hold,
            f"UPDATE public.claude_sessions SET sd_id = NULL{rest} WHERE session_id = %(session)s",
            session=session,
        )

    @rule(session=victim, age=st.sampled_from([0, 0, 1000, -3600]), hold=hold)
    def restamp(self, session: str, age: int, hold: int) -> None:
        self.write(
            "re-stamp",
            hold,
            "UPDATE public.claude_sessions SET claimed_at = %(now)s - make_interval(secs => %(age)s),"
            " heartbeat_at = %(now)s WHERE session_id = %(session)s AND sd_id IS NOT NULL",
            session=session,
            # Without history nothing remembers a fence from the future.
            age=max(age, 0) if not self.has_history else age,
        )

    @rule(number=index, session=anyone, age=st.sampled_from([0, 0, 1000]), hold=hold)
    def double_claim(self, number: int, session: str, age: int, hold: int) -> None:
        held = sorted({row["sd_id"] for row in self.ledger.rows.values() if laws.holds(row)})
        if self.has_history or not held:
            return
        self.write(
            "double claim",
            hold,
            "INSERT INTO public.claude_sessions AS s (session_id, sd_id, status, claimed_at, heartbeat_at)"
            " VALUES (%(session)s, %(sd_id)s, 'active', %(now)s - make_interval(secs => %(age)s), %(now)s)"
            " ON CONFLICT (session_id) DO UPDATE SET sd_id = excluded.sd_id, status = excluded.status,"
            " claimed_at = excluded.claimed_at, heartbeat_at = excluded.heartbeat_at WHERE s.sd_id IS NULL",
            session=session,
            sd_id=held[number % len(held)],
            age=age,
        )

    @rule(session=victim, sd_id=item, what=st.sampled_from(["clear", "restamp", "double_claim"]), verb=verb, hold=hold)
    def claim_then_disturb(self, session: str, sd_id: str, what: str, verb: str, hold: int) -> None:
        """Claim, and act again after another program changed the claim, or while it does."""
        caller = self.rotating(0) if session in ROTATING else self.caller(session)
        self.act("first process", caller, "claim", sd_id, 0)
        if what == "clear":
            self.clear(caller.session_id, in_part=False, status="stale" if hold % 2 else "idle", hold=0)
        elif what == "restamp":
            self.restamp(caller.session_id, age=0, hold=0)
        else:
            self.double_claim(0, STRANGERS[0], age=0, hold=0)
        self.act("disturbed", caller, verb, sd_id, hold)

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
