"""The history of work items and sessions, as the triggers of `003_history.sql` wrote it. It decides nothing."""

from __future__ import annotations

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import NotHeld, SchemaMismatch
from claude_sessions_cli.model import History, SessionEvent, Term


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
