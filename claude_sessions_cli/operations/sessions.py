"""The operations of a session: claim, heartbeat, release. No printing, no argv; short transactions, one lock order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from claude_sessions_cli.database import ClaimConflict, Database, Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, UsageError
from claude_sessions_cli.identity import check_session_id, shorten
from claude_sessions_cli.model import (
    FORCED,
    PROCESS_GONE,
    RELEASED_BY_OTHER,
    SILENT,
    SILENT_TO_THE_END,
    ClaimResult,
    HeartbeatResult,
    JudgedSession,
    Liveness,
    ReleaseResult,
    Session,
    Tombstone,
)
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import bury, held_by, named_by_history
from claude_sessions_cli.times import fence_of, time_of

SD_ID_LIMIT = 256

T = TypeVar("T")


def check_work_item(value: str) -> str:
    """Return a well-formed work item, or raise UsageError."""
    if not value or len(value) > SD_ID_LIMIT or not value.isprintable() or value != value.strip():
        raise UsageError(
            f"not a work item: {shorten(value)}",
            f"a work item is 1 to {SD_ID_LIMIT} printable characters without blanks around them, such as SD-AUTH-001",
        )
    return value


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

    Raises HeldByAnother where the item has a live holder and `force_reason` is None, UsageError where the caller holds
    another item and `switch` is False.
    """
    check_work_item(sd_id)
    try:
        return database.transact(lambda tx: _claim(tx, caller, sd_id, track, switch, force_reason), actor=caller.actor)
    except ClaimConflict as error:
        raise HeldByAnother(f"{sd_id}: {error.message}") from None


def _claim(
    tx: Transaction, caller: Caller, sd_id: str, track: str | None, switch: bool, force_reason: str | None
) -> ClaimResult:
    tx.one("lock_work_item", sd_id=sd_id)
    tx.one("insert_session", **caller.columns())
    mine, others = _lock(tx, caller, sd_id)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted while it claimed")
    holders = [caller.judge(other) for other in others if other.holds and other.sd_id == sd_id]
    live = [holder for holder in holders if not holder.lapsed]
    holds_other = mine.holds and mine.sd_id != sd_id
    # Before the holder: what waits for this item must not wait in vain.
    if holds_other and not switch:
        raise UsageError(
            f"this session already holds {mine.sd_id}", f"give that back and take this: claim {sd_id} --switch"
        )
    if live and force_reason is None:
        raise held_by(live[0], mine.tombstone)
    for holder in holders:
        _evict(tx, caller, holder, force_reason)
    taken = _take(tx, caller, mine, others, sd_id, track)
    if holders:
        outcome = "forced" if live else "took_over"
    elif mine.holds:
        outcome = "switched" if holds_other else "already_yours"
    else:
        outcome = "claimed"
    return ClaimResult(outcome, caller.judge(taken), holders[0] if holders else None, mine.tombstone)


def _lock(tx: Transaction, caller: Caller, sd_id: str | None) -> tuple[Session | None, list[Session]]:
    """Lock the caller's row and those that a claim of `sd_id` concerns; return it and the others."""
    rows = tx.sessions("lock_claim", session_id=caller.session_id, sd_id=sd_id, now=caller.now)
    mine = next((row for row in rows if row.session_id == caller.session_id), None)
    return mine, [row for row in rows if row is not mine]


def _take(
    tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], sd_id: str, track: str | None
) -> Session:
    """Give the item, which nobody else holds any more, to the caller, whose row and the others' are locked."""
    taken = expect(_begin_term(tx, caller, mine, others, sd_id, track))
    # Those who held it until now, and those who lost it before, to nobody.
    told = [other.session_id for other in others if other.sd_id == sd_id or _has_lost(other, sd_id)]
    if told:
        tx.run("name_successor", session_ids=told, by=caller.session_id, fence=taken.fence, now=caller.now)
    return taken


def _has_lost(session: Session, sd_id: str) -> bool:
    return session.tombstone is not None and (session.tombstone.sd_id, session.tombstone.by) == (sd_id, None)


