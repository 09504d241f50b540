"""Reap: release sessions whose process is proven dead, and free the claims of silent ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import MAX_AGE, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session
from claude_sessions_cli.operations import prune as pruning
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.prune import Reference
from claude_sessions_cli.operations.refusals import Change, Refusal, change_rows, refusals_of
from claude_sessions_cli.operations.tombstones import tombstone_for
from claude_sessions_cli.times import format_age, utc
from claude_sessions_cli.transaction import Statement, Transaction

if TYPE_CHECKING:
    from uuid import UUID

T = TypeVar("T")

STALE_FOR = timedelta(days=1)
# Sessions read in one message, and changed in another: a million rows must neither hold their locks nor fail together.
PAGE = 1000
# Ids found by one statement.
IDS = 100_000


@dataclass(frozen=True, slots=True)
class ReapVerdict:
    """The verdict on one session; `to` is its new status, None if it is kept."""

    session: JudgedSession
    to: str | None
    reason: str
    evidence: dict[str, Any]


@dataclass(slots=True)
class ReapResult:
    """The sessions changed, and those that the table refuses to change; in a dry run, those that would be changed.

    `kept` are the others, if they are asked for. `pruned` is the number deleted, `referenced` that of sessions kept
    because of `references` of other tables. With `cascade`, those of them that write their tables keep none.
    """

    dry_run: bool
    changed: list[ReapVerdict] = field(default_factory=list)
    kept: list[ReapVerdict] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    pruned: int = 0
    referenced: int = 0
    references: list[Reference] = field(default_factory=list)
    cascade: bool = False


def reap(
    database: Database,
    caller: Caller,
    *,
    max_age: float | None = None,
    prune: float | None = None,
    cascade: bool = False,
    dry_run: bool = False,
    explain: bool = False,
    announce: Callable[[Sequence[Reference]], None] = lambda references: None,
) -> ReapResult:
    """Judge every live session, and change those that are dead or silent; see `judge` for the rules.

    Safe beside other reapers and the sessions themselves: a row that has changed since it was judged, or that is
    locked, is left alone. `max_age` and `prune` are in seconds; the latter also deletes sessions that have been
    released, and unchanged, for longer. `explain` returns the sessions that are kept too. `cascade` and `announce` are
    those of `prune.prune`.
    """
    result = ReapResult(dry_run, cascade=cascade)
    for page in _pages(database, caller, dry_run, explain):
        verdicts = [judge(caller, caller.judge(session), max_age) for session in page]
        condemned = [verdict for verdict in verdicts if verdict.to]
        kept = [verdict for verdict in verdicts if not verdict.to]
        if explain:
            # A session that this run has made stale comes again among the stale ones.
            changed_before = {verdict.session.session.id for verdict in result.changed}
            result.kept.extend(verdict for verdict in kept if verdict.session.session.id not in changed_before)
        if dry_run:
            result.changed.extend(condemned)
        else:
            changed, refused = carry_out(database, caller, condemned)
            result.changed.extend(changed)
            result.refused += refused + _clamp(database, caller, [verdict.session for verdict in kept])
    result.changed.sort(key=_by_item)
    result.kept.sort(key=_by_item)
    if prune is not None:
        pruned = pruning.prune(database, caller, pruning.Plan(prune, cascade, dry_run), announce)
        result.pruned, result.referenced, result.references = pruned.deleted, pruned.referenced, pruned.references
        result.refused.extend(pruned.refused)
    return result


def _pages(database: Database, caller: Caller, dry_run: bool, explain: bool) -> Iterator[list[Session]]:
    """Yield the sessions to judge, a page at a time: those that live or hold an item, then those that are stale.

    Beyond the second page the live ones are found once, by their ids: a query for each page would read all of them.
    """

    def look(work: Callable[..., T], *args: Any) -> T:
        # A role that may not write, and a standby, are refused before anything is judged.
        return database.read(work, *args) if dry_run else database.renew(caller.actor, work, *args)

    page, stale = look(_read, _live(caller, None), _stale(caller, explain, None))
    yield page
    after = page[-1].id if len(page) == PAGE else None
    while after is not None:
        page, found_ids = look(_read_with_ids, caller, after)
        yield page
        # Another reaper may have released some in between.
        ids = [one for one in found_ids if one > page[-1].id] if page else found_ids
        for start in range(0, len(ids), PAGE):
            [found] = look(_read, Statement("list_sessions_by_id", ids=ids[start : start + PAGE], now=caller.now))
            yield [session for session in found if session.status != "released"]
        after = found_ids[-1] if len(found_ids) == IDS else None
    while stale:
        yield stale
        [stale] = look(_read, _stale(caller, explain, stale[-1])) if len(stale) == PAGE else [[]]


def _live(caller: Caller, after: UUID | None) -> Statement:
    return Statement("list_live_sessions", after=after, row_limit=PAGE, now=caller.now)


def _stale(caller: Caller, explain: bool, last: Session | None) -> Statement:
    return Statement(
        "list_stale_sessions",
        stale_for_s=None if explain else STALE_FOR.total_seconds(),
        after_at=last.updated_at if last else None,
        after_id=last.id if last else None,
        row_limit=PAGE,
        now=caller.now,
    )


def _read(tx: Transaction, *statements: Statement) -> list[list[Session]]:
    return [found.sessions for found in tx.commit(*statements)]


def _read_with_ids(tx: Transaction, caller: Caller, after: UUID) -> tuple[list[Session], list[UUID]]:
    """Return the next page, and the ids of its sessions and of those that follow."""
    page, found = tx.commit(_live(caller, after), Statement("list_live_ids", after=after, row_limit=IDS))
    return page.sessions, [row["id"] for row in found]


def _clamp(database: Database, caller: Caller, kept: Iterable[JudgedSession]) -> list[Refusal]:
    """Set heartbeats in the future to now, so that they can age; return what the table refuses."""
    ahead = [seen for seen in kept if seen.session.heartbeat_at and seen.session.heartbeat_at > seen.session.server_now]
    if not ahead:
        return []
    change = Change("clamp_heartbeats", "listed", [{"id": seen.session.id} for seen in ahead], {"now": caller.now})
    return refusals_of(change_rows(database.renew, caller, change).refused, ahead)


def _by_item(verdict: ReapVerdict) -> tuple[bool, str, str]:
    session = verdict.session.session
    return session.sd_id is None, session.sd_id or "", session.session_id


def judge(caller: Caller, seen: JudgedSession, max_age: float | None) -> ReapVerdict:
    """Return the verdict on a session.

    A dead process on this host: released. A claim or an idle session that has lapsed, or a claim older than `max_age`:
    stale. Stale for a day: released. `max_age` spares a proven live process, a parked session, the silence that the
    holder recorded for itself, and a process elsewhere that sends heartbeats. A stale session that holds nothing is
    judged by time alone, unless its process is alive.
    """
    session = seen.session
    if seen.liveness is Liveness.ALIVE:
        return _verdict(caller, seen, None, "its process is alive")
    if session.status == "stale" and session.sd_id is None:
        touched = max(session.last_sign, session.updated_at or session.last_sign)
        staleness = ("stale", STALE_FOR.total_seconds())
        if session.server_now - touched > STALE_FOR:
            return _verdict(caller, seen, "released", "stale for a day", staleness)
        return _verdict(caller, seen, None, "stale for less than a day", staleness)
    if seen.liveness is Liveness.DEAD:
        return gone(caller, seen)
    stale_after = session.effective_stale_after(caller.settings.stale_after)
    is_recorded = stale_after > caller.settings.stale_after
    silence = ("recorded" if is_recorded else "stale_after", stale_after)
    if seen.lapsed:
        return _verdict(caller, seen, "stale", SILENT, silence)
    if session.parked_until:
        return _verdict(caller, seen, None, "parked")
    if session.sd_id is not None and max_age is not None and not _beats(session, caller):
        limit = silence if is_recorded and stale_after > max_age else ("max_age", max_age)
        if (session.claim_age_s or 0) > limit[1]:
            return _verdict(caller, seen, "stale", MAX_AGE, limit)
    return _verdict(caller, seen, None, f"last sign of life {format_age(session.heartbeat_age_s)} ago", silence)


def gone(caller: Caller, seen: JudgedSession) -> ReapVerdict:
    """Return the verdict on a session whose process is dead on this host."""
    return _verdict(caller, seen, "released", PROCESS_GONE)


def _verdict(
    caller: Caller,
    seen: JudgedSession,
    to: str | None,
    reason: str,
    limit: tuple[str | None, float | None] = (None, None),
) -> ReapVerdict:
    session = seen.session
    evidence = {
        "sd_id": session.sd_id,
        "process": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "stale_after_s": session.effective_stale_after(caller.settings.stale_after),
        "claim_age_s": session.claim_age_s,
        "hostname": session.hostname,
        "boot": _boot(session, caller),
        "parked_until": utc(session.parked_until) if session.parked_until else None,
        "limit": limit[0],
        "limit_s": limit[1],
    }
    return ReapVerdict(seen, to, reason, evidence)


def _beats(session: Session, caller: Caller) -> bool:
    """Whether a process that this host cannot judge has just sent a heartbeat."""
    return session.process is not None and session.heartbeat_age_s <= 2 * caller.settings.heartbeat_every


def _boot(session: Session, caller: Caller) -> str:
    if session.process is None:
        return "not recorded"
    return "this" if session.process.boot_id == caller.identity.host.boot_id else "another"


def carry_out(
    database: Database, caller: Caller, condemned: list[ReapVerdict]
) -> tuple[list[ReapVerdict], list[Refusal]]:
    """Change the sessions as judged, a page at a time; return those that had not changed since, and the refused ones.

    The table may refuse a row by a constraint, a key or a trigger of another program: the others change without it.
    """
    done: list[ReapVerdict] = []
    refused: list[Refusal] = []
    for start in range(0, len(condemned), PAGE):
        page = condemned[start : start + PAGE]
        verdicts = [_as_row(verdict) for verdict in page]
        changed = change_rows(
            database.write, caller, Change("reap_sessions", "verdicts", verdicts, {"now": caller.now})
        )
        sessions = changed.sessions
        done += [
            replace(verdict, session=caller.judge(sessions[verdict.session.session.id]))
            for verdict in page
            if verdict.session.session.id in sessions
        ]
        refused += refusals_of(changed.refused, [verdict.session for verdict in page])
    return done, refused


def _as_row(verdict: ReapVerdict) -> dict[str, object]:
    session = verdict.session.session
    own = {**rows.ENDED, "tombstone": tombstone_for(session, verdict.reason)}
    if session.sd_id is None:
        del own["term"]  # one that another program ended is left for the session to find
    return {"id": session.id, "row_version": session.row_version, "status": verdict.to, "own": own}
