"""The history of work items and sessions, as the triggers of `003_history.sql` wrote it. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld, SchemaMismatch


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
    """Something that happened to a session, and who did it."""

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
    """Return the terms of the work item or session `name`, and a session's events, the latest first.

    Raises NotHeld where nobody and nothing ever had that name, SchemaMismatch where the table has no history.
    """
    return database.transact(lambda tx: _read(tx, name, limit), writes=False)


def _read(tx: Transaction, name: str, limit: int | None) -> History:
    if not tx.has_history:
        raise SchemaMismatch(
            "this table has no history, or this role may not read it", "add it: claude-sessions schema apply"
        )
    terms = [Term(**row) for row in tx.all("list_terms", name=name, row_limit=limit)]
    events = [SessionEvent(**row) for row in tx.all("list_session_events", name=name, row_limit=limit)]
    if not terms and not events:
        raise NotHeld(f"no history: no work item and no session was ever called {name}")
    return History(name, terms, events)