def _begin_term(
    tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], sd_id: str, track: str | None
) -> Session | None:
    columns = caller.columns(
        stale_after=caller.settings.stale_after, parked_until=None, tombstone=None, release_reason=None
    )
    fences = [row.fence for row in (mine, *others) if row.sd_id == sd_id]
    fences += [row.tombstone.fence for row in (mine, *others) if row.tombstone and row.tombstone.sd_id == sd_id]
    # Where other programs gave the item a second holder, the later of the two fences is the one that counts.
    if mine.holds and mine.sd_id == sd_id and mine.fence is not None and mine.fence == _latest(fences):
        return tx.session("renew_claim", **columns, track=track)
    if mine.sd_id is not None:
        # Other programs' triggers must see the old item go before the new one comes.
        _clear(tx, caller, mine, "idle", release_reason="new fence" if mine.sd_id == sd_id else "switched")
        track = track if mine.sd_id != sd_id else track or mine.track
    if tx.has_history and (row := tx.one("read_fence_floor", sd_id=sd_id)):
        fences.append(fence_of(row["claimed_at"]))
    floor = time_of(_latest(fences))
    return tx.session("take_claim", **columns, sd_id=sd_id, track=track, floor=floor)


def _latest(fences: Sequence[int | None]) -> int | None:
    return max((fence for fence in fences if fence is not None), default=None)


def _clear(tx: Transaction, caller: Caller, session: Session, status: str, **own: Any) -> Session:
    cleared = tx.session(
        "clear_claim",
        session_id=session.session_id,
        sd_id=session.sd_id,
        claimed_at=session.claimed_at,
        status=status,
        own=json.dumps({"parked_until": None, **own}, ensure_ascii=False),
        now=caller.now,
    )
    return expect(cleared)


def _evict(tx: Transaction, caller: Caller, holder: JudgedSession, force_reason: str | None) -> None:
    session, dead = holder.session, holder.liveness is Liveness.DEAD
    if holder.lapsed:
        status, reason, note = ("released", PROCESS_GONE, None) if dead else ("stale", SILENT, None)
    else:
        status, reason, note = "idle", FORCED, force_reason
    _clear(tx, caller, session, status, tombstone=bury(session, reason, by=caller.session_id, note=note))


def heartbeat(
    database: Database, caller: Caller, *, register: bool = False, if_older_than: float | None = None
) -> HeartbeatResult:
    """Prove that the caller lives, without changing what it holds.

    With `register` a session that is unknown or has ended is opened as idle. A session that lost its item to silence
    alone, and to nobody since, gets it back under a new fence. Raises NotHeld for a session that is not registered; a
    loss that stands is not an error here but the outcome `lost`, because the heartbeat itself is written. A heartbeat
    that is younger than `if_older_than` seconds is left alone, where there is nothing to tell or to put right.
    """
    result = database.transact(lambda tx: _renew(tx, caller, if_older_than), actor=caller.actor)
    # A renewal that waited for the row keeps it locked even where it then does not fit; what follows locks the work
    # item first, so it is a transaction of its own.
    while result is None:
        result = database.transact(lambda tx: _heartbeat(tx, caller, register, if_older_than), actor=caller.actor)
    return result


def _renew(tx: Transaction, caller: Caller, if_older_than: float | None) -> HeartbeatResult | None:
    record = caller.identity.process_record
    renewed = tx.session(
        "renew_heartbeat",
        session_id=caller.session_id,
        pid=caller.identity.pid,
        process=json.dumps(record) if record else None,
        older_than_s=if_older_than,
        now=caller.now,
    )
    return HeartbeatResult("renewed", caller.judge(renewed)) if renewed else None


def _heartbeat(tx: Transaction, caller: Caller, register: bool, if_older_than: float | None) -> HeartbeatResult | None:
    """Do what a plain renewal cannot; None where another item than the one that was locked may be had back by now."""
    seen = tx.session("read_session", session_id=caller.session_id, now=caller.now)
    if seen is None:
        if not register:
            raise NotHeld(
                f"session {caller.session_id} is not registered", "register it: claude-sessions heartbeat --register"
            )
        tx.one("insert_session", **caller.columns())
        seen = expect(tx.session("read_session", session_id=caller.session_id, now=caller.now))
        return HeartbeatResult("registered", _opened(caller, seen))
    if if_older_than is not None and _is_fresh(seen, caller, if_older_than):
        return HeartbeatResult("fresh", caller.judge(seen))

    # The work item is locked before any row, as in claim: the other way round the two would deadlock.
    item = _restorable_item(seen)
    if item:
        tx.one("lock_work_item", sd_id=item)
    mine, others = _lock(tx, caller, item)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted while it beat")
    if mine.status == "released" and not register:
        raise NotHeld(f"session {mine.session_id} has ended", "open it again: claude-sessions heartbeat --register")
    restorable = _restorable_item(mine)
    if restorable not in (None, item):
        return None
    if restorable:
        return _restore(tx, caller, mine, others, restorable)
    return _revive(tx, caller, mine, mine.tombstone)


