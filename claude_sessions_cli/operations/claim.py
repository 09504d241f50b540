"""Claim: register the session and give it a work item, from a holder that has lapsed or is forced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from claude_sessions_cli.database import ClaimConflict, Database
from claude_sessions_cli.errors import HeldByAnother, HoldsAnother, SessionsError, UnknownItem, Unreachable
from claude_sessions_cli.failures import WaitedInVain
from claude_sessions_cli.model import (
    CLEARED,
    FORCED,
    PROCESS_GONE,
    SILENT,
    JudgedSession,
    Liveness,
    Moved,
    Session,
    Tombstone,
)
from claude_sessions_cli.names import check_work_item, is_same
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller, Standing
from claude_sessions_cli.operations.tombstones import held_by, own_loss, tell, tombstone_for
from claude_sessions_cli.text import command_line
from claude_sessions_cli.transaction import Statement, Transaction


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome: `claimed`, `already_yours`, `took_over`, `forced`, `switched`, `moved` or `continued`.

    `lost_before` is an earlier loss, which the first claim or release after it marks and the next removes. `source` is
    the session of the same process whose claim this one continues.
    """

    outcome: str
    session: JudgedSession
    evicted: JudgedSession | None = None
    lost_before: Tombstone | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What a caller asks for: the arguments of `claim`."""

    sd_id: str
    track: str | None
    switch: bool
    force_reason: str | None
    force_fence: int | None
    note: str | None
    several: bool

    def is_for(self, session: Session) -> bool:
        """Whether a session holds the item."""
        return session.holds and is_same(session.sd_id, self.sd_id)


def claim(
    database: Database,
    caller: Caller,
    sd_id: str,
    *,
    track: str | None = None,
    switch: bool = False,
    force_reason: str | None = None,
    force_fence: int | None = None,
    note: str | None = None,
    several: bool = False,
) -> ClaimResult:
    """Register the caller and give it the work item; `note` says what for.

    `several` says that the command may claim more than once, and report the last time only: a refusal marks no earlier
    loss (see `mark_loss`), and a claim leaves its removal to the next command.

    Raises HeldByAnother if the item has a live holder and `force_reason` is None, if its term is not `force_fence`, if
    the caller's session is open in another process, or if a command runs under the item that it holds; HoldsAnother if
    the caller holds another item and `switch` is False; UnknownItem if the table has a list of items and not this one;
    Unreachable if another connection keeps the item's advisory lock.
    """
    check_work_item(sd_id)
    request = _Request(sd_id, track, switch, force_reason, force_fence, note, several)

    def attempt(acting: Caller) -> ClaimResult:
        return database.write(acting.actor, _claim, acting, request)

    try:
        settled = agent.settled(database, caller, attempt)
    except ClaimConflict as error:
        raise HeldByAnother(f"{sd_id}: {error.message}", f"see who has it: {command_line('list', sd_id)}") from None
    except UnknownItem as error:
        raise UnknownItem(f"{sd_id}: {error.message}", error.hint) from None
    except WaitedInVain as error:
        raise database.read(_locked_by_another, sd_id) or error from None
    if settled.outcome and settled.result.outcome == "already_yours":
        return replace(settled.result, outcome=settled.outcome, source=settled.source)
    return settled.result


def _locked_by_another(tx: Transaction, sd_id: str) -> Unreachable | None:
    """Return the error of a claim that waited for the item's advisory lock, if somebody holds that."""
    [found] = tx.commit(Statement("list_lock_holders", sd_id=sd_id))
    if found.first is None:
        return None
    pid, role, program = (found.first[name] for name in ("pid", "role", "program"))
    who = ", ".join(part for part in (f"role {role}" if role else "", f"program {program}" if program else "") if part)
    return Unreachable(
        f"{sd_id} is locked: another connection, pid {pid}{f' ({who})' if who else ''}, keeps its advisory lock",
        f"end that connection, as its role or an administrator: SELECT pg_terminate_backend({pid})",
    )


