"""The process and the term behind a session's row, judged and put in order before a command goes on.

One id can be open in two processes, one process goes through several ids, and other programs clear or move claims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import DuplicateRefused, HeldByAnother, NotHeld, SessionsError, UsageError
from claude_sessions_cli.liveness import may_run, runs
from claude_sessions_cli.model import (
    CONTINUED,
    MOVED,
    JudgedSession,
    Session,
)
from claude_sessions_cli.names import is_same
from claude_sessions_cli.operations import losses, rows, short_ids
from claude_sessions_cli.operations.caller import Caller, Standing
from claude_sessions_cli.operations.tombstones import lost_to, place_of
from claude_sessions_cli.text import command_line
from claude_sessions_cli.times import format_age, to_second
from claude_sessions_cli.transaction import Rows, Statement, Transaction

# A command is tried again this often, after its row was put in order.
ATTEMPTS = 16
# The rules that give one process several ids, one after another.
ROTATING = ("claude_code", "hook")

T = TypeVar("T")


class UnsettledError(Exception):
    """The caller's row has to be put in order, in a transaction of its own, before the command goes on.

    `settle` does that, and returns the caller that the command goes on as; None if the row has changed since, and the
    command looks again.
    """

    def __init__(
        self, settle: Callable[[Database, Caller], Caller | None], outcome: str | None = None, source: str | None = None
    ) -> None:
        super().__init__()
        self.settle = settle
        self.outcome = outcome
        self.source = source


@dataclass(frozen=True, slots=True)
class Settled(Generic[T]):
    """A command's result, as whom it ran, and what had to be put in order before: `moved` or `continued`, if anything.

    `source` is the session whose claim was continued.
    """

    result: T
    caller: Caller
    outcome: str | None = None
    source: str | None = None


def settled(database: Database, caller: Caller, command: Callable[[Caller], T]) -> Settled[T]:
    """Run a command for the caller; run it again each time its row had to be put in order."""
    outcome = source = None
    is_filled = False
    for _ in range(ATTEMPTS):
        try:
            try:
                return Settled(command(caller), caller, outcome, source)
            except UnsettledError as unsettled:
                acting = unsettled.settle(database, caller)
                if acting is None:
                    continue
                if acting.session_id == caller.session_id:
                    outcome, source = unsettled.outcome or outcome, unsettled.source or source
                caller = acting
        except DuplicateRefused:
            if is_filled or not database.renew(caller.actor, _fill_terminal, caller):
                raise
            is_filled = True
    raise NotHeld(
        f"session {caller.session_id} cannot be settled: other programs keep changing its row, or its ids continue"
        " in a circle",
        "act under another id: add --session ID; look: claude-sessions whoami",
    )


def _fill_terminal(tx: Transaction, caller: Caller) -> bool:
    """Fill the columns for the terminal of a session that an older version registered; return whether any was empty."""
    tx.send()
    if not tx.has_terminals:
        return False
    [filled] = tx.commit(Statement("fill_terminal", **caller.key, **caller.terminal))
    return bool(filled)


def require_own(caller: Caller, session: Session | None) -> Standing:
    """Return the caller's standing to its row.

    Raises HeldByAnother if its id is open in another process, NotHeld if the session was moved from this process.
    """
    standing = Standing.OWN if session is None else caller.standing(session)
    if session and standing is Standing.TWIN:
        raise moved_away(caller, session) or twin(caller.judge(session))
    return standing


def require_here(caller: Caller, session: Session | None) -> None:
    """As `require_own`. Raises UnsettledError for the session of a process that is gone: it moves first."""
    if require_own(caller, session) is Standing.MOVABLE:
        raise UnsettledError(_settle_move, MOVED)


def require_idle(caller: Caller, session: Session) -> None:
    """Raise HeldByAnother if a command runs under the session's claim, unless the caller belongs to that command."""
    belongs = session.fence is not None and caller.identity.run_fence == session.fence
    if session.runner is None or belongs or not runs(session, caller.identity.host):
        return
    raise HeldByAnother(
        f"a command is running under {session.sd_id} in this session (its run is pid {session.runner.pid})",
        f"wait for its end, or end it: kill {session.runner.pid}",
        holder=caller.judge(session),
    )


def require_term(session: Session, others: Iterable[Session]) -> None:
    """Raise UnsettledError if the row says that another program ended the session's term: that is noted first."""
    if losses.lost_term(session, others):
        raise UnsettledError(_settle_loss)


def _settle_move(database: Database, caller: Caller) -> Caller | None:
    return caller if move(database, caller) else None


