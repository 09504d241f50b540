"""What one builds on a claim: proving it, and declaring silence."""

from __future__ import annotations

from datetime import datetime, timedelta

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld, UsageError
from claude_sessions_cli.model import PARK_LIMIT_S, JudgedSession, Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.sessions import check_work_item, expect
from claude_sessions_cli.operations.tombstones import lost_to


def check(database: Database, caller: Caller, sd_id: str | None = None, *, fence: int | None = None) -> JudgedSession:
    """Return the caller's session if it holds the item (or any), under `fence` if that is given; else raise NotHeld."""
    if sd_id is not None:
        check_work_item(sd_id)
    return database.transact(lambda tx: prove(tx, caller, sd_id, fence), writes=False)


def prove(tx: Transaction, caller: Caller, sd_id: str | None, fence: int | None) -> JudgedSession:
    """Do as `check` does, in a transaction."""
    session = tx.session("read_session", session_id=caller.session_id, now=caller.now)
    if session is None:
        raise NotHeld(f"session {caller.session_id} is not registered, and holds nothing")
    if session.tombstone and sd_id in (None, session.tombstone.sd_id):
        raise lost_to(session.tombstone)
    if not session.holds or sd_id not in (None, session.sd_id):
        raise NotHeld(f"this session does not hold {sd_id}" if sd_id else "this session holds nothing")
    if fence not in (None, session.fence):
        raise NotHeld(f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}")
    _refuse_silent(session)
    if later := later_holder(tx, caller, expect(session.sd_id), session.claimed_at):
        raise later
    return caller.judge(session)


def _refuse_silent(session: Session) -> None:
    """Older writers leave claims on stale rows: a heartbeat or a claim settles whose they are."""
    if session.status == "stale":
        raise NotHeld(
            f"this session was found silent, and {session.sd_id} may be another's by now",
            "prove that it lives: claude-sessions heartbeat",
        )


def later_holder(tx: Transaction, caller: Caller, sd_id: str, claimed_at: datetime | None) -> NotHeld | None:
    """Return the error of a term that another one, younger, has overtaken; None where there is none."""
    own = {"session_id": caller.session_id, "now": caller.now}
    later = tx.session("read_later_holder", **own, sd_id=sd_id, claimed_at=claimed_at)
    if later is None:
        return None
    return NotHeld(f"{sd_id} is held by {later.session_id} under the later fence {later.fence}", "claim it again")


def park(database: Database, caller: Caller, seconds: float) -> JudgedSession:
    """Declare silence for `seconds` from now: 45 minutes at most, and only with a claim to keep by it."""
    if seconds > PARK_LIMIT_S:
        raise UsageError(f"a park is at most {PARK_LIMIT_S // 60}m long")
    return database.transact(lambda tx: _park(tx, caller, seconds), actor=caller.actor)


def unpark(database: Database, caller: Caller) -> JudgedSession:
    """Take the declared silence back."""
    return database.transact(lambda tx: _park(tx, caller, None), actor=caller.actor)


def _park(tx: Transaction, caller: Caller, seconds: float | None) -> JudgedSession:
    session = lock_holder(tx, caller, "this session holds nothing, so there is nothing to park")
    until = None if seconds is None else (session.server_now + timedelta(seconds=seconds)).isoformat()
    # Parking is also a heartbeat.
    return caller.judge(expect(tx.session("revive_session", **caller.columns(parked_until=until))))


def lock_holder(tx: Transaction, caller: Caller, refusal: str) -> Session:
    """Lock the row of the caller, which has to hold something, and to be told of no loss; else raise NotHeld."""
    session = tx.session("lock_session", session_id=caller.session_id, now=caller.now)
    if session and session.tombstone:
        raise lost_to(session.tombstone)
    if session is None or not session.holds:
        raise NotHeld(refusal, "claim first: claude-sessions claim SD")
    _refuse_silent(session)
    return session


def read(database: Database, caller: Caller) -> Session | None:
    """Return the caller's session, None where it is not registered."""
    return database.transact(
        lambda tx: tx.session("read_session", session_id=caller.session_id, now=caller.now), writes=False
    )
