"""What a session is told that lost its claim, or cannot have the one that it wants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from claude_sessions_cli.database import Transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.model import JudgedSession, Session, Tombstone
from claude_sessions_cli.times import fence_of, format_age


def bury(session: Session, reason: str, *, by: str | None = None, note: str | None = None) -> dict[str, Any] | None:
    """Return the tombstone of the claim that a session loses now; an earlier one stands where it holds nothing."""
    if session.sd_id is None:
        return session.tombstone.as_metadata() if session.tombstone else None
    return Tombstone(session.sd_id, session.fence, session.server_now, reason, by, session.track, note).as_metadata()


def held_by(holder: JudgedSession, lost: Tombstone | None = None) -> HeldByAnother:
    """Return the error of a caller that wants what `holder` holds: who, where, since when, and what to do next.

    `lost` is what the caller is to be told of its own loss with it.
    """
    session = holder.session
    facts = {"host": session.hostname, "tty": session.tty, "pid": session.pid, "codebase": session.codebase}
    where = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    since = f" for {format_age(session.claim_age_s)}" if session.claimed_at else ""
    return HeldByAnother(
        f"{session.sd_id} is held by {session.session_id}{f' ({where})' if where else ''}{since},"
        f" last heartbeat {format_age(session.heartbeat_age_s)} ago{f'; this session {lost.story}' if lost else ''}",
        f"look: claude-sessions list {session.sd_id}; take it all the same: add --force --reason WHY",
        holder,
    )


def lost_to(tombstone: Tombstone) -> NotHeld:
    """Return the error of a session whose claim is gone."""
    return NotHeld(
        f"this session {tombstone.story}",
        "claim it again, or acknowledge the loss: claude-sessions release",
        lost_item=tombstone.sd_id,
    )


def named_by_history(tx: Transaction, lost: Tombstone) -> Tombstone:
    """Return a tombstone with the successor that did not write itself into it: another program, gone by now."""
    latest = tx.one("read_fence_floor", sd_id=lost.sd_id) if tx.has_history else None
    since = lost.fence or fence_of(lost.at)
    if latest is None or since is None or (fence := fence_of(latest["claimed_at"])) is None or fence <= since:
        return lost
    return replace(lost, by=latest["session_id"], new_fence=fence)
