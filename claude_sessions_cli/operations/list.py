"""List: who holds what. Never writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import JudgedSession, Label
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.transaction import Rows, Statement, Transaction

# What a reader looks for first.
FIRST = (Label.YOURS, Label.DEAD, Label.LAPSED)
# The kinds of sessions that are over, by status, in the order of a list; the word that counts them.
PAST = {"stale": "stale", "released": Label.ENDED.value}
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

    Unless they are sorted otherwise, those that need a look come first, then by work item. Stale ones that hold nothing
    follow, and ended ones, each with the latest change first.
    """
    return database.read(_list, caller, filters)


def list_live(tx: Transaction, caller: Caller, filters: Filters = NO_FILTERS) -> Statement:
    """Return the statement that lists the sessions which live or hold an item, and fit the filters."""
    return Statement("list_sessions", **_listed(tx, caller, filters), statuses=list(filters.statuses) or None)


def _list(tx: Transaction, caller: Caller, filters: Filters) -> Listing:
    kinds = [kind for kind in PAST if (kind in filters.statuses if filters.statuses else filters.all_statuses)]
    found, *past = tx.commit(list_live(tx, caller, filters), *_list_past(tx, caller, filters, kinds))
    live = [caller.judge(session) for session in found.sessions]
    live.sort(key=_usual_order)
    counts = Counter(seen.label.value for seen in live)
    by_id, total = {seen.session.id: seen for seen in live}, len(live)
    for kind, listed, number in _in_pairs(kinds, past, filters.limit):
        judged = [caller.judge(session) for session in listed.sessions]
        # A session may have fallen silent, or ended, between two of the statements.
        earlier = [by_id.pop(seen.session.id) for seen in judged if seen.session.id in by_id]
        counts.subtract(seen.label.value for seen in earlier)
        # The label of a session needs a look at it.
        counts.update([seen.label.value for seen in judged] if len(judged) == number else {PAST[kind]: number})
        by_id |= {seen.session.id: seen for seen in judged}
        total += number - len(earlier)
    sessions = [*by_id.values()]
    for word in reversed(filters.sort):
        key, reverse = SORTS[word.removeprefix("-")], word.startswith("-")
        # What has no value comes last either way.
        with_value = [seen for seen in sessions if key(seen) is not None]
        without = [seen for seen in sessions if key(seen) is None]
        sessions = sorted(with_value, key=key, reverse=reverse) + without
    return Listing(sessions[: filters.limit], total, dict(+counts))


def _listed(tx: Transaction, caller: Caller, filters: Filters) -> dict[str, Any]:
    return {
        "sd_ids": [form for item in filters.sd_ids for form in tx.forms(item) or ()] if filters.sd_ids else None,
        "tracks": list(filters.tracks) or None,
        "hostname": filters.hostname,
        "boot_id": filters.boot_id,
        "codebase": filters.codebase,
        "session_id": filters.session_id,
        "now": caller.now,
    }


def _list_past(tx: Transaction, caller: Caller, filters: Filters, kinds: Sequence[str]) -> list[Statement]:
    """Return the statements that list the sessions of each kind and, if there is a limit, count them."""
    statements = []
    for kind in kinds:
        listed = {"status": kind, **_listed(tx, caller, filters)}
        # Stale sessions are few enough to be sorted otherwise.
        limit = None if filters.sort and kind == "stale" else filters.limit
        statements.append(Statement("list_past_sessions", **listed, row_limit=limit))
        if filters.limit is not None:
            statements.append(Statement("count_past_sessions", **listed))
    return statements


def _in_pairs(kinds: Sequence[str], answers: list[Rows], limit: int | None) -> Iterator[tuple[str, Rows, int]]:
    """Yield the sessions of each kind, and how many there are without the limit."""
    for place, kind in enumerate(kinds):
        if limit is None:
            yield kind, answers[place], len(answers[place])
        else:
            yield kind, answers[2 * place], answers[2 * place + 1][0]["number"]


def _usual_order(seen: JudgedSession) -> tuple[Any, ...]:
    session = seen.session
    rank = FIRST.index(seen.label) if seen.label in FIRST else len(FIRST)
    beat = session.heartbeat_at
    latest = (beat is None, -beat.timestamp() if beat else 0.0)
    return rank, session.sd_id is None, session.sd_id or "", latest, session.session_id
