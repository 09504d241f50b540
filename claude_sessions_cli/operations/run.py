"""Run: a command under a claim, which is renewed while it runs and given back when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from claude_sessions_cli import supervisor, threads
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import AGAIN, NOT_A_PROGRAM, NotHeld, SessionsError, UsageError
from claude_sessions_cli.guardian import Guardian
from claude_sessions_cli.identity import RUN_FENCE, derive_session_id, export_anchor
from claude_sessions_cli.liveness import Host
from claude_sessions_cli.model import PROCESS_GONE, SILENT, JudgedSession, Liveness, ProcessRecord
from claude_sessions_cli.names import is_same
from claude_sessions_cli.operations import agent, rows, term
from claude_sessions_cli.operations.caller import Caller, Standing
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import ClaimResult, claim
from claude_sessions_cli.process import Process
from claude_sessions_cli.renewal import KeepAlive, TrustWindow
from claude_sessions_cli.text import command_line, shorten
from claude_sessions_cli.times import uptime
from claude_sessions_cli.transaction import Rows, Statement, Transaction

# Seconds that the end of a run waits for the database, and for the reader of its last lines.
LAST_WORDS_S = 5.0
# The part of the window, and its limit in seconds, that a command has between TERM and KILL once its wrapper is gone.
GRACE_SHARE = 0.1
GRACE_LIMIT_S = 10.0

Acquire = Callable[[Caller, Callable[[str], ClaimResult]], ClaimResult]
# Opens a database; the flag says whether a loss that is raised is shown in the prompt.
Connect = Callable[[bool], AbstractContextManager[Database]]
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Lease:
    """The term that a command runs under.

    `caller` is the session that holds it: the caller's own if `shared`, which keeps it when the command ends; else one
    that is the wrapper's process. `renewed_at` is when `begin` started to renew it, by `uptime`.
    """

    caller: Caller
    runner: ProcessRecord
    guardian: Guardian
    sd_id: str
    held: JudgedSession
    shared: bool
    renewed_at: float

    @property
    def fence(self) -> int:
        """The fence of the term."""
        return self.held.session.fence or 0

    @property
    def watcher(self) -> ProcessRecord:
        """The guardian's process, as the row records it."""
        return _record(self.guardian.process, self.caller.identity.host)

    def stale_after(self, held: JudgedSession) -> float:
        """Return the seconds of silence that the row allows: every other client goes by them."""
        return held.session.effective_stale_after(0.0) or self.caller.settings.stale_after


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the command ended, after how many seconds, and whether its claim was lost before."""

    finished: supervisor.Finished
    lost: bool
    seconds: float

    @property
    def outcome(self) -> str:
        """`completed`, `failed`, `timed_out` or `lost`."""
        if self.lost:
            return "lost"
        if self.finished.timed_out:
            return "timed_out"
        return "failed" if self.finished.code else "completed"


def begin(
    database: Database,
    own: Caller,
    itself: Process,
    sd_id: str,
    *,
    named: bool,
    track: str | None,
    acquire: Acquire,
    waits: bool = False,
) -> Lease:
    """Claim the item for a command, unless the caller's session holds it, and record the wrapper in the row.

    `itself` is the wrapper's process; `named` says that the caller's id was named for this run. `acquire` calls the
    claim that it is given, several times if it `waits`. Raises HeldByAnother if the item has another holder, or a
    command runs under it already, NotHeld if the session lost it in between.
    """
    caller, shared = find_holder(database, own, itself, sd_id, named=named)
    runner = _record(itself, own.identity.host)

    def claim_one(item: str) -> ClaimResult:
        return claim(database, caller, item, track=track, several=waits)

    # First: without it no command starts, and no claim may be left behind.
    guardian = _start_guardian(caller)
    try:
        if not shared:
            acquire(caller, claim_one)
        renewed_at = uptime()
        held = term.enter(database, caller, runner, sd_id, _record(guardian.process, own.identity.host))
        if shared and track:
            held = claim_one(sd_id).session
    except BaseException:
        guardian.dismiss()
        raise
    return Lease(caller, runner, guardian, held.session.sd_id or sd_id, held, shared, renewed_at)


def _record(found: Process, host: Host) -> ProcessRecord:
    return ProcessRecord(found.pid, found.start, host.boot_id, host.pid_ns, host.machine_id or None)


def _start_guardian(caller: Caller) -> Guardian:
    # It has to end the command before silence gives its item away.
    grace = min(GRACE_LIMIT_S, max(1.0, caller.settings.stale_after * GRACE_SHARE))
    try:
        return Guardian(grace)
    except OSError as error:
        raise SessionsError(f"cannot start /bin/sh, which guards the command: {error.strerror}", AGAIN) from None


def find_holder(database: Database, own: Caller, itself: Process, sd_id: str, *, named: bool) -> tuple[Caller, bool]:
    """Return the session that is to hold the item, and whether it is the caller's, which holds it now.

    Otherwise it is the wrapper's process `itself`, a session that ends with the command: under the caller's id if that
    was `named`. A claim of an earlier id of the caller's process goes over to this one first. Raises HeldByAnother if
    the session is open in another process, or if other programs gave the item to a second holder, UsageError if the
    named session is open and would end with the command.
    """
    shared = agent.settled(database, own, lambda acting: _holds(database, acting, sd_id, named))
    if shared.result:
        return shared.caller, True
    session_id = own.identity.session_id if named else derive_session_id(itself, own.identity.host)
    id_from = own.identity.id_from if named else "derived"
    identity = own.identity._replace(session_id=session_id, id_from=id_from, anchor=itself, tty=itself.tty)
    wrapper = own._replace(identity=identity)
    if named:
        _refuse_live_session(database, own, wrapper, sd_id)
    return wrapper, False


def _holds(database: Database, own: Caller, sd_id: str, named: bool) -> bool:
    """Whether the caller's session holds the item, and not only because an earlier run of it was killed."""
    if own.identity.session_id is None:
        return False
    found, *same = database.read(_look, own)
    mine = found.session
    agent.require_current(own, mine, same, registers=True)
    if mine is None or not mine.holds or not is_same(mine.sd_id, sd_id):
        return False
    if named:
        # The session of an earlier run under this name ends with its process.
        agent.require_own(own, mine)
    else:
        agent.require_here(own, mine)
    if own.judge(mine).lapsed:
        # A command of the earlier run may still work: it must not share its fence with the new one.
        if database.write(own.actor, _end_lapsed, own, sd_id):
            return False
        return _holds(database, own, sd_id, named)
    with suppress(NotHeld):
        if check(database, own, sd_id).session.fence is not None:
            return True
    # A claim corrects what other programs did to this one.
    claim(database, own, sd_id, several=True)
    return True


