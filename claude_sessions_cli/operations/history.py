"""History: the terms of work items and sessions, which `003_history.sql` records. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld, SchemaMismatch
from claude_sessions_cli.operations import rows


@dataclass(frozen=True, slots=True)
class Term:
    """One tenure of a work item; `ended_at` is None while it lasts."""

    sd_id: str
    session_id: str
    claimed_at: datetime | None
    track: str | None
    hostname: str | None
    tty: str | None
    pid: int | None
    codebase: str | None
    began_at: datetime
    ended_at: datetime | None
    reason: str | None
    note: str | None
    ended_by: str | None
    ended_from: str | None
    actor_program: str | None
    actor_role: str | None


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event of a session, and who caused it."""

    at: datetime
    event: str
    session_id: str
    sd_id: str | None
    claimed_at: datetime | None
    track: str | None
    hostname: str | None
    tty: str | None
    pid: int | None
    codebase: str | None
    reason: str | None
    note: str | None
    actor_session: str | None
    actor_host: str | None
    actor_program: str | None
    actor_role: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The terms of a work item or session, and a session's events; the latest first."""

    name: str
    terms: list[Term]
    events: list[SessionEvent]


def read(database: Database, name: str, *, limit: int | None = None) -> History:
    """Return the terms of a work item or session, and a session's events, the latest first.

    A session may be named by the beginning of its id. Raises NotHeld if neither an item nor a session had that name,
    UsageError if it begins several session ids, SchemaMismatch if the table has no history.
    """
    return database.read(_read, name, limit)


def _read(tx: Transaction, name: str, limit: int | None) -> History:
    if not tx.has_history:
        raise SchemaMismatch(
            "this table has no history, or this role may not read it", "add it: claude-sessions schema apply"
        )
    found = _read_exactly(tx, name, limit)
    if not found.terms and not found.events and (session := rows.find(tx, name)):
        found = _read_exactly(tx, session.session_id, limit)
    if not found.terms and not found.events:
        raise NotHeld(f"no history: no work item or session was ever named {name}")
    return found


def _read_exactly(tx: Transaction, name: str, limit: int | None) -> History:
    terms = [Term(**row) for row in tx.all("list_terms", name=name, row_limit=limit)]
    events = [SessionEvent(**row) for row in tx.all("list_session_events", name=name, row_limit=limit)]
    return History(name, terms, events)
