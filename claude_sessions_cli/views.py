"""Results as data and as text: what JSON shows, and the lines that people read.

Text from the database is stripped of control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.model import (
    PROCESS_GONE,
    ClaimResult,
    HeartbeatResult,
    JudgedSession,
    Listing,
    ReleaseResult,
    Session,
    Tombstone,
)
from claude_sessions_cli.text import align, clean
from claude_sessions_cli.times import fence_of, format_age, utc

if TYPE_CHECKING:
    from claude_sessions_cli.embedded.server import Status
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.operations.heartbeat_here import HereResult
    from claude_sessions_cli.operations.history import History, SessionEvent, Term
    from claude_sessions_cli.operations.reap import ReapResult, ReapVerdict
    from claude_sessions_cli.operations.schema import AppliedFile, Difference
    from claude_sessions_cli.timers.job import TimerResult

NOT_A_COLUMN = ("server_now", "row_version")


def claim_data(result: ClaimResult) -> dict[str, Any]:
    """Return the JSON of `claim`."""
    return {
        "outcome": result.outcome,
        "session": session_data(result.session),
        "fence": result.session.session.fence,
        "evicted": session_data(result.evicted),
        "tombstone": tombstone_data(result.lost_before),
    }


def claim_text(result: ClaimResult) -> str:
    """Return the line of `claim`."""
    session = result.session.session
    words = {
        "claimed": "claimed",
        "already_yours": "already yours:",
        "took_over": "took over",
        "forced": "took by force",
        "switched": "switched to",
    }
    line = f"{words[result.outcome]} {session.sd_id}"
    line += f" (track {session.track})" if session.track else ""
    if result.evicted:
        evicted = result.evicted.session
        line += f" from {evicted.session_id} (last heartbeat {format_age(evicted.heartbeat_age_s)} ago)"
    return f"{line}, fence {session.fence}\n"


def heartbeat_data(result: HeartbeatResult) -> dict[str, Any]:
    """Return the JSON of `heartbeat`."""
    return {
        "outcome": result.outcome,
        "session": session_data(result.session),
        "tombstone": tombstone_data(result.tombstone),
    }


def heartbeat_text(result: HeartbeatResult) -> str:
    """Return the line of `heartbeat`."""
    session = result.session.session
    holding = f", holding {session.sd_id}" if session.sd_id else ""
    if result.outcome == "restored":
        holding = f", {session.sd_id} is yours again, fence {session.fence}"
    return f"{result.outcome} {session.session_id}{holding}\n"


def here_data(result: HereResult) -> dict[str, Any]:
    """Return the JSON of `heartbeat --here`."""
    return {"renewed": result.renewed, "released": [session_data(released) for released in result.released]}


def here_text(result: HereResult) -> str:
    """Return how many sessions live, and a line for each that does not."""
    renewed = f"renewed {result.renewed} session{'' if result.renewed == 1 else 's'}\n"
    return renewed + here_released_text(result)


def here_released_text(result: HereResult) -> str:
    """Return a line for each session that `heartbeat --here` has released."""
    return "".join(f"released {released.session.session_id}: {PROCESS_GONE}\n" for released in result.released)


def timer_data(result: TimerResult) -> dict[str, Any]:
    """Return the JSON of `install` of a timer."""
    return asdict(result)


def timer_text(result: TimerResult) -> str:
    """Return what became of a timer; of a dry run, what it would write."""
    if not result.dry_run:
        return f"{result.timer}: {result.outcome.replace('_', ' ')}\n"
    if result.outcome == "not_installed":
        return f"{result.timer}: not installed\n"
    verb = "would take away what is claude-sessions' in" if result.outcome == "removed" else "would write to"
    if result.outcome == "already_installed":
        verb = "is already in"
    return "\n".join(f"{verb} {write.to}{':' if write.text else ''}\n{write.text}" for write in result.writes)


def release_data(result: ReleaseResult) -> dict[str, Any]:
    """Return the JSON of `release`."""
    return {"outcome": result.outcome, "session": session_data(result.session)}


def release_text(result: ReleaseResult) -> str:
    """Return the line of `release`."""
    if result.outcome == "nothing_held":
        return "nothing held\n"
    released = f"released {result.sd_id}" if result.sd_id else ""
    ended = f"ended {result.session.session.session_id}" if result.outcome == "ended" and result.session else ""
    return ", ".join(part for part in (released, ended) if part) + "\n"


def listing_data(listing: Listing) -> dict[str, Any]:
    """Return the JSON of `list`."""
    return {"sessions": [session_data(seen) for seen in listing.sessions], "total": listing.total}


def listing_rows(listing: Listing) -> list[tuple[str, ...]]:
    """Return the cells of `list`."""
    return [
        _cells(
            seen.label.value,
            seen.session.sd_id,
            seen.session.track,
            seen.session.session_id,
            seen.session.hostname,
            (seen.session.tty or "").removeprefix("/dev/"),
            seen.session.pid,
            seen.session.codebase,
            format_age(seen.session.claim_age_s),
            format_age(seen.session.heartbeat_age_s),
        )
        for seen in listing.sessions
    ]


def reap_data(result: ReapResult) -> dict[str, Any]:
    """Return the JSON of `reap`."""
    return {
        "dry_run": result.dry_run,
        "changed": [_verdict_data(verdict) for verdict in result.changed],
        "kept": [_verdict_data(verdict) for verdict in result.kept],
        "pruned": result.pruned,
    }


def reap_text(result: ReapResult, explain: bool) -> str:
    """Return a line for each row that changed, or would; with `explain` the kept ones too."""
    would = "would be " if result.dry_run else ""
    lines = [_verdict_line(verdict, f"{would}{verdict.to}") for verdict in result.changed]
    if explain:
        lines += [_verdict_line(verdict, "kept") for verdict in result.kept]
    if result.pruned:
        deleted = "would delete" if result.dry_run else "deleted"
        lines.append(f"{deleted} {result.pruned} released session{'s' if result.pruned > 1 else ''}")
    return "".join(line + "\n" for line in lines)


def whoami_data(identity: Identity) -> dict[str, Any]:
    """Return the JSON of `whoami`."""
    anchor = identity.anchor
    return {
        "session_id": identity.session_id,
        "anchor": {"pid": anchor.pid, "program": anchor.program, "start": anchor.start} if anchor else None,
        "pid": identity.pid,
        "tty": identity.tty,
        "hostname": identity.host.hostname,
        "codebase": identity.codebase,
        "rules": [
            {"rule": rule.rule, "value": rule.value, "used": rule.used, "why": rule.why} for rule in identity.rules
        ],
    }


def whoami_text(identity: Identity, explain: bool) -> str:
    """Return the lines of `whoami`."""
    anchor = f"{identity.anchor.program} (pid {identity.anchor.pid})" if identity.anchor else None
    facts = {
        "session": identity.session_id,
        "anchor": anchor,
        "tty": identity.tty,
        "hostname": identity.host.hostname,
        "codebase": identity.codebase,
        "branch": identity.branch,
    }
    if not explain:
        return align([(f"{name}:", clean(value) if value else "-") for name, value in facts.items()])
    rows = [("USED", "RULE", "VALUE")]
    rows += [("yes" if r.used else "-", r.rule, clean(r.value) if r.value else f"({r.why})") for r in identity.rules]
    rows += [
        ("yes", name, clean(value) if value else "-")
        for name, value in facts.items()
        if name not in ("session", "anchor")
    ]
    return align(rows)


def history_data(found: History) -> dict[str, Any]:
    """Return the JSON of `history`."""
    return {
        "name": found.name,
        "terms": [{**asdict(term), "fence": fence_of(term.claimed_at)} for term in found.terms],
        "events": [asdict(event) for event in found.events],
    }


def history_text(found: History) -> str:
    """Return the terms of a work item or a session, and a session's events, as aligned lines."""
    parts = []
    if found.terms:
        rows: list[tuple[str, ...]] = [("SD", "SESSION", "HOST", "FROM", "TO", "ENDED", "BY")]
        rows += [_term_cells(term) for term in found.terms]
        parts.append(align(rows))
    if found.events:
        rows = [("AT", "EVENT", "SD", "REASON", "BY")]
        rows += [_event_cells(event) for event in found.events]
        parts.append(align(rows))
    return "\n".join(parts)


