"""Reap: end the sessions whose process is proven dead, and take the claims of those that fell silent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.model import MAX_AGE, PROCESS_GONE, SILENT, JudgedSession, Liveness, Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import bury
from claude_sessions_cli.times import format_age

STALE_FOR = timedelta(days=1)
# Sessions changed in one transaction, so that a million rows neither hold their locks together nor fail together.
BATCH = 200
# Rows deleted, or whose heartbeat alone is set, in one.
PRUNE_BATCH = 5000
# Sessions read in one statement.
PAGE = 5000


@dataclass(frozen=True, slots=True)
class ReapVerdict:
    """What `reap` decided on one session; `to` is its new status, None where it is kept."""

    session: JudgedSession
    to: str | None
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReapResult:
    """What `reap` changed and kept, and how many released sessions it deleted; in a dry run, what it would."""

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
    """Judge every live session and change those that are over; see `judge` for the rules.

    Safe beside other reapers and beside the sessions themselves: a row that was touched after it was judged, or that
    somebody has locked, is left alone. `max_age` and `prune` are in seconds; the latter also deletes the sessions that
    have been released, and untouched, for so long.
    """
    if not dry_run:
        _settle(database, caller)
    verdicts = sorted((judge(caller, seen, max_age) for seen in _live(database, caller)), key=_by_item)
    condemned = [verdict for verdict in verdicts if verdict.to]
    kept = [verdict for verdict in verdicts if not verdict.to]
    if dry_run:
        return ReapResult(True, condemned, kept, _count(database, caller, prune) if prune is not None else 0)
    changed = carry_out(database, caller, condemned)
    pruned = _prune(database, caller, prune) if prune is not None else 0
    return ReapResult(False, changed, kept, pruned)


def _settle(database: Database, caller: Caller) -> None:
    """A heartbeat in the future counts as now: here that moment is written down, so that it passes."""

    def settle(tx: Transaction) -> int:
        return tx.run("settle_heartbeats", row_limit=PRUNE_BATCH, now=caller.now)

    while database.transact(settle, actor=caller.actor) == PRUNE_BATCH:
        pass


def _live(database: Database, caller: Caller) -> Iterator[JudgedSession]:
    after = None
    while True:
        page = database.transact(
            lambda tx, after=after: tx.sessions("list_live_sessions", after=after, row_limit=PAGE, now=caller.now),  # type: ignore[misc]
            writes=False,
        )
        yield from map(caller.judge, page)
        if len(page) < PAGE:
            return
        after = page[-1].id


def _by_item(verdict: ReapVerdict) -> tuple[bool, str, str]:
    session = verdict.session.session
    return session.sd_id is None, session.sd_id or "", session.session_id


def _count(database: Database, caller: Caller, older_than: float) -> int:
    row = database.transact(lambda tx: tx.one("count_prunable", older_than_s=older_than, now=caller.now), writes=False)
    return int(row["number"]) if row else 0


def _prune(database: Database, caller: Caller, older_than: float) -> int:
    total, after = 0, None
    while True:
        deleted = database.transact(
            lambda tx, after=after: tx.all(  # type: ignore[misc]
                "prune_sessions", after=after, older_than_s=older_than, row_limit=PRUNE_BATCH, now=caller.now
            ),
            deletes=True,
            actor=caller.actor,
        )
        total += len(deleted)
        if len(deleted) < PRUNE_BATCH:
            return total
        after = max(row["id"] for row in deleted)


def judge(caller: Caller, seen: JudgedSession, max_age: float | None) -> ReapVerdict:
    """Decide what becomes of a session.

    A dead process on this host: released. A claim or an idle session that has lapsed, or a claim older than `max_age`
    without a provably live process: stale. Stale for a day: released.
    """
    session = seen.session
    patience = session.patience_s(caller.settings.stale_after)
    evidence: dict[str, Any] = {
        "sd_id": session.sd_id,
        "process": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "patience_s": patience,
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
    """Change the sessions as judged, in batches, and return those that nobody has touched since."""
    changed: list[ReapVerdict] = []
    for start in range(0, len(condemned), BATCH):
        batch = condemned[start : start + BATCH]
        changed += database.transact(lambda tx, batch=batch: _carry_out(tx, caller, batch), actor=caller.actor)  # type: ignore[misc]
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
    own = {"parked_until": None, "tombstone": bury(session, verdict.reason)}
    return {"id": str(session.id), "row_version": session.row_version, "status": verdict.to, "own": own}
