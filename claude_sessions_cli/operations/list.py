"""List: who holds what. Never writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_sessions_cli.database import Database, Rows, Statement, Transaction
from claude_sessions_cli.model import JudgedSession, Label, Session
from claude_sessions_cli.operations.caller import Caller

# What a reader looks for first.
FIRST = (Label.YOURS, Label.DEAD, Label.LAPSED)
# What sorts a list, smallest first; an age is that of its time, so that the youngest comes first.
SORTS: Mapping[str, Callable[[JudgedSession], Any]] = {
    "state": lambda seen: list(Label).index(seen.label),
    "sd": lambda seen: seen.session.sd_id,
    "track": lambda seen: seen.session.track,
    "session": lambda seen: seen.session.session_id,
    "host": lambda seen: seen.session.hostname,
    "tty": lambda seen: seen.session.tty,
    "pid": lambda seen: seen.session.pid,
    "codebase": lambda seen: seen.session.codebase,
    "claimed": lambda seen: seen.session.claim_age_s,
    "heartbeat": lambda seen: seen.session.heartbeat_age_s,
}


@dataclass(frozen=True, slots=True)
class Filters:
    """Which sessions to list: those that fit every filter, at most `limit`.

    Without `all_statuses` or `statuses`, those that live or hold an item. `sort` names keys of SORTS, with a minus sign
    before it for the reverse order.
    """

    sd_ids: Sequence[str] = ()
    all_statuses: bool = False
    statuses: Sequence[str] = ()
    tracks: Sequence[str] = ()
    hostname: str | None = None
    codebase: str | None = None
    session_id: str | None = None
    limit: int | None = None
    boot_id: str | None = None
    sort: Sequence[str] = ()

    @property
    def asks_items_alone(self) -> bool:
        """Whether every holder of the items fits."""
        others = (self.statuses, self.tracks, self.hostname, self.codebase, self.session_id, self.limit)
        return not any(others)


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions that fit the filters; how many there are without the limit, in all and by state."""

    sessions: list[JudgedSession]
    total: int
    counts: dict[str, int]


NO_FILTERS = Filters()


def list_sessions(database: Database, caller: Caller, filters: Filters = NO_FILTERS) -> Listing:
    """Return the sessions that fit every filter.

    Unless they are sorted otherwise, those that need a look come first, then by work item; ended ones come last, the
    latest change first.
    """
    return database.read(_list, caller, filters)


def _list(tx: Transaction, caller: Caller, filters: Filters) -> Listing:
    common = {
        "sd_ids": [form for item in filters.sd_ids for form in tx.forms(item) or ()] if filters.sd_ids else None,
        "tracks": list(filters.tracks) or None,
        "hostname": filters.hostname,
        "boot_id": filters.boot_id,
        "codebase": filters.codebase,
        "session_id": filters.session_id,
        "now": caller.now,
    }
    wants_past = filters.all_statuses or "released" in filters.statuses
    past = [Statement("list_past_sessions", **common, row_limit=filters.limit)] if wants_past else []
    found, *ended = tx.commit(
        Statement(
            "list_sessions",
            **common,
            statuses=list(filters.statuses) or None,
            idle_stale=filters.all_statuses or "stale" in filters.statuses,
        ),
        *past,
    )
    live = [caller.judge(session) for session in found.sessions]
    over, number_over = _split_total(ended[0]) if ended else ([], 0)
    live.sort(key=_usual_order)
    sessions = live + [caller.judge(session) for session in over]
    for word in reversed(filters.sort):
        key, reverse = SORTS[word.removeprefix("-")], word.startswith("-")
        # What has no value comes last either way.
        with_value = [seen for seen in sessions if key(seen) is not None]
        without = [seen for seen in sessions if key(seen) is None]
        sessions = sorted(with_value, key=key, reverse=reverse) + without
    counts = Counter(seen.label.value for seen in live)
    if number_over:
        counts[Label.ENDED.value] = number_over
    return Listing(sessions[: filters.limit], len(live) + number_over, dict(counts))


def _split_total(rows: Rows) -> tuple[list[Session], int]:
    total = rows[0]["total"] if rows else 0
    return [Session(**{name: value for name, value in row.items() if name != "total"}) for row in rows], total


def _usual_order(seen: JudgedSession) -> tuple[Any, ...]:
    session = seen.session
    rank = FIRST.index(seen.label) if seen.label in FIRST else len(FIRST)
    beat = session.heartbeat_at
    latest = (beat is None, -beat.timestamp() if beat else 0.0)
    return rank, session.sd_id is None, session.sd_id or "", latest, session.session_id