def _is_fresh(session: Session, caller: Caller, seconds: float) -> bool:
    """Whether a plain heartbeat would do, and the last one is younger than that; one in the future is put right."""
    record = caller.identity.process_record
    in_order = session.status not in ("stale", "released") and "tombstone" not in session.own
    as_recorded = record is None or (session.pid, session.own.get("process")) == (caller.identity.pid, record)
    age = (session.server_now - session.last_sign).total_seconds()
    return in_order and as_recorded and session.heartbeat_at is not None and 0 <= age < seconds


def _restorable_item(session: Session) -> str | None:
    """Return the item that this session may have back if it is free: lost to silence, or still on its stale row."""
    if session.status == "released":
        return None
    if session.sd_id is not None:
        return session.sd_id if session.status == "stale" else None
    return session.tombstone.sd_id if session.tombstone and session.tombstone.restorable else None


def _restore(tx: Transaction, caller: Caller, mine: Session, others: Sequence[Session], item: str) -> HeartbeatResult:
    lost = mine.tombstone
    holder = next((other for other in others if other.holds and other.sd_id == item), None)
    if holder is None and mine.sd_id is None and lost is not None:
        lost = named_by_history(tx, lost)
    if holder is None and (lost is None or lost.restorable):
        taken = _take(tx, caller, mine, others, item, mine.track or (lost.track if lost else None))
        return HeartbeatResult("restored" if lost else "renewed", caller.judge(taken), lost)
    if holder is not None:
        if mine.sd_id is not None:
            lost = Tombstone(item, mine.fence, mine.server_now, SILENT, None, mine.track)
        lost = replace(expect(lost), by=holder.session_id, new_fence=holder.fence)
        if mine.sd_id is not None:
            mine = _clear(tx, caller, mine, "idle", tombstone=lost.as_metadata())
    return _revive(tx, caller, mine, lost)


def _revive(tx: Transaction, caller: Caller, mine: Session, lost: Tombstone | None) -> HeartbeatResult:
    if lost and lost.restorable and mine.status == "released":
        # Whoever took the item after the end has not named itself here.
        lost = replace(lost, reason=SILENT_TO_THE_END)
    own = {"tombstone": lost.as_metadata()} if lost else {}
    row = expect(tx.session("revive_session", **caller.columns(**own)))
    revived = _opened(caller, row) if mine.status == "released" else caller.judge(row)
    if lost:
        return HeartbeatResult("lost", revived, lost)
    return HeartbeatResult("registered" if mine.status == "released" else "renewed", revived)


def _opened(caller: Caller, session: Session) -> JudgedSession:
    """Judge a session that was opened just now: a beat that comes after the end of its shell must not open it again."""
    opened = caller.judge(session)
    if caller.identity.anchor and opened.liveness is Liveness.DEAD:
        raise NotHeld(f"the process of session {session.session_id} is gone, so it is not opened")
    return opened


def release(
    database: Database,
    caller: Caller,
    sd_id: str | None = None,
    *,
    end: bool = False,
    reason: str | None = None,
) -> ReleaseResult:
    """Give the caller's claim back; with `end` the session is over as well.

    Raises NotHeld where `sd_id` is held by another session. A loss that stands is acknowledged: it is returned as the
    result's tombstone and stands no more.
    """
    if sd_id is not None:
        check_work_item(sd_id)
    return database.transact(lambda tx: _release(tx, caller, sd_id, end, reason), actor=caller.actor)


