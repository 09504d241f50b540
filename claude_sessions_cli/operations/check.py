"""Check: whether the caller holds an item, under which fence. Never writes."""

from __future__ import annotations

from collections.abc import Sequence

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.names import check_work_item, is_same
from claude_sessions_cli.operations import agent, losses, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost
from claude_sessions_cli.text import command_line
from claude_sessions_cli.transaction import Rows, Statement, Transaction


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
        raise NotHeld(
            f"session {caller.session_id} is not registered, and holds nothing",
            _claim(sd_id),
            holder=_holder(caller, others, sd_id),
        )
    try:
        agent.require_own(caller, session)
    except HeldByAnother as error:
        raise NotHeld(error.message, error.hint, holder=error.holder) from None
    for lost in (losses.lost_term(session, others), session.tombstone if session.unsettled_loss else None):
        if lost and (sd_id is None or is_same(sd_id, lost.sd_id)):
            raise claim_lost(lost, session, _holder(caller, others, lost.sd_id))
    if not session.holds or not (sd_id is None or is_same(sd_id, session.sd_id)):
        holder = _holder(caller, others, sd_id)
        instead = f": {holder.session.session_id} does" if holder else ""
        raise NotHeld(
            f"this session does not hold {sd_id}{instead}" if sd_id else "this session holds nothing",
            f"see its holder: {command_line('list', sd_id)}" if sd_id and holder else _claim(sd_id),
            holder=holder,
        )
    if fence not in (None, session.fence):
        raise NotHeld(
            f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}",
            f"check the current one: claude-sessions check --fence {session.fence}",
        )
    rows.refuse_stale(session)
    if later := losses.later_holder(session, others):
        raise overtaken(caller.judge(later))
    return caller.judge(session)


def _holder(caller: Caller, others: Sequence[Session], sd_id: str | None) -> JudgedSession | None:
    """Return the other session that holds the item."""
    found = next((other for other in others if other.holds and is_same(other.sd_id, sd_id)), None)
    return caller.judge(found) if found and sd_id else None


def _claim(sd_id: str | None) -> str:
    return f"claim it first: {command_line('claim', sd_id or 'SD')}"


def overtaken(later: JudgedSession) -> NotHeld:
    """Return the error of a term that a later one of another session has overtaken."""
    session = later.session
    return NotHeld(
        f"{session.sd_id} is held by {session.session_id} under the later fence {session.fence}",
        f"see its holder: {command_line('list', session.sd_id or '')}",
        holder=later,
    )
