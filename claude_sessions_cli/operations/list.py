"""List: who holds what. Never writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from claude_sessions_cli.database import Database, Statement, Transaction
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.operations.caller import Caller


@dataclass(frozen=True, slots=True)
class Filters:
    """Which sessions to list: those that fit every filter. Without `all_statuses` or `statuses`, live ones."""

    sd_ids: Sequence[str] = ()
    all_statuses: bool = False
    statuses: Sequence[str] = ()
    tracks: Sequence[str] = ()
    hostname: str | None = None
    codebase: str | None = None
    session_id: str | None = None
    limit: int | None = None
    boot_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions that fit the filters, holders first, and their number without the limit."""

    sessions: list[JudgedSession]
    total: int


NO_FILTERS = Filters()


def list_sessions(database: Database, caller: Caller, filters: Filters = NO_FILTERS) -> Listing:
    """Return the sessions that fit every filter."""
    return database.read(_list, caller, filters)


def _list(tx: Transaction, caller: Caller, filters: Filters) -> Listing:
    query = Statement(
        "list_sessions",
        all_statuses=filters.all_statuses or bool(filters.statuses),
        sd_ids=[form for item in filters.sd_ids for form in tx.forms(item) or ()] or None,
        statuses=list(filters.statuses) or None,
        tracks=list(filters.tracks) or None,
        hostname=filters.hostname,
        boot_id=filters.boot_id,
        codebase=filters.codebase,
        session_id=filters.session_id,
        row_limit=filters.limit,
        now=caller.now,
    )
    [found] = tx.commit(query)
    total = found[0]["total"] if found else 0
    sessions = [Session(**{name: value for name, value in row.items() if name != "total"}) for row in found]
    return Listing([caller.judge(session) for session in sessions], total)
