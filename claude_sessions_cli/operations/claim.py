"""Claim: register the session and give it a work item, from a holder that has lapsed or is forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from claude_sessions_cli.database import ClaimConflict, Database, Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, UsageError
from claude_sessions_cli.model import FORCED, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session, Tombstone
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import held_by, tombstone_for
from claude_sessions_cli.times import fence_of, time_of


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
    tx.one("lock_work_item", sd_id=sd_id)
    tx.one("insert_session", **caller.columns())
    mine, others = rows.lock_claim(tx, caller, sd_id)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted while it claimed")
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
    for holder in holders:
        _evict(tx, caller, holder, force_reason)
    taken = take(tx, caller, mine, others, sd_id, track)
    if holders:
        outcome = "forced" if live else "took_over"
    elif mine.holds:
        outcome = "switched" if holds_other else "already_yours"
    else:
        outcome = "claimed"
    return ClaimResult(outcome, caller.judge(taken), holders[0] if holders else None, mine.tombstone)


def take(
    tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], sd_id: str, track: str | None
) -> Session:
    """Give the caller an item that has no other holder. Its row and `others`, those of `lock_claim`, are locked."""
    taken = rows.expect(_begin_term(tx, caller, mine, others, sd_id, track))
    # The holders evicted now, and earlier losers whose tombstone has no successor yet.
    losers = [other.session_id for other in others if other.sd_id == sd_id or _lost_without_successor(other, sd_id)]
    if losers:
        tx.run("name_successor", session_ids=losers, by=caller.session_id, fence=taken.fence, now=caller.now)
    return taken


def _lost_without_successor(session: Session, sd_id: str) -> bool:
    return session.tombstone is not None and (session.tombstone.sd_id, session.tombstone.by) == (sd_id, None)


def _begin_term(
    tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], sd_id: str, track: str | None
) -> Session | None:
    columns = caller.columns(
        stale_after=caller.settings.stale_after, parked_until=None, tombstone=None, release_reason=None
    )
    fences = [row.fence for row in (mine, *others) if row.sd_id == sd_id]
    fences += [row.tombstone.fence for row in (mine, *others) if row.tombstone and row.tombstone.sd_id == sd_id]
    # If other programs gave the item a second holder, the later of the two fences counts.
    if mine.holds and mine.sd_id == sd_id and mine.fence is not None and mine.fence == _latest(fences):
        return tx.session("renew_claim", **columns, track=track)
    if mine.sd_id is not None:
        # Other programs' triggers must see the old item go before the new one comes.
        rows.clear(tx, caller, mine, "idle", release_reason="new fence" if mine.sd_id == sd_id else "switched")
        track = track if mine.sd_id != sd_id else track or mine.track
    if tx.has_history and (row := tx.one("read_fence_floor", sd_id=sd_id)):
        fences.append(fence_of(row["claimed_at"]))
    floor = time_of(_latest(fences))
    return tx.session("take_claim", **columns, sd_id=sd_id, track=track, floor=floor)


def _latest(fences: Sequence[int | None]) -> int | None:
    return max((fence for fence in fences if fence is not None), default=None)


def _evict(tx: Transaction, caller: Caller, holder: JudgedSession, force_reason: str | None) -> None:
    session, dead = holder.session, holder.liveness is Liveness.DEAD
    if holder.lapsed:
        status, reason, note = ("released", PROCESS_GONE, None) if dead else ("stale", SILENT, None)
    else:
        status, reason, note = "idle", FORCED, force_reason
    tombstone = tombstone_for(session, reason, by=caller.session_id, note=note)
    rows.clear(tx, caller, session, status, tombstone=tombstone)
