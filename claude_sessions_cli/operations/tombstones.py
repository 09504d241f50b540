"""Tombstones, and the errors of losers and refused callers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.model import RELEASED_BY_OTHER, SILENT, JudgedSession, Session, Tombstone
from claude_sessions_cli.names import is_same
from claude_sessions_cli.text import command_line
from claude_sessions_cli.times import fence_of, format_age, to_second


def tombstone_for(
    session: Session, reason: str, *, by: str | None = None, note: str | None = None
) -> dict[str, Any] | None:
    """Return the tombstone of the claim that a session loses now; if it holds nothing, the one it has."""
    if session.sd_id is None:
        return session.tombstone.as_metadata() if session.tombstone else None
    return Tombstone(session.sd_id, session.fence, session.server_now, reason, by, session.track, note).as_metadata()


def lost_to(session: Session, holder: Session) -> Tombstone:
    """Return the tombstone of a silent session whose item another one has."""
    assert session.sd_id is not None
    return Tombstone(
        *(session.sd_id, session.fence, session.server_now, SILENT, holder.session_id, session.track),
        new_fence=holder.fence,
    )


def describe(tombstone: Tombstone) -> str:
    """Return which item was lost, to whom, when and why."""
    under = f" under fence {tombstone.new_fence}" if tombstone.new_fence else ""
    at = f" at {to_second(tombstone.at)}" if tombstone.at else ""
    note = f" ({tombstone.note})" if tombstone.note else ""
    if tombstone.by and tombstone.reason == RELEASED_BY_OTHER:
        return f"lost {tombstone.sd_id}{at}: released by {tombstone.by}{note}"
    to = f" to {tombstone.by}{under}" if tombstone.by else ""
    return f"lost {tombstone.sd_id}{to}{at}: {tombstone.reason}{note}"


def own_loss(lost: Tombstone | None) -> str:
    """Return what an unrelated error adds about the caller's own loss."""
    return f"; this session {describe(lost)}" if lost else ""


def held_instead(lost: Tombstone, session: Session) -> str:
    """Return what the error of a loss adds about a row that holds another item, which other programs can give it."""
    return f"; it holds {session.sd_id} now" if session.holds and not is_same(session.sd_id, lost.sd_id) else ""


def tell(lost: Tombstone | None, *, acknowledged: bool = False) -> dict[str, Any] | None:
    """Return what a claim or release leaves of a loss that it reports: marked at first, then nothing.

    One lost answer therefore loses nothing. A release marks it as `acknowledged` too.
    """
    return None if lost is None or lost.told else lost._replace(told=True, acknowledged=acknowledged).as_metadata()


def claim_lost(tombstone: Tombstone, session: Session, holder: JudgedSession | None = None) -> NotHeld:
    """Return the error of a session whose claim is lost, which names what its row holds instead."""
    return NotHeld(
        f"this session {describe(tombstone)}{held_instead(tombstone, session)}",
        f"claim it again: {command_line('claim', tombstone.sd_id)}; or acknowledge the loss: claude-sessions release",
        holder=holder,
        lost_item=tombstone.sd_id,
    )


def place_of(session: Session) -> str:
    """Return where a session runs, in parentheses after a space; nothing if it is not recorded."""
    facts = {"host": session.hostname, "tty": session.tty, "pid": session.pid, "codebase": session.codebase}
    where = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return f" ({where})" if where else ""


def held_by(holder: JudgedSession, lost: Tombstone | None = None) -> HeldByAnother:
    """Return the error of a caller whose item `holder` holds; `lost` is the caller's own loss, if it had one."""
    session, item = holder.session, holder.session.sd_id or ""
    note = f", working on: {session.note}" if session.note else ""
    since = f" for {format_age(session.claim_age_s)}" if session.claimed_at else ""
    left = (
        f"; its run was killed, and process group {holder.left} of the command is still running" if holder.left else ""
    )
    end = f"end that, as its user: kill -KILL -- -{holder.left}; " if holder.left else ""
    return HeldByAnother(
        f"{session.sd_id} is held by {session.session_id}{place_of(session)}{since},"
        f" last heartbeat {format_age(session.heartbeat_age_s)} ago{note}{left}{own_loss(lost)}",
        f"{end}wait for it: add --wait 10m; look: {command_line('list', item)};"
        f" take it: {command_line('claim', item, '--force --reason WHY')}",
        holder=holder,
    )


def add_successor(lost: Tombstone, latest: Mapping[str, Any] | None) -> Tombstone:
    """Return a tombstone with its successor, if a foreign program took the item without naming itself.

    `latest` is the item's latest term in the history, as read_fence_floor returns it. The successor may have ended
    since.
    """
    since = lost.fence or fence_of(lost.at)
    if latest is None or since is None or (fence := fence_of(latest["claimed_at"])) is None or fence <= since:
        return lost
    return lost._replace(by=latest["session_id"], new_fence=fence)
