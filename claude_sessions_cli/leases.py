"""What one builds on a claim: proving it, declaring silence, waiting for it, keeping it while a command runs."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from claude_sessions_cli import process
from claude_sessions_cli.caller import Caller
from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable, UsageError
from claude_sessions_cli.losses import lost_to
from claude_sessions_cli.model import PARK_LIMIT_S, ClaimResult, JudgedSession, Session
from claude_sessions_cli.process import Host
from claude_sessions_cli.sessions import check_work_item, expect
from claude_sessions_cli.times import time_of

# Polling is the truth, and a notification only ends a pause early. Jittered, so that waiters do not fall into step.
POLL_S = (0.5, 1.5)


def check(database: Database, caller: Caller, sd_id: str | None = None, *, fence: int | None = None) -> JudgedSession:
    """Return the caller's session if it holds the item (or any), under `fence` if that is given; else raise NotHeld."""
    if sd_id is not None:
        check_work_item(sd_id)
    return database.transact(lambda tx: _check(tx, caller, sd_id, fence), writes=False)


def _check(tx: Transaction, caller: Caller, sd_id: str | None, fence: int | None) -> JudgedSession:
    row = tx.one("read_session", session_id=caller.session_id, now=caller.now)
    if row is None:
        raise NotHeld(f"session {caller.session_id} is not registered, and holds nothing")
    session = Session(**row)
    if session.tombstone and sd_id in (None, session.tombstone.sd_id):
        raise lost_to(session.tombstone)
    if not session.holds or sd_id not in (None, session.sd_id):
        raise NotHeld(f"this session does not hold {sd_id}" if sd_id else "this session holds nothing")
    if fence not in (None, session.fence):
        raise NotHeld(f"fence {fence} is not current: this session holds {session.sd_id} under fence {session.fence}")
    _refuse_silent(session)
    if later := _later_holder(tx, caller, expect(session.sd_id), session.claimed_at):
        raise later
    return caller.judge(session)


def _refuse_silent(session: Session) -> None:
    """Older writers leave claims on stale rows: a heartbeat or a claim settles whose they are."""
    if session.status == "stale":
        raise NotHeld(
            f"this session was found silent, and {session.sd_id} may be another's by now",
            "prove that it lives: claude-sessions heartbeat",
        )


def _later_holder(tx: Transaction, caller: Caller, sd_id: str, claimed_at: datetime | None) -> NotHeld | None:
    row = tx.one("read_later_holder", session_id=caller.session_id, sd_id=sd_id, claimed_at=claimed_at, now=caller.now)
    if row is None:
        return None
    later = Session(**row)
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
    session = _lock_holder(tx, caller, "this session holds nothing, so there is nothing to park")
    until = None if seconds is None else (session.server_now + timedelta(seconds=seconds)).isoformat()
    # Parking is also a heartbeat.
    return caller.judge(Session(**expect(tx.one("revive_session", **caller.columns(parked_until=until)))))


def _lock_holder(tx: Transaction, caller: Caller, refusal: str) -> Session:
    row = tx.one("lock_session", session_id=caller.session_id, now=caller.now)
    session = Session(**row) if row else None
    if session and session.tombstone:
        raise lost_to(session.tombstone)
    if session is None or not session.holds:
        raise NotHeld(refusal, "claim first: claude-sessions claim SD")
    _refuse_silent(session)
    return session


def read(database: Database, caller: Caller) -> Session | None:
    """Return the caller's session, None where it is not registered."""
    row = database.transact(
        lambda tx: tx.one("read_session", session_id=caller.session_id, now=caller.now), writes=False
    )
    return Session(**row) if row else None


def claim_any(
    database: Database, caller: Caller, sd_ids: Sequence[str], claim_one: Callable[[str], ClaimResult]
) -> ClaimResult:
    """Claim the first free one of several items; raises HeldByAnother, naming the first one's holder, where none is."""
    if len(sd_ids) == 1:
        return claim_one(sd_ids[0])
    mine = read(database, caller)
    held = mine.sd_id if mine else None
    refusals: list[HeldByAnother] = []
    # What is held already comes first: the same command again changes nothing.
    for sd_id in sorted(sd_ids, key=lambda candidate: candidate != held):
        try:
            return claim_one(sd_id)
        except HeldByAnother as error:
            refusals.append(error)
    raise refusals[0]


def wait(
    database: Database,
    attempt: Callable[[], ClaimResult],
    sd_ids: Sequence[str],
    seconds: float,
    progress: Callable[[float, HeldByAnother], None],
) -> ClaimResult:
    """Repeat `attempt` until it succeeds or `seconds` are over; raises its last HeldByAnother then.

    Whenever one of the items becomes free, the database's notification wakes this up, if the connection is direct.
    A database that goes away meanwhile is waited for as well; Unreachable is raised where it is not back in time.
    `progress` is called with the seconds left, about once a second.
    """
    deadline = time.monotonic() + seconds
    channel_words = {hashlib.md5(sd_id.encode(), usedforsecurity=False).hexdigest() for sd_id in sd_ids}
    refusal: HeldByAnother | None = None
    gone: Unreachable | None = None
    database.listen()
    while True:
        try:
            if gone:
                database.reconnect()
                database.listen()
            return attempt()
        except HeldByAnother as error:
            refusal, gone = error, None
        except Unreachable as error:
            # What cannot be reached from the start is told at once.
            if refusal is None:
                raise
            gone = error
        pause_until = time.monotonic() + random.uniform(*POLL_S)
        while (now := time.monotonic()) < min(pause_until, deadline):
            progress(deadline - now, refusal)
            pause = min(pause_until, deadline, now + 1) - now
            if gone:
                time.sleep(pause)
                continue
            try:
                if database.notified(channel_words, pause):
                    break
            except Unreachable as error:
                gone = error
        if time.monotonic() >= deadline:
            raise gone or HeldByAnother(f"waited in vain: {refusal.message}", refusal.hint, refusal.holder) from None


