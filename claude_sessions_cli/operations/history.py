"""History: the terms of work items and sessions, which `003_history.sql` records. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SEE_ALL, NotHeld
from claude_sessions_cli.model import Session
from claude_sessions_cli.operations import rows
from claude_sessions_cli.transaction import Statement, Transaction


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
    purpose: str | None
    began_at: datetime
    claimed_by_role: str | None
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
    """The terms of a work item or session, and a session's events, the latest first; and the role that reads them."""

    name: str
    reader: str
    terms: list[Term]
    events: list[SessionEvent]


def read(database: Database, name: str, *, limit: int | None = None) -> History:
    """Return the terms of a work item or session, and a session's events, the latest first.

    A session may be named by the beginning of its id. Raises NotHeld if neither an item nor a session had that name,
    UsageError if it begins several session ids, SchemaMismatch if the table has no history.
    """
    found, sessions = database.read(_read, name, limit)
    if _is_empty(found) and (session := rows.pick(sessions, name)):
        found, _ = database.read(_read, session.session_id, limit)
    if _is_empty(found):
        raise NotHeld(f"no history: no work item or session was ever named {name}", SEE_ALL)
    return found


def _read(tx: Transaction, name: str, limit: int | None) -> tuple[History, list[Session]]:
    """Return the history of what has exactly this name, and the sessions whose id begins with it."""
    forms = tx.forms(name) or [name]
    # A session has one name alone: as it was typed, if the database can hold that.
    spelled = forms[0]
    [access], terms, events, sessions = tx.commit(
        Statement("require_history"),
        Statement("list_terms", name=spelled, forms=forms, row_limit=limit),
        Statement("list_session_events", name=spelled, row_limit=limit),
        Statement("find_sessions", prefix=spelled, now=None),
    )
    found = History(name, access["reader"], [Term(**row) for row in terms], [SessionEvent(**row) for row in events])
    return found, sessions.sessions


def _is_empty(found: History) -> bool:
    return not (found.terms or found.events)
