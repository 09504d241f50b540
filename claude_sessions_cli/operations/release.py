"""Release: give a claim back, one's own or another session's, and end the session."""

from __future__ import annotations

from dataclasses import dataclass

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SEE_ALL, NotHeld, UsageError
from claude_sessions_cli.model import RELEASED_BY_OTHER, JudgedSession, Session, Tombstone
from claude_sessions_cli.names import SESSION_ID, check_session_id, check_work_item, is_same
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import tell, tombstone_for
from claude_sessions_cli.text import command_line
from claude_sessions_cli.transaction import Statement, Transaction

# A shorter prefix is more likely a slip.
LEAST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The outcome: `released`, `nothing_held` or `ended`; `session` is None if it has no row.

    `sd_id` is the item given back, `of_another` whether that session is not the caller's. `tombstone` is a loss that
    this release reports: the first claim or release after it marks it, and the second removes it.
    """

    outcome: str
    session: JudgedSession | None
    sd_id: str | None = None
    tombstone: Tombstone | None = None
    of_another: bool = False


def release(
    database: Database,
    caller: Caller,
    sd_id: str | None = None,
    *,
    end: bool = False,
    reason: str | None = None,
    named: bool = False,
) -> ReleaseResult:
    """Give the caller's claim back; with `end`, end the session too. A `named` session is released under no other id.

    Raises NotHeld if another session holds `sd_id`, or this one another item; HeldByAnother if its id is open in
    another process, or if a command runs under the claim and does not itself give it back.
    """
    if sd_id is not None:
        check_work_item(sd_id)
    return agent.settled(
        database, caller, lambda acting: database.write(acting.actor, _release, acting, sd_id, end, reason, named)
    ).result


def _release(
    tx: Transaction, caller: Caller, sd_id: str | None, end: bool, reason: str | None, named: bool
) -> ReleaseResult:
    found, *same = tx.send(rows.lock_claim(tx, caller, sd_id), *agent.look(caller))
    mine, others = rows.split(found, caller)
    if not named:
        agent.require_current(caller, mine, same, writes=False)
    if mine:
        agent.require_own(caller, mine)
        agent.require_term(mine, [] if sd_id is None else others)
    held = mine.sd_id if mine and mine.holds and (sd_id is None or is_same(sd_id, mine.sd_id)) else None
    lost = mine.tombstone if mine else None
    if lost and sd_id is not None and held is None and not is_same(sd_id, lost.sd_id):
        lost = None
    holder = next((other for other in others if other.holds and is_same(other.sd_id, sd_id)), None)
    if sd_id is not None and held is None and lost is None:
        other = mine.sd_id if mine and mine.holds else None
        holding = f"this session holds {other}"
        if holder:
            raise NotHeld(
                f"{sd_id} is held by {holder.session_id}, not by this session{f'; {holding}' if other else ''}",
                _how_to_release(holder.session_id, sd_id),
                holder=caller.judge(holder),
            )
        if other:
            options = "--end" if end else ""
            raise NotHeld(
                f"{holding}, not {sd_id}", f"release what it holds: {command_line('release', other, options)}"
            )
    if mine is None or not (held or lost or (end and mine.status != "released")):
        return ReleaseResult("nothing_held", caller.judge(mine) if mine else None)

    if held or end:
        agent.require_idle(caller, mine)
    own = {"release_reason": reason, **({"tombstone": tell(lost, acknowledged=True)} if lost else {})}
    if held or end:
        [cleared] = tx.commit(rows.clear(caller, mine, "released" if end else "idle", **own))
        return ReleaseResult("ended" if end else "released", caller.judge(rows.written(cleared)), held, lost)
    [acknowledged] = tx.commit(rows.report_loss(caller, mine, **own))
    return ReleaseResult("nothing_held", caller.judge(rows.written(acknowledged)), None, lost)


def release_other(
    database: Database, caller: Caller, prefix: str, sd_id: str | None, *, end: bool = False, reason: str | None = None
) -> ReleaseResult:
    """Give back the claim of the only live session whose id begins with `prefix`, and leave it a tombstone.

    If the session's process is the caller's, or the caller has no identity of its own, this is that session's own
    release. Raises UsageError if several sessions match, or a live one is released without a reason, NotHeld if none
    matches or it does not hold `sd_id`.
    """
    check_session_id(prefix, "--session")
    found = rows.pick(database.read(_find, caller, prefix), prefix)
    if found is None:
        raise NotHeld(f"no session's id begins with {prefix}", SEE_ALL)
    if len(prefix) < LEAST_PREFIX and found.session_id != prefix:
        raise UsageError(
            f"--session {prefix} is too short: give at least {LEAST_PREFIX} characters, or the whole id",
            f"did you mean {found.session_id}?",
        )
    if _is_itself(found, caller):
        prefix = found.session_id
        itself = caller._replace(identity=caller.identity._replace(session_id=prefix))
        return release(database, itself, sd_id, end=end, reason=reason, named=True)
    released = database.write(caller.actor, _release_other, caller, found.session_id, sd_id, end, reason)
    # None: it has moved to the caller's process since.
    return released or release_other(database, caller, found.session_id, sd_id, end=end, reason=reason)


def _find(tx: Transaction, caller: Caller, prefix: str) -> list[Session]:
    [found] = tx.commit(Statement("find_sessions", prefix=prefix, now=caller.now))
    return found.sessions


def _is_itself(session: Session, caller: Caller) -> bool:
    """Whether the caller may act as a session that it names. No two unknown processes are the same for that reason."""
    if caller.identity.session_id is None:
        return True
    return session.process is not None and session.process.is_same(caller.process)


def _release_other(
    tx: Transaction, caller: Caller, session_id: str, sd_id: str | None, end: bool, reason: str | None
) -> ReleaseResult | None:
    [found] = tx.send(Statement("lock_session", session_id=session_id, now=caller.now))
    session = found.session
    if session is None:
        raise NotHeld(f"session {session_id} was deleted", SEE_ALL)
    if _is_itself(session, caller):
        return None
    if sd_id is not None and (not session.holds or not is_same(session.sd_id, sd_id)):
        raise NotHeld(f"{session.session_id} does not hold {sd_id}", f"see who does: {command_line('list', sd_id)}")
    held = session.sd_id if session.holds else None
    if not held and (session.status == "released" or not end):
        return ReleaseResult("nothing_held", caller.judge(session))
    seen = caller.judge(session)
    if held and reason is None and not seen.lapsed:
        raise UsageError(
            f"session {session.session_id} holds {held} and has not lapsed", "say why, for its holder: --reason TEXT"
        )
    status = "released" if end else ("idle" if session.status in ("active", None) else session.status)
    tombstone = tombstone_for(session, RELEASED_BY_OTHER, by=caller.session_id, note=reason)
    [cleared] = tx.commit(rows.clear(caller, session, status, tombstone=tombstone))
    outcome = "ended" if end else "released"
    return ReleaseResult(outcome, caller.judge(rows.written(cleared)), held, of_another=True)


def _how_to_release(session_id: str, sd_id: str) -> str:
    """Return the next step for an item that another session holds; another program's id may be one of no command."""
    if not SESSION_ID.fullmatch(session_id):
        return f"look: {command_line('list', sd_id)}"
    return f"release it for its holder: claude-sessions release --session {session_id} --reason WHY"