def enter_run(database: Database, caller: Caller, runner: dict[str, object]) -> JudgedSession:
    """Note in the holder's row that the process `runner` runs a command under the claim.

    Raises HeldByAnother where another one does so already, NotHeld where the claim is gone.
    """
    return database.transact(lambda tx: _enter_run(tx, caller, runner), actor=caller.actor)


def _enter_run(tx: Transaction, caller: Caller, runner: dict[str, object]) -> JudgedSession:
    session = _lock_holder(tx, caller, "this session holds nothing to run a command under")
    if _may_run(session.own.get("run"), session.hostname, caller.identity.host):
        raise HeldByAnother(
            f"a command runs under {session.sd_id} in this session already", holder=caller.judge(session)
        )
    # The command trusts a term that every other client has to respect.
    columns = caller.columns(run=runner, stale_after=session.patience_s(caller.settings.stale_after))
    return caller.judge(Session(**expect(tx.one("revive_session", **columns))))


def _may_run(record: object, hostname: str | None, host: Host) -> bool:
    """Whether a process that was recorded as JSON on `hostname` may still run: proven, or out of this host's sight."""
    if not isinstance(record, dict):
        return False
    if hostname == host.hostname and record.get("boot_id") != host.boot_id:
        return False  # of an earlier boot
    if (record.get("boot_id"), record.get("pid_ns")) != (host.boot_id, host.pid_ns):
        return True
    try:
        found = process.read(int(record.get("pid", 0)))
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return found.start == record.get("start") and not found.zombie


def leave_run(database: Database, caller: Caller, runner: dict[str, object], sd_id: str, fence: int) -> None:
    """Take back what `enter_run` noted of this very `runner`; the claim stays.

    Raises NotHeld where the term was lost meanwhile.
    """
    if not database.transact(lambda tx: _leave_run(tx, caller, runner, sd_id, fence), actor=caller.actor):
        _raise_loss(database, caller, sd_id, fence)


def _leave_run(tx: Transaction, caller: Caller, runner: dict[str, object], sd_id: str, fence: int) -> bool:
    row = tx.one("lock_session", session_id=caller.session_id, now=caller.now)
    session = Session(**row) if row else None
    # Another one may run under a later term of this session.
    if session and session.own.get("run") == runner:
        tx.one("merge_metadata", session_id=caller.session_id, own=json.dumps({"run": None}), now=caller.now)
    return _is_in_term(session, sd_id, fence)


def _is_in_term(session: Session | None, sd_id: str, fence: int) -> bool:
    return session is not None and session.holds and (session.sd_id, session.fence) == (sd_id, fence)


def _raise_loss(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Raise NotHeld for a term that is over, unless the session itself gave it back."""

    def find(tx: Transaction) -> NotHeld | None:
        row = tx.one("read_session", session_id=caller.session_id, now=caller.now)
        lost = Session(**row).tombstone if row else None
        if lost and lost.sd_id == sd_id:
            return lost_to(lost)
        gone = None if row else NotHeld(f"session {caller.session_id} was deleted")
        return _later_holder(tx, caller, sd_id, time_of(fence)) or gone

    if loss := database.transact(find, writes=False):
        raise loss


def renew_term(database: Database, caller: Caller, sd_id: str, fence: int) -> JudgedSession:
    """Prove life under one very term; raises NotHeld, having changed nothing, where that term is over."""
    return database.transact(lambda tx: _renew_term(tx, caller, sd_id, fence), actor=caller.actor)


def _renew_term(tx: Transaction, caller: Caller, sd_id: str, fence: int) -> JudgedSession:
    row = tx.one("renew_term", session_id=caller.session_id, sd_id=sd_id, claimed_at=time_of(fence), now=caller.now)
    if row:
        return caller.judge(Session(**row))
    _check(tx, caller, sd_id, fence)
    raise NotHeld(f"the term of {sd_id} under fence {fence} is over")


def outlive_process(database: Database, caller: Caller, sd_id: str, fence: int) -> None:
    """Let one very term outlive the process that the session was: from now on it lapses by silence alone.

    Where the term is over, the session ends. Raises NotHeld where it was lost.
    """
    own = json.dumps({"run": None, "process": None})

    def keep(tx: Transaction) -> bool:
        row = tx.one("lock_session", session_id=caller.session_id, now=caller.now)
        kept = _is_in_term(Session(**row) if row else None, sd_id, fence)
        if kept:
            tx.one("merge_metadata", session_id=caller.session_id, own=own, now=caller.now)
        return kept

    if not database.transact(keep, actor=caller.actor):
        release_term(database, caller, sd_id, fence, reason="failed")


def release_term(database: Database, caller: Caller, sd_id: str, fence: int, *, reason: str) -> None:
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
