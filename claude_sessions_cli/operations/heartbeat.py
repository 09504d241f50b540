"""Heartbeat: prove that a session lives, and give back what it lost to silence alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from claude_sessions_cli.database import Database, Statement, Transaction
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.liveness import liveness_of
from claude_sessions_cli.model import (
    SILENT,
    SILENT_TO_THE_END,
    JudgedSession,
    Liveness,
    ProcessRecord,
    Session,
    Tombstone,
)
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import not_registered, take
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
    renewed, seen, has_history = database.renew(caller.actor, _renew, caller, if_older_than)
    if renewed:
        return HeartbeatResult("renewed", caller.judge(renewed))
    if seen is None:
        if not register:
            raise NotHeld(
                f"session {caller.session_id} is not registered", "register it: claude-sessions heartbeat --register"
            )
        _refuse_gone(caller)
        return database.renew(caller.actor, _register, caller)
    if if_older_than is not None and _is_fresh(seen, caller, if_older_than):
        return HeartbeatResult("fresh", caller.judge(seen))
    # A renewal that waited for the row keeps it locked even if it then matches nothing. This path locks the work item
    # first, so it needs a transaction of its own.
    item = _restorable_item(seen)
    while True:
        settled = database.write(caller.actor, _settle, caller, register, item, has_history)
        if isinstance(settled, HeartbeatResult):
            return settled
        item = settled


def _renew(tx: Transaction, caller: Caller, if_older_than: float | None) -> tuple[Session | None, Session | None, bool]:
    """Return the renewed session, if this could renew it; the row as it is; whether there is a history."""
    record = caller.identity.process_record
    renewed, seen = tx.commit(
        Statement(
            "renew_heartbeat",
            **caller.key,
            pid=caller.identity.pid,
            process=json.dumps(record) if record else None,
            older_than_s=if_older_than,
        ),
        Statement("read_session", **caller.key),
    )
    return renewed.session, seen.session, tx.has_history


def _register(tx: Transaction, caller: Caller) -> HeartbeatResult:
    _, found = tx.commit(Statement("insert_session", **caller.columns()), Statement("read_session", **caller.key))
    if found.session is None:
        raise not_registered(caller)
    return HeartbeatResult("registered", caller.judge(found.session))


def _settle(
    tx: Transaction, caller: Caller, register: bool, item: str | None, has_history: bool
) -> HeartbeatResult | str | None:
    """Restore the item, report a loss, or open the session again.

    Returns the item to lock if another than `item` has become restorable since; the caller retries.
    """
    # The work item is locked before any row, as in claim; the other order would deadlock.
    lock = [Statement("lock_work_item", sd_id=item)] if item else []
    history = [Statement("read_fence_floor", sd_id=item)] if item and has_history else []
    answers = tx.send(*lock, Statement("lock_claim", **caller.key, sd_id=item), *history)
    mine, others = rows.split(answers[len(lock)], caller)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted during its heartbeat")
    if mine.status == "released":
        if not register:
            raise NotHeld(f"session {mine.session_id} has ended", "open it again: claude-sessions heartbeat --register")
        _refuse_gone(caller)
    restorable = _restorable_item(mine)
    if restorable not in (None, item):
        return restorable
    if restorable:
        latest = answers[-1].first if history else None
        return _restore(tx, caller, mine, others, restorable, latest)
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


def _restore(
    tx: Transaction, caller: Caller, mine: Session, others: list[Session], item: str, latest: Mapping[str, Any] | None
) -> HeartbeatResult:
    lost = mine.tombstone
    holder = next((other for other in others if other.holds and other.sd_id == item), None)
    if holder is None and mine.sd_id is None and lost is not None:
        lost = add_successor(lost, latest)
    if holder is None and (lost is None or lost.restorable):
        taken = take(tx, caller, mine, others, item, mine.track or (lost.track if lost else None))
        return HeartbeatResult("restored" if lost else "renewed", caller.judge(taken), lost)
    if holder is None:
        return _revive(tx, caller, mine, lost)
    silence = Tombstone(item, mine.fence, mine.server_now, SILENT, None, mine.track)
    lost = replace(lost if lost and mine.sd_id is None else silence, by=holder.session_id, new_fence=holder.fence)
    cleared = [rows.clear(caller, mine, "idle", tombstone=lost.as_metadata())] if mine.sd_id is not None else []
    return _revive(tx, caller, mine, lost, cleared)


def _revive(
    tx: Transaction, caller: Caller, mine: Session, lost: Tombstone | None, before: Sequence[Statement] = ()
) -> HeartbeatResult:
    if lost and lost.restorable and mine.status == "released":
        # Sessions that claimed the item after this one ended did not update its tombstone.
        lost = replace(lost, reason=SILENT_TO_THE_END)
    own = {"tombstone": lost.as_metadata()} if lost else {}
    *_, row = tx.commit(*before, Statement("revive_session", **caller.columns(**own)))
    revived = caller.judge(rows.written(row))
    if lost:
        return HeartbeatResult("lost", revived, lost)
    return HeartbeatResult("registered" if mine.status == "released" else "renewed", revived)


def _refuse_gone(caller: Caller) -> None:
    """Raise NotHeld if the caller's shell ended before this heartbeat arrived: its session is not opened."""
    identity = caller.identity
    record = ProcessRecord(**identity.process_record) if identity.process_record else None
    if record and liveness_of(record, identity.host.hostname, identity.host) is Liveness.DEAD:
        raise NotHeld(f"the process of session {caller.session_id} is gone, so it is not opened")
