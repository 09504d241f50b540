"""A session's row: found among those that a statement returned, judged, and cleared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from claude_sessions_cli.database import Rows, Statement, Transaction
from claude_sessions_cli.errors import NotHeld, UsageError
from claude_sessions_cli.failures import trigger_refused
from claude_sessions_cli.model import Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost


def read(tx: Transaction, caller: Caller) -> Session | None:
    """Return the caller's session, in a transaction of its own; None if it is not registered."""
    [found] = tx.commit(Statement("read_session", **caller.key))
    return found.session


def pick(matches: Sequence[Session], prefix: str) -> Session | None:
    """Return the session whose id is `prefix`, or the only one whose id begins with it; live ones before ended ones.

    Raises UsageError if several do.
    """
    exact = [session for session in matches if session.session_id == prefix]
    found = exact or [session for session in matches if session.status != "released"] or matches
    if len(found) > 1:
        raise UsageError(
            f"more than one session id begins with {prefix}: {found[0].session_id}, {found[1].session_id}",
            "give more of the id",
        )
    return found[0] if found else None


def split(found: Rows, caller: Caller) -> tuple[Session | None, list[Session]]:
    """Return the caller's session among the rows, if it is there, and the others."""
    sessions = found.sessions
    mine = next((session for session in sessions if session.session_id == caller.session_id), None)
    return mine, [session for session in sessions if session is not mine]


def require_holder(session: Session | None, refusal: str) -> Session:
    """Return a session that holds an item. Raises NotHeld, with `refusal`, if it does not, and if it lost its claim."""
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


def clear(caller: Caller, session: Session, status: str, **own: Any) -> Statement:
    """Return the statement that ends the term of a locked row and sets its status; `own` goes into its metadata."""
    return Statement(
        "clear_claim",
        session_id=session.session_id,
        status=status,
        own=as_json(parked_until=None, **own),
        now=caller.now,
    )


def merge(caller: Caller, **own: Any) -> Statement:
    """Return the statement that changes the tool's part of the metadata of the caller's locked row."""
    return Statement("merge_metadata", **caller.key, own=as_json(**own))


def as_json(**own: Any) -> str:
    """Return metadata as a parameter."""
    # Not as ASCII: a database in another encoding accepts the character, but not its escape.
    return json.dumps(own, ensure_ascii=False)


def written(rows: Rows) -> Session:
    """Return the row of a statement that cannot miss, because this transaction has locked it."""
    if rows.session is None:
        raise trigger_refused()
    return rows.session
