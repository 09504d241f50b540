"""Reap: release sessions whose process is proven dead, and free the claims of silent ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.model import MAX_AGE, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import tombstone_for
from claude_sessions_cli.times import format_age

if TYPE_CHECKING:
    from uuid import UUID

STALE_FOR = timedelta(days=1)
# Sessions changed in one transaction: a million rows must neither hold their locks nor fail together.
BATCH = 200
# Rows deleted, or clamped, in one transaction.
PRUNE_BATCH = 5000
# Sessions read in one statement.
PAGE = 5000


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
    if not dry_run:
        while database.write(caller.actor, _clamp_future_heartbeats, caller) == PRUNE_BATCH:
            pass
    verdicts = sorted((judge(caller, seen, max_age) for seen in _live(database, caller)), key=_by_item)
    condemned = [verdict for verdict in verdicts if verdict.to]
    kept = [verdict for verdict in verdicts if not verdict.to]
    if dry_run:
        return ReapResult(True, condemned, kept, 0 if prune is None else database.read(_count_prunable, caller, prune))
    changed = carry_out(database, caller, condemned)
    pruned = _prune(database, caller, prune) if prune is not None else 0
    return ReapResult(False, changed, kept, pruned)


def _clamp_future_heartbeats(tx: Transaction, caller: Caller) -> int:
    """Set heartbeats in the future to now, so that they can age; return how many."""
    return tx.run("clamp_future_heartbeats", row_limit=PRUNE_BATCH, now=caller.now)


def _live(database: Database, caller: Caller) -> Iterator[JudgedSession]:
    after = None
    while True:
        page = database.read(_read_page, caller, after)
        yield from map(caller.judge, page)
        if len(page) < PAGE:
            return
        after = page[-1].id


def _read_page(tx: Transaction, caller: Caller, after: UUID | None) -> list[Session]:
    return tx.sessions("list_live_sessions", after=after, row_limit=PAGE, now=caller.now)


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
    return [row["id"] for row in tx.all("prune_sessions", **limits, now=caller.now)]


def _count_prunable(tx: Transaction, caller: Caller, older_than: float) -> int:
    row = tx.one("count_prunable", older_than_s=older_than, now=caller.now)
    return int(row["number"]) if row else 0


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
    """Change the sessions as judged, in batches; return those that had not changed since."""
    changed: list[ReapVerdict] = []
    for start in range(0, len(condemned), BATCH):
        batch = condemned[start : start + BATCH]
        changed += database.write(caller.actor, _carry_out, caller, batch)
    return changed


def _carry_out(tx: Transaction, caller: Caller, batch: list[ReapVerdict]) -> list[ReapVerdict]:
    verdicts = [_as_json(verdict) for verdict in batch]
    reaped = tx.sessions("reap_sessions", verdicts=json.dumps(verdicts, ensure_ascii=False), now=caller.now)
    changed = {session.id: session for session in reaped}
    return [
        replace(verdict, session=caller.judge(changed[verdict.session.session.id]))
        for verdict in batch
        if verdict.session.session.id in changed
    ]


def _as_json(verdict: ReapVerdict) -> dict[str, object]:
    session = verdict.session.session
    own = {"parked_until": None, "tombstone": tombstone_for(session, verdict.reason)}
    return {"id": str(session.id), "row_version": session.row_version, "status": verdict.to, "own": own}
