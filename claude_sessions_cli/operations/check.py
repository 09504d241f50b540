"""Check: whether the caller holds an item, under which fence. Never writes."""

from __future__ import annotations

from claude_sessions_cli.database import Database, Rows, Statement, Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.names import check_work_item, is_same
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost


def check(database: Database, caller: Caller, sd_id: str | None = None, *, fence: int | None = None) -> JudgedSession:
    """Return the caller's session if it holds the item (or any), under `fence` if given; else raise NotHeld."""
    if sd_id is not None:
        check_work_item(sd_id)
    return agent.settled(database, caller, lambda acting: _check(database, acting, sd_id, fence)).result


def _check(database: Database, caller: Caller, sd_id: str | None, fence: int | None) -> JudgedSession:
    found, *same = database.prove(_look, caller, sd_id)
    agent.require_current(caller, rows.split(found, caller)[0], same, writes=False)
    return require_claim(caller, found, sd_id, fence)


def _look(tx: Transaction, caller: Caller, sd_id: str | None) -> list[Rows]:
    return tx.commit(Statement("read_holders", **caller.key, forms=tx.forms(sd_id)), *agent.look(caller))


def read_holders(tx: Transaction, caller: Caller, sd_id: str | None) -> Rows:
    """Return the caller's row, and every holder of the item and of the caller's own."""
    [found] = tx.commit(Statement("read_holders", **caller.key, forms=tx.forms(sd_id)))
    return found


def require_claim(caller: Caller, found: Rows, sd_id: str | None, fence: int | None) -> JudgedSession:
    """Return the caller's session if it holds the item; `found` are the rows of read_holders. Raises NotHeld."""
    session, others = rows.split(found, caller)
    if session is None:
        raise NotHeld(f"session {caller.session_id} is not registered, and holds nothing")
    try:
        agent.require_own(caller, session)
    except HeldByAnother as error:
        raise NotHeld(error.message, error.hint) from None
    lost = agent.lost_term(session, others)
    if lost and (sd_id is None or is_same(sd_id, lost.sd_id)):
        raise claim_lost(lost, session)
    told = session.tombstone if session.unsettled_loss else None
    if told and (sd_id is None or is_same(sd_id, told.sd_id)):
        raise claim_lost(told, session)
    if not session.holds or not (sd_id is None or is_same(sd_id, session.sd_id)):
        holder = next((other.session_id for other in others if other.holds and is_same(other.sd_id, sd_id)), None)
        instead = f": {holder} does" if holder else ""
        raise NotHeld(f"this session does not hold {sd_id}{instead}" if sd_id else "this session holds nothing")
    if fence not in (None, session.fence):
        raise NotHeld(f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}")
    rows.refuse_stale(session)
    if later := agent.later_holder(session, others):
        raise overtaken(later)
    return caller.judge(session)


def overtaken(later: Session) -> NotHeld:
    """Return the error of a term that a later one of another session has overtaken."""
    return NotHeld(f"{later.sd_id} is held by {later.session_id} under the later fence {later.fence}", "claim it again")
