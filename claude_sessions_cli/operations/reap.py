"""Reap: release sessions whose process is proven dead, and free the claims of silent ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.database import Database, Rows, Statement, Transaction
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.failures import may_concern_one_row
from claude_sessions_cli.model import MAX_AGE, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session
from claude_sessions_cli.operations import prune as pruning
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.prune import Reference
from claude_sessions_cli.operations.refusals import (
    DROPPED,
    Change,
    Refusal,
    Said,
    change_rows,
    read_refusals,
    refusals_of,
)
from claude_sessions_cli.operations.tombstones import tombstone_for
from claude_sessions_cli.times import format_age, utc

if TYPE_CHECKING:
    from uuid import UUID

STALE_FOR = timedelta(days=1)
# Sessions read in one message, and changed in another: a million rows must neither hold their locks nor fail together.
PAGE = 1000
# Heartbeats clamped in one transaction.
CLAMP_BATCH = 5000


@dataclass(frozen=True, slots=True)
class ReapVerdict:
    """The verdict on one session; `to` is its new status, None if it is kept."""

    session: JudgedSession
    to: str | None
    reason: str
    evidence: dict[str, Any]


@dataclass(slots=True)
class ReapResult:
    """The sessions changed and kept, and those that the table refuses to change; in a dry run, those that would be.

    `pruned` is the number deleted, `referenced` that of sessions kept because of `references` of other tables. With
    `cascade`, those of them that write their tables keep none.
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
    announce: Callable[[Sequence[Reference]], None] = lambda references: None,
) -> ReapResult:
    """Judge every live session, and change those that are dead or silent; see `judge` for the rules.

    Safe beside other reapers and the sessions themselves: a row that has changed since it was judged, or that is
    locked, is left alone. `max_age` and `prune` are in seconds; the latter also deletes sessions that have been
    released, and unchanged, for longer. `cascade` and `announce` are those of `prune.prune`.
    """
    result = ReapResult(dry_run, cascade=cascade)
    for page in _live(database, caller, dry_run, result.refused):
        verdicts = [judge(caller, caller.judge(session), max_age) for session in page]
        condemned = [verdict for verdict in verdicts if verdict.to]
        result.kept.extend(verdict for verdict in verdicts if not verdict.to)
        if dry_run:
            result.changed.extend(condemned)
        else:
            changed, refused = carry_out(database, caller, condemned)
            result.changed.extend(changed)
            result.refused.extend(refused)
    result.changed.sort(key=_by_item)
    result.kept.sort(key=_by_item)
    if prune is not None:
        pruned = pruning.prune(database, caller, pruning.Plan(prune, cascade, dry_run), announce)
        result.pruned, result.referenced, result.references = pruned.deleted, pruned.referenced, pruned.references
        result.refused.extend(pruned.refused)
    return result


def _live(database: Database, caller: Caller, dry_run: bool, refused: list[Refusal]) -> Iterator[list[Session]]:
    """Yield the live sessions a page at a time, with heartbeats in the future set to now, so that they can age.

    Adds the sessions whose heartbeat the table refuses to set.
    """
    after, more_to_clamp = None, not dry_run
    while True:
        page = None
        if more_to_clamp:
            page, more_to_clamp = _clamp_and_read(database, caller, after, refused)
        if page is None:
            page = database.read(_read, caller, after)
        yield page
        if len(page) < PAGE:
            break
        after = page[-1].id
    while more_to_clamp:
        _, more_to_clamp = _clamp_and_read(database, caller, None, refused, row_limit=0)


def _clamp_and_read(
    database: Database, caller: Caller, after: UUID | None, refused: list[Refusal], row_limit: int | None = None
) -> tuple[list[Session] | None, bool]:
    """Clamp a batch of heartbeats and read a page of sessions; return the page, and whether there is more to clamp.

    If the table refuses a heartbeat, all are set one by one, and there is no page.
    """
    limit = PAGE if row_limit is None else row_limit
    try:
        page, clamped = database.renew(caller.actor, _send_clamp_and_read, caller, after, limit)
    except SessionsError as error:
        if not may_concern_one_row(error):
            raise
        refused += read_refusals(database, caller, _clamp_each(database, caller))
        return None, False
    dropped = {row["row_id"]: (DROPPED, None) for row in clamped if not row["is_written"]}
    refused += read_refusals(database, caller, dropped)
    return page, len(clamped) - len(dropped) == CLAMP_BATCH


