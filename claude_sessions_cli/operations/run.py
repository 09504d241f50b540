"""The term of a claim that a command runs under: whose it is, its renewal, and its end."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, UsageError
from claude_sessions_cli.identity import derive_session_id
from claude_sessions_cli.model import PROCESS_GONE, SILENT, JudgedSession, Liveness, ProcessRecord, Session
from claude_sessions_cli.operations import leases, sessions
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.sessions import expect
from claude_sessions_cli.operations.tombstones import lost_to
from claude_sessions_cli.process import Host, Process, liveness_of
from claude_sessions_cli.times import time_of


def find_holder(database: Database, own: Caller, itself: Process, sd_id: str, *, named: bool) -> tuple[Caller, bool]:
    """Return who is to hold the item while a command runs, and whether that is the caller's session, which does now.

    Else it is the wrapper's process `itself`, a session that ends with the command: under the caller's id where that
    was `named`, which raises UsageError if it is another's that lives. Raises HeldByAnother where other programs gave
    the caller's item to somebody else as well.
    """
    if _holds(database, own, sd_id):
        return own, True
    if named:
        _refuse_living(database, own, sd_id)
    session_id = own.identity.session_id if named else derive_session_id(itself, own.identity.host)
    who = replace(own.identity, session_id=session_id, anchor=itself, tty=itself.tty)
    return replace(own, identity=who), False


def _holds(database: Database, own: Caller, sd_id: str) -> bool:
    """Whether the caller's session holds the item, and it is not what a killed run of that session left behind."""
    mine = leases.read(database, own) if own.identity.session_id else None
    if mine is None or not mine.holds or mine.sd_id != sd_id:
        return False
    judged = own.judge(mine)
    if judged.lapsed:
        # What of it may still run must not share a fence with what comes now.
        reason = PROCESS_GONE if judged.liveness is Liveness.DEAD else SILENT
        sessions.release(database, own, sd_id, reason=reason)
        return False
    with suppress(NotHeld):
        if leases.check(database, own, sd_id).session.fence is not None:
            return True
    # What other programs made of the claim, a claim puts right.
    sessions.claim(database, own, sd_id)
    return True


def _refuse_living(database: Database, own: Caller, sd_id: str) -> None:
    """A session that somebody else is must neither get this process for its own, nor end with it."""
    named = leases.read(database, own)
    if named and named.status != "released" and not own.judge(named).lapsed:
        raise UsageError(
            f"session {named.session_id} is another's, which is not over",
            f"claim {sd_id} in that session first, and run under that claim; or leave --session out",
        )


def enter(database: Database, caller: Caller, runner: ProcessRecord) -> JudgedSession:
    """Note in the holder's row that the process `runner` runs a command under the claim.

    Raises HeldByAnother where another one does so already, NotHeld where the claim is gone.
    """
    return database.transact(lambda tx: _enter(tx, caller, runner), actor=caller.actor)


def _enter(tx: Transaction, caller: Caller, runner: ProcessRecord) -> JudgedSession:
    session = leases.lock_holder(tx, caller, "this session holds nothing to run a command under")
    if _may_run(session, caller.identity.host):
        raise HeldByAnother(
            f"a command runs under {session.sd_id} in this session already", holder=caller.judge(session)
        )
    # The command trusts a term that every other client has to respect.
    columns = caller.columns(run=asdict(runner), stale_after=session.patience_s(caller.settings.stale_after))
    return caller.judge(expect(tx.session("revive_session", **columns)))


def _may_run(session: Session, host: Host) -> bool:
    """Whether the command that the row tells of may still run: it does, or this host cannot know."""
    runner = session.runner
    if runner is None or (session.hostname == host.hostname and runner.boot_id != host.boot_id):
        return False  # there is none, or it was of an earlier boot
    return liveness_of(runner, host.hostname, host) is not Liveness.DEAD


def leave(database: Database, caller: Caller, runner: ProcessRecord, sd_id: str, fence: int) -> None:
    """Take back what `enter` noted of this very `runner`; the claim stays.

    Raises NotHeld where the term was lost meanwhile.
    """
    if not database.transact(lambda tx: _leave(tx, caller, runner, sd_id, fence), actor=caller.actor):
        _raise_loss(database, caller, sd_id, fence)


def _leave(tx: Transaction, caller: Caller, runner: ProcessRecord, sd_id: str, fence: int) -> bool:
    session = tx.session("lock_session", session_id=caller.session_id, now=caller.now)
    # Another one may run under a later term of this session.
    if session and session.runner == runner:
        tx.one("merge_metadata", session_id=caller.session_id, own=json.dumps({"run": None}), now=caller.now)
    return _is_in_term(session, sd_id, fence)


def _is_in_term(session: Session | None, sd_id: str, fence: int) -> bool:
    return session is not None and session.holds and (session.sd_id, session.fence) == (sd_id, fence)


def _raise_loss(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Raise NotHeld for a term that is over, unless the session itself gave it back."""

    def find(tx: Transaction) -> NotHeld | None:
        session = tx.session("read_session", session_id=caller.session_id, now=caller.now)
        lost = session.tombstone if session else None
        if lost and lost.sd_id == sd_id:
            return lost_to(lost)
        gone = None if session else NotHeld(f"session {caller.session_id} was deleted")
        return leases.later_holder(tx, caller, sd_id, time_of(fence)) or gone

    if loss := database.transact(find, writes=False):
        raise loss


def renew(database: Database, caller: Caller, sd_id: str, fence: int) -> JudgedSession:
    """Prove life under one very term; raises NotHeld, having changed nothing, where that term is over."""
    return database.transact(lambda tx: _renew(tx, caller, sd_id, fence), actor=caller.actor)


def _renew(tx: Transaction, caller: Caller, sd_id: str, fence: int) -> JudgedSession:
    own = {"session_id": caller.session_id, "now": caller.now}
    renewed = tx.session("renew_term", **own, sd_id=sd_id, claimed_at=time_of(fence))
    if renewed:
        return caller.judge(renewed)
    leases.prove(tx, caller, sd_id, fence)
    raise NotHeld(f"the term of {sd_id} under fence {fence} is over")


def outlive_process(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Let one very term outlive the process that the session was: from now on it lapses by silence alone.

    Where the term is over, the session ends. Raises NotHeld where it was lost.
    """
    own = json.dumps({"run": None, "process": None})

    def keep(tx: Transaction) -> bool:
        kept = _is_in_term(tx.session("lock_session", session_id=caller.session_id, now=caller.now), sd_id, fence)
        if kept:
            tx.one("merge_metadata", session_id=caller.session_id, own=own, now=caller.now)
        return kept

    if not database.transact(keep, actor=caller.actor):
        release(database, caller, sd_id, fence, reason="failed")


def release(database: Database, caller: Caller, sd_id: str, fence: int, *, reason: str) -> None:
    """End one very term and the session that it was; where the term is over, what is left of the session alone.

    Nothing happens where the session holds something else by now. Raises NotHeld where the term was lost.
    """
    own = json.dumps({"release_reason": reason, "run": None, "parked_until": None}, ensure_ascii=False)
    over = {"session_id": caller.session_id, "status": "released", "own": own, "now": caller.now}

    def end(tx: Transaction) -> bool:
        if tx.one("clear_claim", **over, sd_id=sd_id, claimed_at=time_of(fence)):
            return True
        tx.one("clear_claim", **over, sd_id=None, claimed_at=None)
        return False

    if not database.transact(end, actor=caller.actor):
        _raise_loss(database, caller, sd_id, fence)
