"""Claim: register the session and give it a work item, from a holder that has lapsed or is forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from claude_sessions_cli.database import ClaimConflict, Database, Statement, Transaction
from claude_sessions_cli.errors import HeldByAnother, PermissionDenied, UsageError
from claude_sessions_cli.model import FORCED, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session, Tombstone
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import held_by, tombstone_for
from claude_sessions_cli.times import time_of


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome: `claimed`, `already_yours`, `took_over`, `forced` or `switched`.

    `lost_before` is an earlier loss that this claim acknowledges.
    """

    outcome: str
    session: JudgedSession
    evicted: JudgedSession | None = None
    lost_before: Tombstone | None = None


def claim(
    database: Database,
    caller: Caller,
    sd_id: str,
    *,
    track: str | None = None,
    switch: bool = False,
    force_reason: str | None = None,
) -> ClaimResult:
    """Register the caller and give it the work item.

    Raises HeldByAnother if the item has a live holder and `force_reason` is None, UsageError if the caller holds
    another item and `switch` is False.
    """
    check_work_item(sd_id)
    try:
        return database.write(caller.actor, _claim, caller, sd_id, track, switch, force_reason)
    except ClaimConflict as error:
        raise HeldByAnother(f"{sd_id}: {error.message}") from None


def _claim(
    tx: Transaction, caller: Caller, sd_id: str, track: str | None, switch: bool, force_reason: str | None
) -> ClaimResult:
    *_, found = tx.send(
        Statement("lock_work_item", sd_id=sd_id),
        Statement("insert_session", **caller.columns()),
        Statement("lock_claim", **caller.key, sd_id=sd_id),
    )
    mine, others = rows.split(found, caller)
    if mine is None:
        raise not_registered(caller)
    holders = [caller.judge(other) for other in others if other.holds and other.sd_id == sd_id]
    live = [holder for holder in holders if not holder.lapsed]
    holds_other = mine.holds and mine.sd_id != sd_id
    # Before the holder is judged: a caller that waits for this item must not wait in vain.
    if holds_other and not switch:
        raise UsageError(
            f"this session already holds {mine.sd_id}", f"give that back and take this: claim {sd_id} --switch"
        )
    if live and force_reason is None:
        raise held_by(live[0], mine.tombstone)
    evictions = [_evict(caller, holder, force_reason) for holder in holders]
    taken = take(tx, caller, mine, others, sd_id, track, evictions)
    if holders:
        outcome = "forced" if live else "took_over"
    elif mine.holds:
        outcome = "switched" if holds_other else "already_yours"
    else:
        outcome = "claimed"
    return ClaimResult(outcome, caller.judge(taken), holders[0] if holders else None, mine.tombstone)


def take(
    tx: Transaction,
    caller: Caller,
    mine: Session,
    others: Sequence[Session],
    sd_id: str,
    track: str | None,
    evictions: Sequence[Statement] = (),
) -> Session:
    """Give the caller an item that has no holder after the `evictions`, and commit.

    Its row and `others`, those of `lock_claim`, are locked.
    """
    *before, term = _begin_term(tx, caller, mine, others, sd_id, track)
    # The holders evicted now, and earlier losers whose tombstone has no successor yet.
    losers = [other.session_id for other in others if other.sd_id == sd_id or _lost_without_successor(other, sd_id)]
    successor = (
        [Statement("name_successor", session_ids=losers, by=caller.session_id, now=caller.now)] if losers else []
    )
    answers = tx.commit(*evictions, *before, term, *successor)
    return rows.written(answers[len(evictions) + len(before)])


def _lost_without_successor(session: Session, sd_id: str) -> bool:
    return session.tombstone is not None and (session.tombstone.sd_id, session.tombstone.by) == (sd_id, None)


def _begin_term(
    tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], sd_id: str, track: str | None
) -> list[Statement]:
    """Return the statements that begin the caller's term, or refresh it; the last one returns its row."""
    columns = caller.columns(
        stale_after=caller.settings.stale_after, parked_until=None, tombstone=None, release_reason=None
    )
    fences = [row.fence for row in (mine, *others) if row.sd_id == sd_id]
    fences += [row.tombstone.fence for row in (mine, *others) if row.tombstone and row.tombstone.sd_id == sd_id]
    # If other programs gave the item a second holder, the later of the two fences counts.
    if mine.holds and mine.sd_id == sd_id and mine.fence is not None and mine.fence == _latest(fences):
        return [Statement("renew_claim", **columns, track=track)]
    before = []
    if mine.sd_id is not None:
        # Other programs' triggers must see the old item go before the new one comes.
        reason = "new fence" if mine.sd_id == sd_id else "switched"
        before.append(rows.clear(caller, mine, "idle", release_reason=reason))
        track = track if mine.sd_id != sd_id else track or mine.track
    # No statement may name the history where there is none.
    if tx.has_history:
        before.append(Statement("read_fence_floor", sd_id=sd_id))
    floor = time_of(_latest(fences))
    return [*before, Statement("take_claim", **columns, sd_id=sd_id, track=track, floor=floor)]


def _latest(fences: Sequence[int | None]) -> int | None:
    return max((fence for fence in fences if fence is not None), default=None)


def _evict(caller: Caller, holder: JudgedSession, force_reason: str | None) -> Statement:
    session, dead = holder.session, holder.liveness is Liveness.DEAD
    if holder.lapsed:
        status, reason, note = ("released", PROCESS_GONE, None) if dead else ("stale", SILENT, None)
    else:
        status, reason, note = "idle", FORCED, force_reason
    tombstone = tombstone_for(session, reason, by=caller.session_id, note=note)
    return rows.clear(caller, session, status, tombstone=tombstone)


def not_registered(caller: Caller) -> PermissionDenied:
    """Return the error of a session that has no row just after it was registered."""
    return PermissionDenied(
        f"session {caller.session_id} could not be registered: a trigger of the table refused it, or another program"
        " deleted it"
    )