def _term_cells(term: Term) -> tuple[str, ...]:
    ended = f"{term.reason}{f' ({term.note})' if term.note else ''}" if term.ended_at else None
    by = _actor(term.ended_by, term.ended_from, term.actor_program, term.actor_role) if term.ended_at else None
    to = _to_second(term.ended_at) if term.ended_at else "now"
    return _cells(term.sd_id, term.session_id, term.hostname, _to_second(term.began_at), to, ended, by)


def _event_cells(event: SessionEvent) -> tuple[str, ...]:
    by = _actor(event.actor_session, event.actor_host, event.actor_program, event.actor_role)
    reason = f"{event.reason}{f' ({event.note})' if event.note else ''}" if event.reason else None
    return _cells(_to_second(event.at), event.event, event.sd_id, reason, by)


def _actor(session: str | None, host: str | None, program: str | None, role: str | None) -> str:
    who = session or " as ".join(part for part in (program, role) if part) or "-"
    return f"{who} on {host}" if host else who


def _to_second(moment: datetime) -> str:
    return utc(moment.replace(microsecond=0))


def _cells(*values: object) -> tuple[str, ...]:
    return tuple(clean(str(value)) if value not in (None, "") else "-" for value in values)


def applied_data(applied: Sequence[AppliedFile]) -> dict[str, Any]:
    """Return the JSON of `schema apply`."""
    return {"files": [asdict(file) for file in applied]}


