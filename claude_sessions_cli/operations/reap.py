"""Reap: release sessions whose process is proven dead, and free the claims of silent ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.database import Database, Statement, Transaction
from claude_sessions_cli.model import MAX_AGE, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import tombstone_for
from claude_sessions_cli.times import format_age

if TYPE_CHECKING:
    from uuid import UUID

STALE_FOR = timedelta(days=1)
# Sessions read in one message, and changed in another: a million rows must neither hold their locks nor fail together.
PAGE = 1000
# Rows deleted, or clamped, in one transaction.
PRUNE_BATCH = 5000


@dataclass(frozen=True, slots=True)
class ReapVerdict:
    """The verdict on one session; `to` is its new status, None if it is kept."""

    session: JudgedSession
    to: str | None
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReapResult:
    """The sessions changed and kept, and the number deleted; in a dry run, those that would be."""

    dry_run: bool
    changed: list[ReapVerdict]
    kept: list[ReapVerdict]
    pruned: int = 0


def reap(
    database: Database,
    caller: Caller,
    *,
    max_age: float | None = None,
    prune: float | None = None,
    dry_run: bool = False,
) -> ReapResult:
    """Judge every live session, and change those that are dead or silent; see `judge` for the rules.

    Safe beside other reapers and the sessions themselves: a row that has changed since it was judged, or that is
    locked, is left alone. `max_age` and `prune` are in seconds; the latter also deletes sessions that have been
    released, and unchanged, for longer.
    """
    changed: list[ReapVerdict] = []
    kept: list[ReapVerdict] = []
    for page in _live(database, caller, dry_run):
        verdicts = [judge(caller, caller.judge(session), max_age) for session in page]
        condemned = [verdict for verdict in verdicts if verdict.to]
        kept += [verdict for verdict in verdicts if not verdict.to]
        changed += condemned if dry_run else carry_out(database, caller, condemned)
    changed.sort(key=_by_item)
    kept.sort(key=_by_item)
    if prune is None:
        return ReapResult(dry_run, changed, kept)
    pruned = database.read(_count_prunable, caller, prune) if dry_run else _prune(database, caller, prune)
    return ReapResult(dry_run, changed, kept, pruned)


def _live(database: Database, caller: Caller, dry_run: bool) -> Iterator[list[Session]]:
    """Yield the live sessions a page at a time, with heartbeats in the future set to now, so that they can age."""
    after, more_to_clamp = None, not dry_run
    while True:
        if more_to_clamp:
            page, more_to_clamp = database.renew(caller.actor, _clamp_and_read, caller, after)
        else:
            page = database.read(_read, caller, after)
        yield page
        if len(page) < PAGE:
            break
        after = page[-1].id
    while more_to_clamp:
        more_to_clamp = database.renew(caller.actor, _clamp, caller)


def _clamp_and_read(tx: Transaction, caller: Caller, after: UUID | None) -> tuple[list[Session], bool]:
    clamped, page = tx.commit(_clamping(caller), _reading(caller, after))
    return page.sessions, clamped.touched == PRUNE_BATCH


def _clamp(tx: Transaction, caller: Caller) -> bool:
    [clamped] = tx.commit(_clamping(caller))
    return clamped.touched == PRUNE_BATCH


def _read(tx: Transaction, caller: Caller, after: UUID | None) -> list[Session]:
    [page] = tx.commit(_reading(caller, after))
    return page.sessions


def _clamping(caller: Caller) -> Statement:
    return Statement("clamp_future_heartbeats", row_limit=PRUNE_BATCH, now=caller.now)


def _reading(caller: Caller, after: UUID | None) -> Statement:
    return Statement("list_live_sessions", after=after, row_limit=PAGE, now=caller.now)


def _by_item(verdict: ReapVerdict) -> tuple[bool, str, str]:
    session = verdict.session.session
    return session.sd_id is None, session.sd_id or "", session.session_id


def _prune(database: Database, caller: Caller, older_than: float) -> int:
    total, after = 0, None
    while True:
        deleted = database.delete(caller.actor, _prune_batch, caller, older_than, after)
        total += len(deleted)
        if len(deleted) < PRUNE_BATCH:
            return total
        after = max(deleted)


def _prune_batch(tx: Transaction, caller: Caller, older_than: float, after: UUID | None) -> list[UUID]:
    limits = {"after": after, "older_than_s": older_than, "row_limit": PRUNE_BATCH}
    [deleted] = tx.commit(Statement("prune_sessions", **limits, now=caller.now))
    return [row["id"] for row in deleted]


def _count_prunable(tx: Transaction, caller: Caller, older_than: float) -> int:
    [counted] = tx.commit(Statement("count_prunable", older_than_s=older_than, now=caller.now))
    return int(counted[0]["number"])


def judge(caller: Caller, seen: JudgedSession, max_age: float | None) -> ReapVerdict:
    """Return the verdict on a session.

    A dead process on this host: released. A claim or an idle session that has lapsed, or a claim older than `max_age`
    without a proven live process: stale. Stale for a day: released.
    """
    session = seen.session
    stale_after = session.effective_stale_after(caller.settings.stale_after)
    evidence: dict[str, Any] = {
        "sd_id": session.sd_id,
        "process": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "stale_after_s": stale_after,
        "claim_age_s": session.claim_age_s,
        "hostname": session.hostname,
        "boot": _boot(session, caller),
        "parked_until": session.parked_until.isoformat() if session.parked_until else None,
    }

    def verdict(to: str | None, reason: str) -> ReapVerdict:
        return ReapVerdict(seen, to, reason, evidence)

    if seen.liveness is Liveness.DEAD:
        return verdict("released", PROCESS_GONE)
    if seen.liveness is Liveness.ALIVE:
        return verdict(None, "its process is alive")
    if session.status != "stale" or session.sd_id is not None:
        if seen.lapsed:
            return verdict("stale", SILENT)
        if session.sd_id is not None and max_age is not None and (session.claim_age_s or 0) > max_age:
            return verdict("stale", MAX_AGE)
        if session.parked_until:
            return verdict(None, "parked")
        return verdict(None, f"last sign of life {format_age(session.heartbeat_age_s)} ago")
    touched = max(session.last_sign, session.updated_at or session.last_sign)
    if session.server_now - touched > STALE_FOR:
        return verdict("released", "stale for a day")
    return verdict(None, "stale for less than a day")


def _boot(session: Session, caller: Caller) -> str:
    if session.process is None:
        return "not recorded"
    return "this" if session.process.boot_id == caller.identity.host.boot_id else "another"


def carry_out(database: Database, caller: Caller, condemned: list[ReapVerdict]) -> list[ReapVerdict]:
    """Change the sessions as judged, a page at a time; return those that had not changed since."""
    changed: list[ReapVerdict] = []
    for start in range(0, len(condemned), PAGE):
        page = condemned[start : start + PAGE]
        changed += database.write(caller.actor, _carry_out, caller, page)
    return changed


def _carry_out(tx: Transaction, caller: Caller, page: list[ReapVerdict]) -> list[ReapVerdict]:
    verdicts = json.dumps([_as_json(verdict) for verdict in page], ensure_ascii=False)
    [reaped] = tx.commit(Statement("reap_sessions", verdicts=verdicts, now=caller.now))
    changed = {session.id: session for session in reaped.sessions}
    return [
        replace(verdict, session=caller.judge(changed[verdict.session.session.id]))
        for verdict in page
        if verdict.session.session.id in changed
    ]


def _as_json(verdict: ReapVerdict) -> dict[str, object]:
    session = verdict.session.session
    own = {**rows.ENDED, "tombstone": tombstone_for(session, verdict.reason)}
    if session.sd_id is None:
        del own["term"]  # one that another program ended is left for the session to find
    return {"id": str(session.id), "row_version": session.row_version, "status": verdict.to, "own": own}
