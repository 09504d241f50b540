"""Check: whether the caller holds an item, under which fence. Never writes."""

from __future__ import annotations

from datetime import datetime

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.model import JudgedSession
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost


def check(database: Database, caller: Caller, sd_id: str | None = None, *, fence: int | None = None) -> JudgedSession:
    """Return the caller's session if it holds the item (or any), under `fence` if given; else raise NotHeld."""
    if sd_id is not None:
        check_work_item(sd_id)
    return database.read(prove, caller, sd_id, fence)


def prove(tx: Transaction, caller: Caller, sd_id: str | None, fence: int | None) -> JudgedSession:
    """The transaction of `check`."""
    session = rows.read(tx, caller)
    if session is None:
        raise NotHeld(f"session {caller.session_id} is not registered, and holds nothing")
    if session.tombstone and sd_id in (None, session.tombstone.sd_id):
        raise claim_lost(session.tombstone)
    if not session.holds or sd_id not in (None, session.sd_id):
        raise NotHeld(f"this session does not hold {sd_id}" if sd_id else "this session holds nothing")
    if fence not in (None, session.fence):
        raise NotHeld(f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}")
    rows.refuse_stale(session)
    if later := later_holder(tx, caller, rows.expect(session.sd_id), session.claimed_at):
        raise later
    return caller.judge(session)


def later_holder(tx: Transaction, caller: Caller, sd_id: str, claimed_at: datetime | None) -> NotHeld | None:
    """Return the error of a term that a later one of another session has overtaken; None if there is no later one."""
    own = {"session_id": caller.session_id, "now": caller.now}
    later = tx.session("read_later_holder", **own, sd_id=sd_id, claimed_at=claimed_at)
    if later is None:
        return None
    return NotHeld(f"{sd_id} is held by {later.session_id} under the later fence {later.fence}", "claim it again")