def _settle_loss(database: Database, caller: Caller) -> Caller:
    losses.note_loss(database, caller)
    return caller


def look(caller: Caller) -> list[Statement]:
    """Return the statement that finds which other sessions the caller may be; nothing for most callers.

    A random id may be named by its beginning. Claude Code gives its process a new id when a conversation is cleared or
    resumed. Ids of other sources stay.
    """
    if short_ids.is_named_short(caller):
        return [short_ids.find(caller)]
    own = caller.process
    if own is None or caller.identity.id_from not in ROTATING:
        return []
    return [Statement("list_same_process", **caller.key, pid=own.pid, tty=caller.identity.known_tty)]


def require_current(
    caller: Caller,
    mine: Session | None,
    found: Sequence[Rows],
    *,
    writes: bool = True,
    registers: bool = False,
    is_new: bool = False,
) -> None:
    """Raise UnsettledError if the command has to act under another id.

    `found` are the rows of `look`. A caller that named a session by a short id acts as that session; a command that
    `registers` raises UsageError instead, because it would create a second one, or has just created it as `mine`, which
    `is_new`. A session that went on under a new id acts for that; the claim of an earlier id passes to this one, unless
    this one holds something. A command that begins no term (`writes` is False) acts for the earlier id.
    """
    if short_ids.is_named_short(caller):
        named = short_ids.session_named(caller, None if is_new else mine, found)
        if named and registers:
            raise UsageError(
                f"no session is called {caller.session_id}, and {named.session_id} begins with it", "give the whole id"
            )
        if named:
            raise UnsettledError(lambda _, acting: acting.as_session(named.session_id))
    if mine and mine.continued_as and mine.recorded_process and mine.recorded_process.is_same(caller.process):
        successor = mine.continued_as
        raise UnsettledError(lambda _, acting: acting.as_session(successor))
    earlier = None if mine and mine.holds else earlier_session(caller, found)
    if earlier is None or (mine and caller.standing(mine) is Standing.TWIN):
        return  # nothing goes over to an id that is open in another process
    if mine and _keeps_its_loss(mine, earlier):
        return
    # A command that began under this id, before the claim under the other, must not take it back.
    is_late = mine is not None and mine.updated_at and earlier.claimed_at and mine.updated_at < earlier.claimed_at
    if not writes or is_late or may_run(earlier, caller.identity.host):
        raise UnsettledError(lambda _, acting: acting.as_session(earlier.session_id))
    if mine:
        require_term(mine, ())
    raise UnsettledError(
        lambda database, acting: continue_session(database, acting, earlier), CONTINUED, earlier.session_id
    )


def same_process(caller: Caller, found: Sequence[Rows]) -> list[Session]:
    """Return the other sessions of the caller's process among the rows of `look`."""
    return [] if short_ids.is_named_short(caller) else [session for looked in found for session in looked.sessions]


def earlier_session(caller: Caller, found: Sequence[Rows]) -> Session | None:
    """Return the session of the caller's process under an earlier id which holds a claim, or lost one unnoticed."""
    held = [session for session in same_process(caller, found) if _is_earlier(caller, session)]
    return max(held, key=lambda session: (session.holds, session.last_sign), default=None)


def _is_earlier(caller: Caller, session: Session) -> bool:
    same = session.process is not None and session.process.is_same(caller.process)
    is_other = same and session.id_from in ROTATING and session.status != "released"
    return is_other and (session.holds or session.unsettled_loss or losses.lost_term(session, ()) is not None)


def _keeps_its_loss(mine: Session, earlier: Session) -> bool:
    """Whether a session goes on as itself, so that an earlier id's loss does not replace its own unreported one."""
    return mine.tombstone is not None and not mine.tombstone.told and not earlier.holds


def continue_session(database: Database, caller: Caller, earlier: Session) -> Caller | None:
    """Take the claim of an earlier id of the caller's process over, under a new fence; return who acts now.

    Returns None if one of the two has changed since.
    """
    if losses.lost_term(earlier, ()):
        losses.note_loss(database, caller.as_session(earlier.session_id))
        return None
    return database.write(caller.actor, _continue, caller, earlier.session_id, earlier.sd_id)


