"""A lost term that no command ended: found in a row, or by what this host has seen of it, and noted as a tombstone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import CLEARED, FORGOTTEN, Session, Tombstone, Witness
from claude_sessions_cli.names import is_same
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import add_successor
from claude_sessions_cli.times import fence_of
from claude_sessions_cli.transaction import Statement, Transaction


def lost_term(session: Session, others: Iterable[Session]) -> Tombstone | None:
    """Return the loss of a session whose last claim is no longer in the table, though no command ended it.

    `others` are the other holders of its item. A later fence counts if other programs gave an item to two sessions. A
    row of an older version does not say which term it began.
    """
    term, told = session.term, session.tombstone
    if term is None:
        return None
    if told and told.fence == term.fence and is_same(told.sd_id, term.sd_id):
        return None  # a reaper of an older version ended it
    later = later_holder(session, others)
    is_named = is_same(session.sd_id, term.sd_id)
    if is_named and session.holds and later is None:
        return None
    held = [other for other in others if other.holds and is_same(other.sd_id, term.sd_id)]
    by = later or max(held, key=lambda other: (other.fence or 0, other.session_id), default=None)
    return Tombstone(
        term.sd_id,
        term.fence,
        session.server_now,
        CLEARED,
        by.session_id if by else None,
        session.track if is_named else None,
        new_fence=by.fence if by else None,
    )


def later_holder(session: Session, others: Iterable[Session]) -> Session | None:
    """Return the latest of the sessions that hold this session's item under a later fence; None without any."""
    own = (session.claimed_at or datetime.min.replace(tzinfo=timezone.utc), session.session_id)
    later = [
        (other.claimed_at, other.session_id, other)
        for other in others
        if other.holds and other.claimed_at and is_same(other.sd_id, session.sd_id)
        if (other.claimed_at, other.session_id) > own
    ]
    return max(later)[2] if later else None


def forgotten_term(session: Session, witness: Witness | None) -> Tombstone | None:
    """Return the loss of a session whose row is older than what this host has seen of it, and holds no such claim."""
    updated_at = fence_of(session.updated_at)
    if witness is None or updated_at is None or updated_at >= witness.updated_at:
        return None
    if session.holds and session.fence == witness.fence and is_same(session.sd_id, witness.sd_id):
        return None
    return loss_seen_by(witness, session.server_now)


def loss_seen_by(witness: Witness, at: datetime) -> Tombstone:
    """Return the tombstone of a claim that only this host remembers."""
    return Tombstone(witness.sd_id, witness.fence, at, FORGOTTEN, None)


def note_loss(database: Database, caller: Caller, witness: Witness | None = None) -> Tombstone | None:
    """Write the tombstone of a term that no command ended; return it, or None if the row is in order."""
    session = database.read(rows.read, caller)
    if session is None:
        return None
    term = session.term
    known = witness.sd_id if witness and forgotten_term(session, witness) else term.sd_id if term else None
    return database.write(caller.actor, _note_loss, caller, known, witness) if known else None


def _note_loss(tx: Transaction, caller: Caller, sd_id: str, witness: Witness | None) -> Tombstone | None:
    _, found = tx.send(rows.lock_item(sd_id), rows.lock_claim(tx, caller, sd_id))
    mine, others = rows.split(found, caller)
    if mine is None:
        return None
    lost = forgotten_term(mine, witness)
    if lost is None and mine.term and is_same(mine.term.sd_id, sd_id):
        lost = lost_term(mine, others)
    if lost is None:
        return None
    if lost.by is None and tx.has_history:
        [latest] = tx.send(Statement("read_fence_floor", forms=tx.forms(sd_id)))
        lost = add_successor(lost, latest.first)
    own: dict[str, Any] = {"tombstone": lost.as_metadata(), "term": None}
    if is_same(mine.sd_id, sd_id):
        tx.commit(rows.clear(caller, mine, "released" if mine.status == "released" else "idle", **own))
        return lost
    if mine.holds and mine.term and is_same(mine.term.sd_id, mine.sd_id):
        # The loss is of a later term, which only this host remembers.
        own.pop("term")
    tx.commit(rows.merge(caller, **own))
    return lost
