"""The term that a command runs under: entered, renewed, and left or ended. Each names the whole term."""

from __future__ import annotations

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.liveness import is_gone, may_run
from claude_sessions_cli.model import JudgedSession, ProcessRecord, Session
from claude_sessions_cli.names import is_same
from claude_sessions_cli.operations import agent, losses, rows
from claude_sessions_cli.operations.caller import Caller, Standing
from claude_sessions_cli.operations.check import overtaken, read_holders, require_claim
from claude_sessions_cli.operations.tombstones import claim_lost
from claude_sessions_cli.text import command_line
from claude_sessions_cli.times import time_of
from claude_sessions_cli.transaction import Rows, Statement, Transaction


def enter(
    database: Database,
    caller: Caller,
    runner: ProcessRecord,
    sd_id: str,
    guardian: ProcessRecord | None = None,
    *,
    fence: int | None = None,
) -> JudgedSession:
    """Record in the holder's row that `runner` runs a command under the claim of `sd_id`, which `guardian` watches.

    Raises HeldByAnother if another runner does, NotHeld if the session no longer holds the item, or not under `fence`.
    """
    return agent.settled(
        database, caller, lambda acting: database.write(acting.actor, _enter, acting, runner, sd_id, guardian, fence)
    ).result


def _enter(
    tx: Transaction,
    caller: Caller,
    runner: ProcessRecord,
    sd_id: str,
    guardian: ProcessRecord | None,
    fence: int | None,
) -> JudgedSession:
    found, holders = tx.send(
        Statement("lock_session", **caller.key), Statement("read_holders", **caller.key, forms=None)
    )
    agent.require_here(caller, found.session)
    if found.session:
        agent.require_term(found.session, rows.split(holders, caller)[1])
    session = rows.require_holder(found.session, "this session holds nothing to run a command under")
    if not is_same(session.sd_id, sd_id):
        raise NotHeld(
            f"this session holds {session.sd_id} now, not {sd_id}",
            f"claim it again: {command_line('claim', sd_id, '--switch')}",
        )
    if fence not in (None, session.fence):
        raise _over(sd_id, fence)
    if may_run(session, caller.identity.host):
        raise HeldByAnother(
            f"a command is already running under {session.sd_id} in this session",
            f"wait for its end; look: {command_line('list', sd_id)}",
            holder=caller.judge(session),
        )
    # The command trusts a window that every other client has to respect.
    stale_after = session.effective_stale_after(caller.settings.stale_after)
    run = runner._asdict()
    if guardian:
        run["guardian"] = {"pid": guardian.pid, "start": guardian.start}
    columns = caller.columns(caller.standing(session), run=run, stale_after=stale_after)
    [entered] = tx.commit(Statement("revive_session", **columns))
    return caller.judge(rows.written(entered))


def leave(database: Database, caller: Caller, runner: ProcessRecord, sd_id: str, fence: int) -> None:
    """Remove `runner` from the holder's row; the claim stays. Raises NotHeld if the term was lost."""
    if not database.write(caller.actor, _leave, caller, runner, sd_id, fence):
        _raise_loss(database, caller, sd_id, fence)


def _leave(tx: Transaction, caller: Caller, runner: ProcessRecord, sd_id: str, fence: int) -> bool:
    [found] = tx.send(Statement("lock_session", **caller.key))
    session = found.session
    in_term = _is_in_term(session, sd_id, fence)
    # Another runner may have entered under a later term of this session.
    if session and session.runner == runner:
        if in_term and is_gone(session, caller.identity.host):
            # The shell ended while its command ran: nobody is left to give the claim back.
            tx.commit(rows.clear(caller, session, "released", release_reason="completed"))
        else:
            tx.commit(rows.merge(caller, run=None))
    return in_term


def _is_in_term(session: Session | None, sd_id: str, fence: int) -> bool:
    return session is not None and session.holds and session.fence == fence and is_same(session.sd_id, sd_id)


def _began(session: Session, sd_id: str, fence: int) -> bool:
    """Whether the session's own last claim began this term."""
    term = session.term
    return term is not None and term.fence == fence and is_same(term.sd_id, sd_id)


def _raise_loss(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Raise NotHeld for a term that is over, unless the session itself gave it back."""
    session, others = rows.split(database.read(read_holders, caller, sd_id), caller)
    lost = session.tombstone if session else None
    if session and _began(session, sd_id, fence) and losses.lost_term(session, others):
        lost = losses.note_loss(database, caller) or lost
    if session and lost and is_same(lost.sd_id, sd_id):
        raise claim_lost(lost, session)
    # `others` hold this item, or the one that the session holds now.
    later = [other for other in others if is_same(other.sd_id, sd_id) and (other.fence or 0) > fence]
    if later:
        raise overtaken(caller.judge(max(later, key=_fence)))
    if session is None:
        raise NotHeld(f"session {caller.session_id} was deleted", f"claim it again: {command_line('claim', sd_id)}")


def _fence(session: Session) -> int:
    return session.fence or 0


def renew(database: Database, caller: Caller, sd_id: str, fence: int) -> JudgedSession:
    """Prove life under this term only. Raises NotHeld, and changes nothing, if the term is over."""
    renewed, found = database.renew(caller.actor, _renew, caller, sd_id, fence)
    held = require_claim(caller, found, sd_id, fence)
    if renewed:
        return held
    raise _over(sd_id, fence)


def _over(sd_id: str, fence: int | None) -> NotHeld:
    return NotHeld(
        f"the term of {sd_id} under fence {fence} is over", f"claim it again: {command_line('claim', sd_id)}"
    )


def _renew(tx: Transaction, caller: Caller, sd_id: str, fence: int) -> tuple[bool, Rows]:
    renewed, found = tx.commit(
        Statement("renew_term", **caller.key, forms=tx.forms(sd_id), claimed_at=time_of(fence)),
        Statement("read_holders", **caller.key, forms=tx.forms(sd_id)),
    )
    return bool(renewed), found


def outlive_process(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Keep this term when the session's process ends: it lapses by silence alone.

    If the term is over, end the session. Raises NotHeld if the term was lost.
    """
    if not database.write(caller.actor, _outlive_process, caller, sd_id, fence):
        release(database, caller, sd_id, fence, reason="failed")


def _outlive_process(tx: Transaction, caller: Caller, sd_id: str, fence: int) -> bool:
    [found] = tx.send(Statement("lock_session", **caller.key))
    kept = _is_in_term(found.session, sd_id, fence)
    if kept:
        tx.commit(rows.merge(caller, run=None, process=None))
    return kept


def release(database: Database, caller: Caller, sd_id: str, fence: int, *, reason: str) -> None:
    """End this term and its session; if the term is over, end the session unless it holds something else.

    Raises NotHeld if the term was lost.
    """
    if not database.write(caller.actor, _release, caller, sd_id, fence, reason):
        _raise_loss(database, caller, sd_id, fence)


def _release(tx: Transaction, caller: Caller, sd_id: str, fence: int, reason: str) -> bool:
    [found] = tx.send(Statement("lock_session", **caller.key))
    session = found.session
    in_term = _is_in_term(session, sd_id, fence)
    is_lost = session is not None and not in_term and _began(session, sd_id, fence)
    if session and not is_lost and (in_term or _ends(caller, session)):
        tx.commit(rows.clear(caller, session, "released", release_reason=reason, run=None))
    return in_term


def _ends(caller: Caller, session: Session) -> bool:
    """Whether a session whose term is over ends with its command: it holds nothing, and no other process has it."""
    return (session.sd_id, session.claimed_at) == (None, None) and caller.standing(session) is not Standing.TWIN
