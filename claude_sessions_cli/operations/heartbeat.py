"""Heartbeat: prove that a session lives, and give back what it lost to silence alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.model import SILENT, SILENT_TO_THE_END, JudgedSession, Liveness, Session, Tombstone
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import take
from claude_sessions_cli.operations.tombstones import add_successor


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """The outcome: `renewed`, `registered`, `restored`, `fresh` or `lost`."""

    outcome: str
    session: JudgedSession
    tombstone: Tombstone | None = None


def heartbeat(
    database: Database, caller: Caller, *, register: bool = False, if_older_than: float | None = None
) -> HeartbeatResult:
    """Prove that the caller lives, without changing what it holds.

    With `register`, a session that is unknown or has ended is opened as idle. A session that lost its item to silence
    alone gets it back under a new fence, unless another one has taken it. A heartbeat younger than `if_older_than`
    seconds is left alone, unless there is a loss to report or a row to correct.

    Raises NotHeld if the session is not registered. An unacknowledged loss is the outcome `lost` and not an error,
    because the heartbeat is written.
    """
    result = database.write(caller.actor, _renew, caller, if_older_than)
    # A renewal that waited for the row keeps it locked even if it then matches nothing. The slow path locks the work
    # item first, so it needs a transaction of its own.
    while result is None:
        result = database.write(caller.actor, _heartbeat, caller, register, if_older_than)
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
    """The slow path. Returns None if another item has become restorable since; the caller retries."""
    seen = rows.read(tx, caller)
    if seen is None:
        if not register:
            raise NotHeld(
                f"session {caller.session_id} is not registered", "register it: claude-sessions heartbeat --register"
            )
        tx.one("insert_session", **caller.columns())
        return HeartbeatResult("registered", _judge_opened(caller, rows.expect(rows.read(tx, caller))))
    if if_older_than is not None and _is_fresh(seen, caller, if_older_than):
        return HeartbeatResult("fresh", caller.judge(seen))

    # The work item is locked before any row, as in claim; the other order would deadlock.
    item = _restorable_item(seen)
    if item:
        tx.one("lock_work_item", sd_id=item)
    mine, others = rows.lock_claim(tx, caller, item)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted during its heartbeat")
    if mine.status == "released" and not register:
        raise NotHeld(f"session {mine.session_id} has ended", "open it again: claude-sessions heartbeat --register")
    restorable = _restorable_item(mine)
    if restorable not in (None, item):
        return None
    if restorable:
        return _restore(tx, caller, mine, others, restorable)
    return _revive(tx, caller, mine, mine.tombstone)


def _is_fresh(session: Session, caller: Caller, seconds: float) -> bool:
    """Whether a plain heartbeat would do, and the last one is younger than `seconds`; one in the future is not."""
    record = caller.identity.process_record
    in_order = session.status not in ("stale", "released") and "tombstone" not in session.own
    as_recorded = record is None or (session.pid, session.own.get("process")) == (caller.identity.pid, record)
    age = (session.server_now - session.last_sign).total_seconds()
    return in_order and as_recorded and session.heartbeat_at is not None and 0 <= age < seconds


def _restorable_item(session: Session) -> str | None:
    """Return the item that this session gets back if it is free: lost to silence, or still on its stale row."""
    if session.status == "released":
        return None
    if session.sd_id is not None:
        return session.sd_id if session.status == "stale" else None
    return session.tombstone.sd_id if session.tombstone and session.tombstone.restorable else None


def _restore(tx: Transaction, caller: Caller, mine: Session, others: list[Session], item: str) -> HeartbeatResult:
    lost = mine.tombstone
    holder = next((other for other in others if other.holds and other.sd_id == item), None)
    if holder is None and mine.sd_id is None and lost is not None:
        lost = add_successor(tx, lost)
    if holder is None and (lost is None or lost.restorable):
        taken = take(tx, caller, mine, others, item, mine.track or (lost.track if lost else None))
        return HeartbeatResult("restored" if lost else "renewed", caller.judge(taken), lost)
    if holder is not None:
        if mine.sd_id is not None:
            lost = Tombstone(item, mine.fence, mine.server_now, SILENT, None, mine.track)
        lost = replace(rows.expect(lost), by=holder.session_id, new_fence=holder.fence)
        if mine.sd_id is not None:
            mine = rows.clear(tx, caller, mine, "idle", tombstone=lost.as_metadata())
    return _revive(tx, caller, mine, lost)


def _revive(tx: Transaction, caller: Caller, mine: Session, lost: Tombstone | None) -> HeartbeatResult:
    if lost and lost.restorable and mine.status == "released":
        # Sessions that claimed the item after this one ended did not update its tombstone.
        lost = replace(lost, reason=SILENT_TO_THE_END)
    own = {"tombstone": lost.as_metadata()} if lost else {}
    row = rows.expect(tx.session("revive_session", **caller.columns(**own)))
    revived = _judge_opened(caller, row) if mine.status == "released" else caller.judge(row)
    if lost:
        return HeartbeatResult("lost", revived, lost)
    return HeartbeatResult("registered" if mine.status == "released" else "renewed", revived)


def _judge_opened(caller: Caller, session: Session) -> JudgedSession:
    """Judge a session opened in this transaction; raises NotHeld if its shell ended before this heartbeat arrived."""
    opened = caller.judge(session)
    if caller.identity.anchor and opened.liveness is Liveness.DEAD:
        raise NotHeld(f"the process of session {session.session_id} is gone, so it is not opened")
    return opened