def _end_lapsed(tx: Transaction, caller: Caller, sd_id: str) -> bool:
    """End the caller's claim of an item if it has lapsed; return False if it was renewed since it was judged."""
    [found] = tx.send(Statement("lock_session", **caller.key))
    session = found.session
    if session is None or not session.holds or not is_same(session.sd_id, sd_id):
        return True
    judged = caller.judge(session)
    if judged.lapsed:
        reason = PROCESS_GONE if judged.liveness is Liveness.DEAD else SILENT
        tx.commit(rows.clear(caller, session, "idle", release_reason=reason))
    return judged.lapsed


def _look(tx: Transaction, caller: Caller) -> list[Rows]:
    return tx.commit(Statement("read_session", **caller.key), *agent.look(caller))


def _refuse_live_session(database: Database, own: Caller, wrapper: Caller, sd_id: str) -> None:
    """Raise an error for a named session that has not ended: it must not get the wrapper's process, nor end with it."""
    named = database.read(rows.read, own)
    if named is None or named.status == "released":
        return
    if agent.require_own(own, named) is not Standing.OWN:
        agent.require_own(wrapper, named)
    if not own.judge(named).lapsed and wrapper.standing(named) is not Standing.MOVABLE:
        raise UsageError(
            f"session {named.session_id} is open, and would end with the command",
            f"claim {sd_id} in that session first, and run under that claim; or leave --session out",
        )


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    lease: Lease,
    connect: Connect,
    report: Report,
    ended: Callable[[], None],
    *,
    keep_on_failure: bool,
    timeout: float | None = None,
    stdout: int | None = None,
) -> RunResult:
    """Run the command while its claim is renewed, and give the claim back.

    `report` prints a line within some seconds; `ended` is called when the command has ended, before the claim is given
    back. With `keep_on_failure`, the claim of a command that failed lapses by itself. `timeout` and `stdout` are those
    of `supervisor.run`. Raises NotHeld if the claim was lost before the command could start.
    """

    def renew_lease() -> float:
        with connect(True) as database:
            return lease.stale_after(renew(database, lease))

    settings = lease.caller.settings
    window = TrustWindow(lease.renewed_at, lease.stale_after(lease.held))
    if uptime() >= window.terminate_at:
        # This process was stopped since, and somebody else may have the item.
        try:
            window = TrustWindow(uptime(), renew_lease())
        except BaseException:
            lease.guardian.dismiss()
            raise
    keep_alive = KeepAlive(renew_lease, settings.heartbeat_every, window)
    has_started, begun = True, uptime()
    try:
        finished = supervisor.run(
            command, environment, keep_alive, lease.guardian, report, timeout=timeout, stdout=stdout
        )
    except OSError as error:
        has_started, finished = False, supervisor.Finished.not_started(error)
        report(f"cannot run {shorten(command[0])}: {error.strerror} ({NOT_A_PROGRAM})", LAST_WORDS_S)

    seconds = uptime() - begun
    if finished.left:
        # Its guardian waits for it, and keeps the claim.
        report(
            f"process group {finished.left} of the command could not be ended and is still running: {lease.sd_id}"
            f" stays held until it ends (end it, as its user: kill -KILL -- -{finished.left})",
            LAST_WORDS_S,
        )
        return RunResult(finished, finished.stopped_for is not None, seconds)
    ended()
    failed = finished.code != 0 or finished.stopped_for is not None
    keep = keep_on_failure and failed and has_started and keep_alive.lost is None
    problem = _within(LAST_WORDS_S, lambda: _give_back(connect, lease, keep, "failed" if failed else "completed"))
    lost = finished.stopped_for is not None or (has_started and isinstance(problem, NotHeld))
    give_back = "give it back: claude-sessions release"
    if not lease.shared:
        give_back += f" --session {lease.caller.session_id} --end"
    if isinstance(problem, NotHeld):
        # The supervisor has reported a loss that it stopped the command for.
        if finished.stopped_for is None:
            seen = f"see by whom: {command_line('history', lease.sd_id)}"
            report(f"the claim was lost before the command ended: {problem.message} ({seen})", LAST_WORDS_S)
    elif problem:
        # No error: the claim lapses by itself, because this process is gone.
        report(f"the claim was not given back: {problem.message} ({give_back})", LAST_WORDS_S)
    elif keep and not lease.shared:
        report(f"{lease.sd_id} is kept until it lapses; {give_back}", LAST_WORDS_S)
    return RunResult(finished, lost, seconds)