def _continue(tx: Transaction, caller: Caller, earlier_id: str, sd_id: str | None) -> Caller | None:
    lock = [rows.lock_item(sd_id)] if sd_id else []
    both = Statement("lock_sessions", session_ids=[earlier_id, caller.session_id], now=caller.now)
    _, found = rows.register(tx, caller, lock, rows.lock_claim(tx, caller, sd_id) if sd_id else both)
    mine, others = rows.split(found, caller)
    earlier = next((other for other in others if other.session_id == earlier_id), None)
    if earlier is None or not _is_earlier(caller, earlier) or not is_same(earlier.sd_id, sd_id):
        return None
    if mine and (mine.holds or caller.standing(mine) is Standing.TWIN):
        return None
    if mine is None or may_run(earlier, caller.identity.host):
        return caller.as_session(earlier_id)
    if _keeps_its_loss(mine, earlier):
        return None
    # If other programs gave the item to a second session, the earlier id finds out which one holds it.
    if any(other.holds and is_same(other.sd_id, sd_id) for other in others if other is not earlier):
        return caller.as_session(earlier_id)
    lost = mine.tombstone if mine.tombstone and not mine.tombstone.told else earlier.tombstone or mine.tombstone
    kept: dict[str, Any] = {
        "tombstone": lost.as_metadata() if lost else None,
        "note": earlier.note,
        "parked_until": earlier.own.get("parked_until"),
    }
    ended = end_earlier(caller, earlier)
    if earlier.holds and sd_id:
        rows.take(tx, caller, mine, others, sd_id, earlier.track, [ended], moves=True, **kept)
    else:
        tx.commit(ended, Statement("revive_session", **caller.columns(caller.standing(mine), **kept)))
    return caller


def goes_on(caller: Caller, session: Session) -> bool:
    """Whether the session is the caller's process under an earlier id, and can go on under this one."""
    return _is_earlier(caller, session) and not may_run(session, caller.identity.host)


def end_earlier(caller: Caller, earlier: Session) -> Statement:
    """Return the statement that ends the locked row of an earlier id, which goes on as the caller."""
    return rows.clear(
        caller,
        earlier,
        "released",
        tombstone=None,
        continued_as=caller.session_id,
        release_reason=f"continued as {caller.session_id}",
    )


def move(database: Database, caller: Caller) -> Session | None:
    """Move the session of a process that is gone to the caller's, with what it holds under a new fence.

    Returns None if there is nothing to move any more.
    """
    session = database.read(rows.read, caller)
    return database.write(caller.actor, _move, caller, session.sd_id) if session else None


def _move(tx: Transaction, caller: Caller, sd_id: str | None) -> Session | None:
    lock = [rows.lock_item(sd_id)] if sd_id else []
    *_, found = tx.send(*lock, rows.lock_claim(tx, caller, sd_id))
    mine, others = rows.split(found, caller)
    if mine is None or caller.standing(mine) is not Standing.MOVABLE or not is_same(mine.sd_id, sd_id):
        return None
    rivals = [other for other in others if other.holds and is_same(other.sd_id, sd_id)]
    if sd_id and mine.holds and not rivals:
        return rows.take(tx, caller, mine, others, sd_id, mine.track, moves=True)
    before = []
    if mine.holds and mine.status == "stale":
        before.append(rows.clear(caller, mine, "idle", tombstone=lost_to(mine, rivals[0]).as_metadata()))
    # Two that are not silent are told apart by the command itself.
    *_, row = tx.commit(*before, Statement("revive_session", **caller.columns(Standing.MOVABLE)))
    return rows.written(row)


def twin(seen: JudgedSession) -> HeldByAnother:
    """Return the error of a caller whose session id is open in another process."""
    session = seen.session
    holds = f" holds {session.sd_id} and" if session.holds else ""
    lapses = f", lapses in {format_age(max(0.0, seen.expires_in_s))}" if seen.expires_in_s > 0 else ""
    return HeldByAnother(
        f"session {session.session_id}{holds} is open in another process{place_of(session)}, last heartbeat"
        f" {format_age(session.heartbeat_age_s)} ago{lapses}",
        "use another id; end it there: claude-sessions release --end; or move it here: "
        + command_line("claim", session.sd_id if session.holds and session.sd_id else "SD", "--force --reason WHY"),
        holder=seen,
    )


def moved_away(caller: Caller, session: Session) -> SessionsError | None:
    """Return the error of the process from which the session was moved by force; None for any other process."""
    moved = session.moved
    if moved is None or not moved.process.is_same(caller.process):
        return None
    at = f" at {to_second(moved.at)}" if moved.at else ""
    return NotHeld(
        f"session {session.session_id} was moved to another process{place_of(session)}{at}: {moved.reason}",
        "go on there, or under another id: add --session ID",
        lost_item=session.sd_id,
    )
