"""Timeline: who held which work item when, over a period that ends now. Never writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import CLEARED, Label
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.list import list_live
from claude_sessions_cli.transaction import Statement, Transaction

ROW_LIMIT = 10_000
# Ends by the session itself, or by its own next id.
_OWN_ENDS = ("continued", "switched", "moved")


@dataclass(frozen=True, slots=True)
class Span:
    """A term within the period; `began_at` may lie before it. `ended_at` is None, and `label` set, while it lasts."""

    session_id: str
    hostname: str | None
    began_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    ended_by: str | None
    label: Label | None

    @property
    def is_lost(self) -> bool:
        """Whether somebody else ended it, or the session noted that another program had."""
        is_own = self.ended_by == self.session_id or self.reason in _OWN_ENDS
        return self.ended_at is not None and (not is_own or self.reason == CLEARED)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans of each work item, in order of their names and beginnings."""

    since: datetime
    until: datetime
    items: dict[str, list[Span]]


def timeline(database: Database, caller: Caller, seconds: float, name: str | None = None) -> Timeline:
    """Return who held what in the last `seconds`, of all work items, or of an item or a session.

    Raises SchemaMismatch if the table has no history.
    """
    return database.read(_read, caller, seconds, name)


def _read(tx: Transaction, caller: Caller, seconds: float, name: str | None) -> Timeline:
    forms = tx.forms(name)
    _, [clock], terms, live = tx.commit(
        Statement("require_history"),
        Statement("read_clock", now=caller.now),
        Statement(
            "list_recent_terms",
            seconds=seconds,
            name=forms[0] if forms else None,
            forms=forms,
            row_limit=ROW_LIMIT,
            now=caller.now,
        ),
        list_live(tx, caller),
    )
    until = clock["now"]
    labels = {session.session_id: caller.judge(session).label for session in live.sessions if session.holds}
    items = {}
    for sd_id, rows in groupby(terms, key=lambda row: str(row.pop("sd_id"))):
        items[sd_id] = [
            Span(**row, label=labels.get(row["session_id"]) if row["ended_at"] is None else None) for row in rows
        ]
    return Timeline(until - timedelta(seconds=seconds), until, items)