def _claim(tx: Transaction, caller: Caller, request: _Request) -> ClaimResult:
    sd_id, reason = request.sd_id, request.force_reason
    new, found, *same = rows.register(
        tx, caller, [rows.lock_item(sd_id)], rows.lock_claim(tx, caller, sd_id), *agent.look(caller)
    )
    mine, others = rows.split(found, caller)
    if mine is None:
        raise rows.not_registered(caller)
    agent.require_current(caller, mine, same, registers=True, is_new=bool(new))
    standing = caller.standing(mine) if reason else agent.require_own(caller, mine)
    agent.require_term(mine, others)
    lost = None if standing is Standing.TWIN else mine.tombstone
    told: dict[str, Any] = {"tombstone": tell(lost)} if lost and not (request.several and lost.told) else {}
    holders = [caller.judge(other) for other in others if request.is_for(other)]
    refusal = _refusal(caller, request, mine, holders, lost)
    if refusal:
        if told and not request.several:
            tx.commit(rows.report_loss(caller, mine, **told))
        raise refusal

    track, note = request.track, request.note
    if track is None and lost and lost.reason == CLEARED and is_same(lost.sd_id, sd_id):
        track = lost.track
    # Force, or the item that this id holds, kept the caller from going on as its earlier id before.
    earlier = next((holder.session for holder in holders if agent.goes_on(caller, holder.session)), None)
    if earlier:
        holders = [holder for holder in holders if holder.session is not earlier]
        track, note = track or earlier.track, note or earlier.note
    evictions = [agent.end_earlier(caller, earlier)] if earlier else []
    evictions += [_evict(caller, holder, reason) for holder in holders]
    moves = standing in (Standing.MOVABLE, Standing.TWIN)
    own: dict[str, Any] = {**told, **({"note": note} if note else {})}
    if standing is Standing.TWIN and reason and mine.process:
        own["moved"] = Moved(mine.process, mine.fence, mine.server_now, reason).as_metadata()
        # An earlier loss is of the process before, which learns of the move instead.
        own["tombstone"] = None
    taken = rows.take(tx, caller, mine, others, sd_id, track, evictions, moves=moves, **own)
    if moves and request.is_for(mine):
        outcome = "moved"
    elif earlier:
        outcome = "continued"
    elif holders:
        outcome = "took_over" if all(holder.lapsed for holder in holders) else "forced"
    elif mine.holds:
        outcome = "already_yours" if request.is_for(mine) else "switched"
    else:
        outcome = "claimed"
    source = earlier.session_id if earlier else None
    return ClaimResult(outcome, caller.judge(taken), holders[0] if holders else None, lost, source)


def _refusal(
    caller: Caller, request: _Request, mine: Session, holders: list[JudgedSession], lost: Tombstone | None
) -> SessionsError | None:
    """Return the error of a claim that is refused. Raises HeldByAnother if a command runs under the caller's item."""
    # Before the holder is judged: a caller that waits for this item must not wait in vain.
    if mine.holds and not request.is_for(mine):
        if not request.switch:
            return _holds_another(mine, request.sd_id, lost)
        agent.require_idle(caller, mine)
    terms = [session for session in (mine, *(holder.session for holder in holders)) if request.is_for(session)]
    current = max((session.fence for session in terms if session.fence is not None), default=None)
    if request.force_fence not in (None, current):
        return _other_fence(request.sd_id, request.force_fence, current, lost)
    live = next((holder for holder in holders if not holder.lapsed), None)
    return held_by(live, lost) if live and request.force_reason is None else None


def mark_loss(database: Database, caller: Caller) -> None:
    """Mark an earlier loss of the caller as reported, after several attempts of which the last refusal is shown."""
    database.write(caller.actor, _mark_loss, caller)


def _mark_loss(tx: Transaction, caller: Caller) -> None:
    [found] = tx.send(Statement("lock_session", **caller.key))
    mine = found.session
    if mine and mine.tombstone and not mine.tombstone.told and caller.standing(mine) is not Standing.TWIN:
        tx.commit(rows.report_loss(caller, mine, tombstone=tell(mine.tombstone)))


def _holds_another(mine: Session, sd_id: str, lost: Tombstone | None) -> HoldsAnother:
    return HoldsAnother(
        f"this session already holds {mine.sd_id}{own_loss(lost)}",
        f"release that item and claim this one: {command_line('claim', sd_id, '--switch')}",
    )


def _other_fence(sd_id: str, fence: int | None, current: int | None, lost: Tombstone | None) -> HeldByAnother:
    now = f"{sd_id} is held under fence {current} now" if current else f"{sd_id} is free now"
    return HeldByAnother(f"{now}, not under {fence}{own_loss(lost)}", f"look: {command_line('list', sd_id)}")


def _evict(caller: Caller, holder: JudgedSession, force_reason: str | None) -> Statement:
    session, dead = holder.session, holder.liveness is Liveness.DEAD
    if holder.lapsed:
        status, reason, note = ("released", PROCESS_GONE, None) if dead else ("stale", SILENT, None)
    else:
        status, reason, note = "idle", FORCED, force_reason
    tombstone = tombstone_for(session, reason, by=caller.session_id, note=note)
    return rows.clear(caller, session, status, tombstone=tombstone)
