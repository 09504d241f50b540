"""Results as data: the `data` of `--json`, one function for each command whose result is more than its fields."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.errors import EXIT_NOT_HELD
from claude_sessions_cli.model import METADATA_KEY, JudgedSession, Session, Tombstone
from claude_sessions_cli.times import fence_of, to_time, utc

if TYPE_CHECKING:
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.operations.claim import ClaimResult
    from claude_sessions_cli.operations.heartbeat import HeartbeatResult
    from claude_sessions_cli.operations.heartbeat_here import HereResult
    from claude_sessions_cli.operations.history import History
    from claude_sessions_cli.operations.list import Listing
    from claude_sessions_cli.operations.prune import Reference
    from claude_sessions_cli.operations.reap import ReapResult, ReapVerdict
    from claude_sessions_cli.operations.refusals import Refusal
    from claude_sessions_cli.operations.release import ReleaseResult
    from claude_sessions_cli.operations.run import Lease, RunResult
    from claude_sessions_cli.operations.timeline import Timeline
    from claude_sessions_cli.operations.whoami import Standings
    from claude_sessions_cli.settings import Asked
    from claude_sessions_cli.surroundings import Surroundings

# Fields of Session that are not columns of the table.
_NOT_COLUMNS = ("server_now", "row_version")
# Of the tool's part of metadata.
_TIMES = ("at", "parked_until")


def claim_data(result: ClaimResult) -> dict[str, Any]:
    """Return the JSON of `claim`."""
    return {
        "outcome": result.outcome,
        "from": result.source,
        "session": session_data(result.session),
        "fence": result.session.session.fence,
        "evicted": session_data(result.evicted),
        "tombstone": tombstone_data(result.lost_before),
    }


def heartbeat_data(result: HeartbeatResult) -> dict[str, Any]:
    """Return the JSON of `heartbeat`."""
    return {
        "outcome": result.outcome,
        "from": result.source,
        "session": session_data(result.session),
        "tombstone": tombstone_data(result.tombstone),
    }


def here_data(result: HereResult) -> dict[str, Any]:
    """Return the JSON of `heartbeat --here`."""
    return {
        "renewed": result.renewed,
        "released": [session_data(verdict.session) for verdict in result.released],
        "refused": [_refusal_data(refusal) for refusal in result.refused],
    }


def release_data(result: ReleaseResult) -> dict[str, Any]:
    """Return the JSON of `release`."""
    return {"outcome": result.outcome, "session": session_data(result.session)}


def listing_data(listing: Listing) -> dict[str, Any]:
    """Return the JSON of `list`."""
    return {"sessions": [session_data(seen) for seen in listing.sessions], "total": listing.total}


def run_data(result: RunResult, lease: Lease) -> dict[str, Any]:
    """Return the JSON of `run`; its session is as it was when the command began."""
    return {
        "outcome": result.outcome,
        "exit_code": EXIT_NOT_HELD if result.lost else result.finished.code,
        "seconds": round(result.seconds, 3),
        "session": session_data(lease.held),
        "fence": lease.fence,
    }


def reap_data(result: ReapResult) -> dict[str, Any]:
    """Return the JSON of `reap`."""
    return {
        "dry_run": result.dry_run,
        "changed": [_verdict_data(verdict) for verdict in result.changed],
        "kept": [_verdict_data(verdict) for verdict in result.kept],
        "refused": [_refusal_data(refusal) for refusal in result.refused],
        "pruned": result.pruned,
        "referenced": result.referenced,
        "references": [_reference_data(reference) for reference in result.references],
    }


def _refusal_data(refusal: Refusal) -> dict[str, Any]:
    return {"session": session_data(refusal.session), "reason": refusal.reason}


def _reference_data(reference: Reference) -> dict[str, Any]:
    return {
        "table": reference.table,
        "on_delete": reference.on_delete,
        "through": reference.through,
        "sessions": reference.sessions,
    }


def _verdict_data(verdict: ReapVerdict) -> dict[str, Any]:
    return {
        "session": session_data(verdict.session),
        "to": verdict.to,
        "reason": verdict.reason,
        "evidence": verdict.evidence,
    }


def whoami_data(identity: Identity, found: Standings | None = None, asked: Asked | None = None) -> dict[str, Any]:
    """Return the JSON of `whoami`: the session, and what the database that was `asked` says of it."""
    anchor = identity.anchor
    return {
        **_identity_data(identity),
        "anchor": {"pid": anchor.pid, "program": anchor.program, "start": anchor.start} if anchor else None,
        "pid": identity.pid,
        "tty": identity.tty,
        "hostname": identity.host.hostname,
        "codebase": identity.codebase,
        "rules": [
            {"rule": rule.rule, "value": rule.value, "used": rule.used, "why": rule.why} for rule in identity.rules
        ],
        **_standing_data(found, asked),
    }


def status_data(identity: Identity, found: Standings | None, asked: Asked, around: Surroundings) -> dict[str, Any]:
    """Return the JSON of `status`."""
    ran = around.timer_ran
    return {
        **_identity_data(identity),
        **_standing_data(found, asked),
        "server_version": asked.server_version,
        "shell_hook": around.shell_hook,
        "agent_hooks": around.agent_hooks,
        "hooks_disabled_in": around.hooks_disabled_in,
        "state_error": around.state_error.message if around.state_error else None,
        "hook_ran_at": around.hook_ran_at,
        "timers": around.timers,
        "timer_ran_at": ran.at if ran else None,
        "timer_error": ran.error if ran else None,
        "completion": around.completion,
    }


def _identity_data(identity: Identity) -> dict[str, Any]:
    return {"session_id": identity.session_id, "id_from": identity.id_from}


def _standing_data(found: Standings | None, asked: Asked | None) -> dict[str, Any]:
    return {
        "session": session_data(found.session) if found else None,
        "lost": tombstone_data(found.lost) if found else None,
        "twin": found.is_twin if found else None,
        "others": [session_data(other) for other in found.others] if found else [],
        "database": {name: getattr(asked, name, None) for name in ("name", "source", "error")},
    }


def history_data(found: History) -> dict[str, Any]:
    """Return the JSON of `history`."""
    return {
        "name": found.name,
        "reader": found.reader,
        "terms": [{**asdict(term), "fence": fence_of(term.claimed_at)} for term in found.terms],
        "events": [asdict(event) for event in found.events],
    }


def timeline_data(found: Timeline) -> dict[str, Any]:
    """Return the JSON of `history --timeline`."""
    return {
        "since": found.since,
        "until": found.until,
        "items": [
            {"sd_id": sd_id, "spans": [{**asdict(span), "lost": span.is_lost} for span in spans]}
            for sd_id, spans in found.items.items()
        ],
    }


def session_data(seen: JudgedSession | None) -> dict[str, Any] | None:
    """Return the JSON of a session: its 14 columns and its judgement."""
    if seen is None:
        return None
    session = seen.session
    columns = {
        column.name: getattr(session, column.name) for column in fields(Session) if column.name not in _NOT_COLUMNS
    }
    return {
        **columns,
        "metadata": _with_times_in_utc(session.metadata),
        "label": seen.label.value,
        "state": seen.label.value,
        "note": session.note,
        "parked_until": session.parked_until,
        "liveness": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "claim_age_s": session.claim_age_s,
        "expires_in_s": seen.expires_in_s,
        "fence": session.fence,
    }


def _with_times_in_utc(metadata: Any) -> Any:
    """Return a row's metadata with the times of the tool's part as all others are printed, whoever wrote them."""
    own = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    return {**metadata, METADATA_KEY: _in_utc(own)} if isinstance(own, dict) else metadata


def _in_utc(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _in_utc(part, name) for name, part in value.items()}
    moment = to_time(value) if name in _TIMES else None
    return moment or value


def tombstone_data(tombstone: Tombstone | None) -> dict[str, Any] | None:
    """Return the JSON of a tombstone."""
    if tombstone is None:
        return None
    return {
        "sd_id": tombstone.sd_id,
        "fence": tombstone.fence,
        "at": tombstone.at,
        "reason": tombstone.reason,
        "by": tombstone.by,
        "note": tombstone.note,
        "new_fence": tombstone.new_fence,
    }


def json_value(value: object) -> object:
    """Return the JSON form of other values: times in UTC, the rest as text."""
    return utc(value) if isinstance(value, datetime) else str(value)
