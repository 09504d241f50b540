"""Which sessions there are: a look that writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from claude_sessions_cli.database import Database, Row
from claude_sessions_cli.model import Listing, Session
from claude_sessions_cli.operations.caller import Caller


def list_sessions(
    database: Database,
    caller: Caller,
    *,
    sd_ids: Sequence[str] = (),
    all_statuses: bool = False,
    statuses: Sequence[str] = (),
    tracks: Sequence[str] = (),
    hostname: str | None = None,
    codebase: str | None = None,
    session_id: str | None = None,
    limit: int | None = None,
) -> Listing:
    """Return the sessions that fit every filter given, holders first; live ones unless statuses are named."""
    rows = database.transact(
        lambda tx: tx.all(
            "list_sessions",
            all_statuses=all_statuses or bool(statuses),
            sd_ids=list(sd_ids) or None,
            statuses=list(statuses) or None,
            tracks=list(tracks) or None,
            hostname=hostname,
            codebase=codebase,
            session_id=session_id,
            row_limit=limit,
            now=caller.now,
        ),
        writes=False,
    )
    total = rows[0]["total"] if rows else 0
    return Listing([caller.judge(_without_total(row)) for row in rows], total)


def _without_total(row: Row) -> Session:
    return Session(**{key: value for key, value in row.items() if key != "total"})