def _send_clamp_and_read(
    tx: Transaction, caller: Caller, after: UUID | None, row_limit: int
) -> tuple[list[Session], Rows]:
    clamp = Statement("clamp_future_heartbeats", row_limit=CLAMP_BATCH, now=caller.now)
    clamped, page = tx.commit(clamp, _reading(caller, after, row_limit))
    return page.sessions, clamped


def _clamp_each(database: Database, caller: Caller) -> dict[UUID, Said]:
    """Set all heartbeats in the future to now, one by one; return what the table said of those that it refused."""
    refused: dict[UUID, Said] = {}
    after = None
    while listed := database.read(_list_future, caller, after):
        change = Change("clamp_heartbeats", "listed", [{"id": row_id} for row_id in listed], {"now": caller.now})
        refused |= change_rows(database.renew, caller, change).refused
        after = listed[-1]
    return refused


def _list_future(tx: Transaction, caller: Caller, after: UUID | None) -> list[UUID]:
    [found] = tx.commit(Statement("list_future_heartbeats", after=after, row_limit=PAGE, now=caller.now))
    return [row["id"] for row in found]


def _read(tx: Transaction, caller: Caller, after: UUID | None) -> list[Session]:
    [page] = tx.commit(_reading(caller, after, PAGE))
    return page.sessions


def _reading(caller: Caller, after: UUID | None, row_limit: int) -> Statement:
    return Statement("list_live_sessions", after=after, row_limit=row_limit, now=caller.now)


def _by_item(verdict: ReapVerdict) -> tuple[bool, str, str]:
    session = verdict.session.session
    return session.sd_id is None, session.sd_id or "", session.session_id


def judge(caller: Caller, seen: JudgedSession, max_age: float | None) -> ReapVerdict:
    """Return the verdict on a session.

    A dead process on this host: released. A claim or an idle session that has lapsed, or a claim older than `max_age`:
    stale. Stale for a day: released. `max_age` spares a proven live process, a parked session, the silence that the
    holder recorded for itself, and a process elsewhere that beats.
    """
    session = seen.session
    stale_after = session.effective_stale_after(caller.settings.stale_after)
    is_recorded = stale_after > caller.settings.stale_after
    silence = ("recorded" if is_recorded else "stale_after", stale_after)
    evidence: dict[str, Any] = {
        "sd_id": session.sd_id,
        "process": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "stale_after_s": stale_after,
        "claim_age_s": session.claim_age_s,
        "hostname": session.hostname,
        "boot": _boot(session, caller),
        "parked_until": utc(session.parked_until) if session.parked_until else None,
    }

    def verdict(to: str | None, reason: str, limit: tuple[str | None, float | None] = (None, None)) -> ReapVerdict:
        return ReapVerdict(seen, to, reason, {**evidence, "limit": limit[0], "limit_s": limit[1]})

    if seen.liveness is Liveness.DEAD:
        return verdict("released", PROCESS_GONE)
    if seen.liveness is Liveness.ALIVE:
        return verdict(None, "its process is alive")
    if session.status != "stale" or session.sd_id is not None:
        if seen.lapsed:
            return verdict("stale", SILENT, silence)
        if session.parked_until:
            return verdict(None, "parked")
        if session.sd_id is not None and max_age is not None and not _beats(session, caller):
            limit = silence if is_recorded and stale_after > max_age else ("max_age", max_age)
            if (session.claim_age_s or 0) > limit[1]:
                return verdict("stale", MAX_AGE, limit)
        return verdict(None, f"last sign of life {format_age(session.heartbeat_age_s)} ago", silence)
    touched = max(session.last_sign, session.updated_at or session.last_sign)
    staleness = ("stale", STALE_FOR.total_seconds())
    if session.server_now - touched > STALE_FOR:
        return verdict("released", "stale for a day", staleness)
    return verdict(None, "stale for less than a day", staleness)


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
