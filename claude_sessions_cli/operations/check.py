"""Check: whether the caller holds an item, under which fence. Never writes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from claude_sessions_cli.database import Database, Rows, Statement, Transaction
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost


def check(database: Database, caller: Caller, sd_id: str | None = None, *, fence: int | None = None) -> JudgedSession:
    """Return the caller's session if it holds the item (or any), under `fence` if given; else raise NotHeld."""
    if sd_id is not None:
        check_work_item(sd_id)
    return require_claim(caller, database.prove(read_holders, caller, sd_id), sd_id, fence)


def read_holders(tx: Transaction, caller: Caller, sd_id: str | None) -> Rows:
    """Return the caller's row, and every holder of the item and of the caller's own."""
    [found] = tx.commit(Statement("read_holders", **caller.key, sd_id=sd_id))
    return found


def require_claim(caller: Caller, found: Rows, sd_id: str | None, fence: int | None) -> JudgedSession:
    """Return the caller's session if it holds the item; `found` are the rows of read_holders. Raises NotHeld."""
    session, others = rows.split(found, caller)
    if session is None:
        raise NotHeld(f"session {caller.session_id} is not registered, and holds nothing")
    if session.tombstone and sd_id in (None, session.tombstone.sd_id):
        raise claim_lost(session.tombstone)
    if not session.holds or sd_id not in (None, session.sd_id):
        holder = next((other.session_id for other in others if other.holds and other.sd_id == sd_id), None)
        instead = f": {holder} does" if holder else ""
        raise NotHeld(f"this session does not hold {sd_id}{instead}" if sd_id else "this session holds nothing")
    if fence not in (None, session.fence):
        raise NotHeld(f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}")
    rows.refuse_stale(session)
    if later := later_holder(caller, others, session.sd_id, session.claimed_at):
        raise later
    return caller.judge(session)


def later_holder(
    caller: Caller, others: Iterable[Session], sd_id: str | None, claimed_at: datetime | None
) -> NotHeld | None:
    """Return the error of a term that a later one of another session has overtaken; None if there is no later one."""
    own = (claimed_at or datetime.min.replace(tzinfo=timezone.utc), caller.session_id)
    later = [
        (other.claimed_at, other.session_id, other)
        for other in others
        if other.holds and other.sd_id == sd_id and other.claimed_at and (other.claimed_at, other.session_id) > own
    ]
    if not later:
        return None
    *_, latest = max(later)
    return NotHeld(f"{sd_id} is held by {latest.session_id} under the later fence {latest.fence}", "claim it again")