def _release(tx: Transaction, caller: Caller, sd_id: str | None, end: bool, reason: str | None) -> ReleaseResult:
    mine, others = _lock(tx, caller, sd_id)
    held = mine.sd_id if mine and mine.holds and sd_id in (None, mine.sd_id) else None
    lost = mine.tombstone if mine and mine.tombstone and sd_id in (None, mine.tombstone.sd_id) else None
    holder = next((other for other in others if other.holds and other.sd_id == sd_id), None)
    if holder and sd_id is not None and held is None and lost is None:
        raise NotHeld(f"{sd_id} is held by {holder.session_id}, not by this session")
    if mine and mine.holds and held is None and end:
        raise NotHeld(f"this session holds {mine.sd_id}, not {sd_id}", "end it without naming an item: release --end")
    if mine is None or not (held or lost or (end and mine.status != "released")):
        return ReleaseResult("nothing_held", caller.judge(mine) if mine else None)

    own = {"tombstone": None, "release_reason": reason}
    if held or end:
        cleared = _clear(tx, caller, mine, "released" if end else "idle", **own)
        return ReleaseResult("ended" if end else "released", caller.judge(cleared), held, lost)
    merged = json.dumps(own, ensure_ascii=False)
    acknowledged = tx.session("merge_metadata", session_id=mine.session_id, own=merged, now=caller.now)
    return ReleaseResult("nothing_held", caller.judge(expect(acknowledged)), None, lost)


def release_other(
    database: Database, caller: Caller, prefix: str, sd_id: str | None, *, end: bool = False, reason: str | None = None
) -> ReleaseResult:
    """Give back the claim of the one live session whose id begins with `prefix`, on a person's word.

    Where `prefix` is a whole id, and the caller is in that session's own process, host and directory, it is that
    session's own release.
    Raises UsageError where several match, NotHeld where none does or it does not hold `sd_id`. It finds a tombstone.
    """
    check_session_id(prefix, "--session")
    itself = replace(caller, identity=replace(caller.identity, session_id=prefix))
    if database.transact(lambda tx: _is_itself(tx, itself), writes=False):
        return release(database, itself, sd_id, end=end, reason=reason)
    return database.transact(lambda tx: _release_other(tx, caller, prefix, sd_id, end, reason), actor=caller.actor)


def _release_other(
    tx: Transaction, caller: Caller, prefix: str, sd_id: str | None, end: bool, reason: str | None
) -> ReleaseResult:
    matches = tx.sessions("find_sessions", prefix=prefix, now=caller.now)
    exact = [session for session in matches if session.session_id == prefix]
    live = exact or [session for session in matches if session.status != "released"] or matches
    if not live:
        raise NotHeld(f"no session's id begins with {prefix}", "see them: claude-sessions list --all")
    if len(live) > 1:
        raise UsageError(
            f"{prefix} is the beginning of more than one session id: {live[0].session_id}, {live[1].session_id}"
        )
    session = tx.session("lock_session", session_id=live[0].session_id, now=caller.now)
    if session is None:
        raise NotHeld(f"session {live[0].session_id} was deleted meanwhile")
    if sd_id is not None and (not session.holds or session.sd_id != sd_id):
        raise NotHeld(f"{session.session_id} does not hold {sd_id}")
    held = session.sd_id if session.holds else None
    if not held and (session.status == "released" or not end):
        return ReleaseResult("nothing_held", caller.judge(session))
    status = "released" if end else ("idle" if session.status in ("active", None) else session.status)
    buried = bury(session, RELEASED_BY_OTHER, note=reason)
    cleared = _clear(tx, caller, session, status, tombstone=buried)
    return ReleaseResult("ended" if end else "released", caller.judge(cleared), held)


def _is_itself(tx: Transaction, caller: Caller) -> bool:
    """Whether a caller that names a session is that session, by all that the row knows of it."""
    session, identity = tx.session("read_session", session_id=caller.session_id, now=caller.now), caller.identity
    if session is None:
        return False
    recorded = (session.own.get("process"), session.hostname, session.own.get("cwd"))
    return recorded == (identity.process_record, identity.host.hostname, identity.cwd)


def expect(row: T | None) -> T:
    """Return the row of a statement that cannot have missed: this transaction has locked it."""
    if row is None:
        raise RuntimeError("a row that this transaction has locked is not as it was")
    return row
