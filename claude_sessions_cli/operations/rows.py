"""A session's row inside a transaction: read, locked, cleared."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, TypeVar

from claude_sessions_cli.database import Transaction
from claude_sessions_cli.errors import NotHeld, UsageError
from claude_sessions_cli.model import Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost

T = TypeVar("T")


def read(tx: Transaction, caller: Caller) -> Session | None:
    """Return the caller's session; None if it is not registered."""
    return tx.session("read_session", session_id=caller.session_id, now=caller.now)


def lock(tx: Transaction, caller: Caller) -> Session | None:
    """Lock the caller's row and return it; None if it is not registered."""
    return tx.session("lock_session", session_id=caller.session_id, now=caller.now)


def find(tx: Transaction, prefix: str, now: datetime | None = None) -> Session | None:
    """Return the session whose id is `prefix`, or the only one whose id begins with it; live ones before ended ones.

    Raises UsageError if several do.
    """
    matches = tx.sessions("find_sessions", prefix=prefix, now=now)
    exact = [session for session in matches if session.session_id == prefix]
    found = exact or [session for session in matches if session.status != "released"] or matches
    if len(found) > 1:
        raise UsageError(
            f"more than one session id begins with {prefix}: {found[0].session_id}, {found[1].session_id}",
            "give more of the id",
        )
    return found[0] if found else None


def lock_claim(tx: Transaction, caller: Caller, sd_id: str | None) -> tuple[Session | None, list[Session]]:
    """Lock the caller's row and those that a claim of `sd_id` concerns; return it and the others."""
    rows = tx.sessions("lock_claim", session_id=caller.session_id, sd_id=sd_id, now=caller.now)
    mine = next((row for row in rows if row.session_id == caller.session_id), None)
    return mine, [row for row in rows if row is not mine]


def lock_holder(tx: Transaction, caller: Caller, refusal: str) -> Session:
    """Lock the caller's row. Raises NotHeld, with `refusal`, if it holds nothing, and if it lost its claim."""
    session = lock(tx, caller)
    if session and session.tombstone:
        raise claim_lost(session.tombstone)
    if session is None or not session.holds:
        raise NotHeld(refusal, "claim first: claude-sessions claim SD")
    refuse_stale(session)
    return session


def refuse_stale(session: Session) -> None:
    """Raise NotHeld for a claim on a stale row, which older writers leave: a heartbeat or a claim settles it."""
    if session.status == "stale":
        raise NotHeld(
            f"this session fell silent, and another one may have taken {session.sd_id}",
            "prove that it lives: claude-sessions heartbeat",
        )


def clear(tx: Transaction, caller: Caller, session: Session, status: str, **own: Any) -> Session:
    """End the term of a locked row and set its status; `own` goes into the tool's metadata."""
    cleared = tx.session(
        "clear_claim",
        session_id=session.session_id,
        sd_id=session.sd_id,
        claimed_at=session.claimed_at,
        status=status,
        own=json.dumps({"parked_until": None, **own}, ensure_ascii=False),
        now=caller.now,
    )
    return expect(cleared)


def expect(row: T | None) -> T:
    """Return the row of a statement that cannot miss, because this transaction has locked it."""
    if row is None:
        raise RuntimeError("a row that this transaction has locked has changed")
    return row