def applied_text(applied: Sequence[AppliedFile]) -> str:
    """Return what `schema apply` did, a line for each object it made."""
    lines = []
    for file in applied:
        lines.append(f"{file.file}: {f'created {len(file.created)} objects' if file.created else 'already in force'}")
        lines += [f"  {made.kind} {made.name}" for made in file.created]
    return "\n".join(lines) + "\n"


def difference_data(differences: Sequence[Difference]) -> dict[str, Any]:
    """Return the JSON of `schema check`."""
    return {"differences": [asdict(found) for found in differences]}


def server_data(status: Status) -> dict[str, Any]:
    """Return the JSON of `db status`."""
    return asdict(status)


def server_text(status: Status) -> str:
    """Return the lines of `db status`."""
    facts = {
        "running": f"yes, pid {status.pid}" if status.running else "no",
        "version": status.version,
        "data": status.data_dir,
        "socket": status.socket_dir,
        "log": status.log,
    }
    return align([(f"{name}:", str(value or "-")) for name, value in facts.items()])


def difference_lines(differences: Iterable[Difference]) -> list[str]:
    """Return a line for each difference of `schema check`."""
    lines = []
    for found in differences:
        line = f"{found.difference} {found.kind} {found.name}"
        if found.difference == "missing":
            line += f" (of {found.file})"
        elif found.difference == "changed":
            line += f": {found.found}, expected {found.expected}"
        lines.append(line)
    return lines


def session_data(seen: JudgedSession | None) -> dict[str, Any] | None:
    """Return the JSON of a session: its 14 columns and what is known of it."""
    if seen is None:
        return None
    session = seen.session
    columns = {
        column.name: getattr(session, column.name) for column in fields(Session) if column.name not in NOT_A_COLUMN
    }
    return {
        **columns,
        "label": seen.label.value,
        "liveness": seen.liveness.value,
        "heartbeat_age_s": session.heartbeat_age_s,
        "claim_age_s": session.claim_age_s,
        "expires_in_s": seen.expires_in_s,
        "fence": session.fence,
    }


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
    """Return the JSON form of what JSON does not know: times in UTC, anything else as its text."""
    return utc(value) if isinstance(value, datetime) else str(value)


def _verdict_data(verdict: ReapVerdict) -> dict[str, Any]:
    return {
        "session": session_data(verdict.session),
        "to": verdict.to,
        "reason": verdict.reason,
        "evidence": verdict.evidence,
    }


def _verdict_line(verdict: ReapVerdict, word: str) -> str:
    evidence = verdict.evidence
    facts = [
        f"process {evidence['process']}",
        f"heartbeat {format_age(evidence['heartbeat_age_s'])} ago",
        f"limit {format_age(evidence['patience_s'])}",
        f"host {evidence['hostname'] or '-'}",
        f"boot {evidence['boot']}",
    ]
    if evidence["parked_until"]:
        facts.append(f"parked until {evidence['parked_until']}")
    held = f" {evidence['sd_id']}" if evidence.get("sd_id") else ""
    return f"{word} {verdict.session.session.session_id}{held}: {verdict.reason} ({', '.join(facts)})"
