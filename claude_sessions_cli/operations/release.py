"""Release: give a claim back, one's own or another session's, and end the session."""

from __future__ import annotations

from dataclasses import dataclass, replace

from claude_sessions_cli.database import Database, Statement, Transaction
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.model import RELEASED_BY_OTHER, JudgedSession, Session, Tombstone
from claude_sessions_cli.names import check_session_id, check_work_item
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import tombstone_for


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The outcome: `released`, `nothing_held` or `ended`; `session` is None if it has no row.

    `sd_id` is the item given back, `tombstone` a loss that this release acknowledges.
    """

    outcome: str
    session: JudgedSession | None
    sd_id: str | None = None
    tombstone: Tombstone | None = None


def release(
    database: Database,
    caller: Caller,
    sd_id: str | None = None,
    *,
    end: bool = False,
    reason: str | None = None,
) -> ReleaseResult:
    """Give the caller's claim back; with `end`, end the session too.

    Raises NotHeld if another session holds `sd_id`. A loss is acknowledged: its tombstone is returned and removed.
    """
    if sd_id is not None:
        check_work_item(sd_id)
    return database.write(caller.actor, _release, caller, sd_id, end, reason)


def _release(tx: Transaction, caller: Caller, sd_id: str | None, end: bool, reason: str | None) -> ReleaseResult:
    [found] = tx.send(Statement("lock_claim", **caller.key, sd_id=sd_id))
    mine, others = rows.split(found, caller)
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
        [cleared] = tx.commit(rows.clear(caller, mine, "released" if end else "idle", **own))
        return ReleaseResult("ended" if end else "released", caller.judge(rows.written(cleared)), held, lost)
    [acknowledged] = tx.commit(rows.merge(caller, **own))
    return ReleaseResult("nothing_held", caller.judge(rows.written(acknowledged)), None, lost)


def release_other(
    database: Database, caller: Caller, prefix: str, sd_id: str | None, *, end: bool = False, reason: str | None = None
) -> ReleaseResult:
    """Give back the claim of the only live session whose id begins with `prefix`, and leave it a tombstone.

    If `prefix` is a whole id, and the caller is in that session's process, host and directory, this is that session's
    own release. Raises UsageError if several sessions match, NotHeld if none does or it does not hold `sd_id`.
    """
    check_session_id(prefix, "--session")
    found = rows.pick(database.read(_find, caller, prefix), prefix)
    if found is None:
        raise NotHeld(f"no session's id begins with {prefix}", "see them: claude-sessions list --all")
    if found.session_id == prefix and _is_itself(found, caller):
        itself = replace(caller, identity=replace(caller.identity, session_id=prefix))
        return release(database, itself, sd_id, end=end, reason=reason)
    return database.write(caller.actor, _release_other, caller, found.session_id, sd_id, end, reason)


def _find(tx: Transaction, caller: Caller, prefix: str) -> list[Session]:
    [found] = tx.commit(Statement("find_sessions", prefix=prefix, now=caller.now))
    return found.sessions


def _is_itself(session: Session, caller: Caller) -> bool:
    """Whether a caller that names a session is that session, by process, host and directory."""
    recorded = (session.own.get("process"), session.hostname, session.own.get("cwd"))
    identity = caller.identity
    return recorded == (identity.process_record, identity.host.hostname, identity.cwd)


def _release_other(
    tx: Transaction, caller: Caller, session_id: str, sd_id: str | None, end: bool, reason: str | None
) -> ReleaseResult:
    [found] = tx.send(Statement("lock_session", session_id=session_id, now=caller.now))
    session = found.session
    if session is None:
        raise NotHeld(f"session {session_id} was deleted")
    if sd_id is not None and (not session.holds or session.sd_id != sd_id):
        raise NotHeld(f"{session.session_id} does not hold {sd_id}")
    held = session.sd_id if session.holds else None
    if not held and (session.status == "released" or not end):
        return ReleaseResult("nothing_held", caller.judge(session))
    status = "released" if end else ("idle" if session.status in ("active", None) else session.status)
    tombstone = tombstone_for(session, RELEASED_BY_OTHER, note=reason)
    [cleared] = tx.commit(rows.clear(caller, session, status, tombstone=tombstone))
    return ReleaseResult("ended" if end else "released", caller.judge(rows.written(cleared)), held)