def renew(database: Database, lease: Lease) -> JudgedSession:
    """Prove life under the lease. Raises NotHeld if its term is over."""
    held = term.renew(database, lease.caller, lease.sd_id, lease.fence)
    if held.session.runner is None:
        # Another program has overwritten the metadata, by which others know this command and its window.
        held = term.enter(database, lease.caller, lease.runner, lease.sd_id, lease.watcher, fence=lease.fence)
    return held


def _within(seconds: float, work: Callable[[], None]) -> SessionsError | None:
    """Do some work in a thread that may hang; return its error."""
    problems = [SessionsError("the database did not answer in time", AGAIN)]

    def attempt() -> None:
        try:
            work()
            problems.clear()
        except SessionsError as error:
            problems[:] = [error]
        except Exception as error:
            problems[:] = [SessionsError(f"{type(error).__name__}: {error}", AGAIN)]

    threads.within(seconds, attempt)
    return problems[0] if problems else None


def _give_back(connect: Connect, lease: Lease, keep: bool, reason: str) -> None:
    # The session of an unshared lease ends here, and its prompt with it.
    with connect(lease.shared) as database:
        if lease.shared:
            term.leave(database, lease.caller, lease.runner, lease.sd_id, lease.fence)
        elif keep:
            term.outlive_process(database, lease.caller, lease.sd_id, lease.fence)
        else:
            term.release(database, lease.caller, lease.sd_id, lease.fence, reason=reason)


def environment_for(
    lease: Lease, environ: Mapping[str, str], dsn: str | None, stale_after: float | None
) -> dict[str, str]:
    """Return the command's environment, in which the program acts as this session on this database."""
    identity = lease.caller.identity
    exports = {
        "CLAUDE_SESSIONS_SESSION_ID": identity.session_id,
        # An inherited anchor belongs to another id.
        "CLAUDE_SESSIONS_ANCHOR": export_anchor(identity.anchor, identity.host) if identity.anchor else None,
        "CLAUDE_SESSIONS_SD": lease.sd_id,
        RUN_FENCE: str(lease.fence),
    }
    if dsn:
        exports["CLAUDE_SESSIONS_DSN"] = dsn
    if stale_after:
        exports["CLAUDE_SESSIONS_STALE_AFTER"] = f"{stale_after:g}"
    return {name: value for name, value in {**environ, **exports}.items() if value is not None}
