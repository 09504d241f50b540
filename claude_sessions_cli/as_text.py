"""Results as the lines that people read. The printer cleans each line: a value in it never begins another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from claude_sessions_cli import table
from claude_sessions_cli.errors import SessionsError, Unreachable
from claude_sessions_cli.names import nfc
from claude_sessions_cli.operations.tombstones import describe, place_of
from claude_sessions_cli.settings import Asked, rule_words
from claude_sessions_cli.text import align, labelled
from claude_sessions_cli.times import format_age, to_second, to_time

if TYPE_CHECKING:
    from claude_sessions_cli.claude_code.settings_file import Merged
    from claude_sessions_cli.embedded.server import Status
    from claude_sessions_cli.embedded.upgrade import Upgrade
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.operations.claim import ClaimResult
    from claude_sessions_cli.operations.doctor import Finding
    from claude_sessions_cli.operations.heartbeat import HeartbeatResult
    from claude_sessions_cli.operations.heartbeat_here import HereResult
    from claude_sessions_cli.operations.history import History
    from claude_sessions_cli.operations.list import Filters, Listing
    from claude_sessions_cli.operations.prune import Reference
    from claude_sessions_cli.operations.reap import ReapResult, ReapVerdict
    from claude_sessions_cli.operations.refusals import Refusal
    from claude_sessions_cli.operations.release import ReleaseResult
    from claude_sessions_cli.operations.schema import AppliedFile, Inspection
    from claude_sessions_cli.operations.version import Versions
    from claude_sessions_cli.operations.whoami import Standings
    from claude_sessions_cli.removal import Removal
    from claude_sessions_cli.timers.job import TimerResult


# The limit that decides on a session, as reap names it.
LIMITS = {
    "recorded": "its own stale_after",
    "stale_after": "stale_after",
    "max_age": "max age",
    "stale": "staleness",
}


def claim_text(result: ClaimResult) -> list[str]:
    """Return the line of `claim`."""
    session = result.session.session
    words = {
        "claimed": "claimed",
        "already_yours": "already yours:",
        "took_over": "took over",
        "forced": "took by force",
        "switched": "switched to",
        "moved": "moved here:",
        "continued": "continued:",
    }
    line = f"{words[result.outcome]} {session.sd_id}"
    line += f" (track {session.track})" if session.track else ""
    if result.evicted:
        evicted = result.evicted.session
        line += f" from {evicted.session_id} (last heartbeat {format_age(evicted.heartbeat_age_s)} ago)"
    return [f"{line}, fence {session.fence}"]


def heartbeat_text(result: HeartbeatResult) -> list[str]:
    """Return the line of `heartbeat`."""
    session = result.session.session
    holding = f", holding {session.sd_id}" if session.sd_id else ""
    if session.sd_id and session.fence and (result.new_fence or result.outcome in ("moved", "continued")):
        holding = f", holding {session.sd_id} under the new fence {session.fence}"
    if result.outcome == "restored":
        holding = f", {session.sd_id} is yours again, fence {session.fence}"
    return [f"{result.outcome} {session.session_id}{holding}"]


def here_text(result: HereResult) -> list[str]:
    """Return how many sessions live, and a line for each that does not."""
    renewed = f"renewed {result.renewed} session{'' if result.renewed == 1 else 's'}"
    return [renewed, *here_released_text(result)]


def here_released_text(result: HereResult) -> list[str]:
    """Return a line for each session that `heartbeat --here` has released."""
    return [_verdict_head(verdict, "released") for verdict in result.released]


def refused_lines(refused: Iterable[Refusal]) -> list[str]:
    """Return a line for each row that the table refuses to change: session, item, and what the table says."""
    return [
        f"refused {seen.session_id}{f' {seen.sd_id}' if seen.sd_id else ''}: {refusal.reason}"
        for refusal in refused
        for seen in [refusal.session.session]
    ]


def release_text(result: ReleaseResult) -> list[str]:
    """Return the line of `release`."""
    if result.outcome == "nothing_held":
        return ["nothing held"]
    released = f"released {result.sd_id}" if result.sd_id else ""
    if result.of_another and result.session:
        released += f" of {result.session.session.session_id}"
    ended = f"ended {result.session.session.session_id}" if result.outcome == "ended" and result.session else ""
    return [", ".join(part for part in (released, ended) if part)]


def listing_footer(listing: Listing, source: str) -> str:
    """Return what stands below a list on a terminal: how many of each state there are, and in which database."""
    counts = ", ".join(f"{number} {state}" for state, number in listing.counts.items())
    return f"{counts or 'no sessions'} ({source})"


def free_items(listing: Listing, filters: Filters) -> list[str]:
    """Return a line for each item that was asked for and has no holder, or that no session fits."""
    held = {nfc(seen.session.sd_id) for seen in listing.sessions if seen.session.sd_id}
    # Of other filters, the absence of a row says nothing of its item.
    if filters.sd_ids and filters.asks_items_alone:
        return [f"{item} is free" for item in filters.sd_ids if nfc(item) not in held]
    return [] if listing.sessions else ["no sessions"]


def reap_text(result: ReapResult) -> list[str]:
    """Return a line for each row that changed, or would, and for those that were kept, if the result has them."""
    would = "would be " if result.dry_run else ""
    lines = [_verdict_line(verdict, f"{would}{verdict.to}") for verdict in result.changed]
    lines += [_verdict_line(verdict, "kept") for verdict in result.kept]
    return [*lines, *_prune_lines(result)]


def _prune_lines(result: ReapResult) -> list[str]:
    lines = []
    if result.pruned:
        lines.append(f"{'would delete' if result.dry_run else 'deleted'} {_released_sessions(result.pruned)}")
    if result.referenced:
        kept = "would keep" if result.dry_run else "kept"
        keeping = [
            _reference_words(found)
            for found in result.references
            if found.sessions != 0 and not (result.cascade and found.writes)
        ]
        tables = f": {', '.join(keeping)}" if keeping else ""
        lines.append(f"{kept} {_released_sessions(result.referenced)} that other tables refer to{tables}")
        if not result.cascade and (losing := [found for found in result.references if found.writes]):
            names = ", ".join(dict.fromkeys(found.table for found in losing))
            lines.append(f"to delete them and change {names}: add --cascade")
    return lines


def cascade_text(references: Sequence[Reference]) -> str:
    """Return which tables `reap --prune --cascade` changes."""
    return "deleting sessions also changes " + ", ".join(_reference_words(reference) for reference in references)


def _released_sessions(number: int) -> str:
    return f"{number} released session{'' if number == 1 else 's'}"


def _reference_words(reference: Reference) -> str:
    facts = [str(reference.sessions)] if reference.sessions else []
    if reference.sessions is None and reference.through is None:
        facts.append("this role may not read it")
    facts.append(f"ON DELETE {reference.on_delete.upper()}")
    if reference.through:
        facts.append(f"through {reference.through}")
    return f"{reference.table} ({', '.join(facts)})"


def _verdict_line(verdict: ReapVerdict, word: str) -> str:
    evidence = verdict.evidence
    facts = [
        f"process {evidence['process']}",
        f"heartbeat {format_age(evidence['heartbeat_age_s'])} ago",
        *([f"limit {format_age(evidence['limit_s'])} of {LIMITS[evidence['limit']]}"] if evidence["limit"] else []),
        f"host {evidence['hostname'] or '-'}",
        f"boot {evidence['boot']}",
    ]
    if parked_until := to_time(evidence["parked_until"]):
        facts.append(f"parked until {to_second(parked_until)}")
    return f"{_verdict_head(verdict, word)} ({', '.join(facts)})"


def _verdict_head(verdict: ReapVerdict, word: str) -> str:
    held = f" {verdict.evidence['sd_id']}" if verdict.evidence.get("sd_id") else ""
    return f"{word} {verdict.session.session.session_id}{held}: {verdict.reason}"


def whoami_text(
    identity: Identity,
    explain: bool,
    found: Standings | None = None,
    asked: Asked | None = None,
) -> list[str]:
    """Return the lines of `whoami`: the session, and what the database says of it, or why it was not asked."""
    anchor = f"{identity.anchor.program} (pid {identity.anchor.pid})" if identity.anchor else None
    facts = {
        "session": identity.session_id,
        "anchor": anchor,
        "tty": identity.tty,
        "hostname": identity.host.hostname,
        "codebase": identity.codebase,
        "branch": identity.branch,
        **_standing_facts(found),
        **_database_facts(asked),
    }
    if not explain:
        return align([(f"{name}:", value or "-") for name, value in facts.items()])
    rows = [("USED", "RULE", "VALUE")]
    rows += [("yes" if r.used else "-", r.rule, r.value or f"({r.why})") for r in identity.rules]
    rows += [("yes", name, value or "-") for name, value in facts.items() if name not in ("session", "anchor")]
    return align(rows)


def status_text(
    identity: Identity,
    found: Standings | None,
    asked: Asked,
    error: SessionsError | None,
    around: Sequence[Finding],
    columns: int,
) -> list[str]:
    """Return the lines of `status`: the session, the database or that it gave no answer, and what is set up."""
    anchor = f" ({identity.anchor.program}, pid {identity.anchor.pid})" if identity.anchor else ""
    who = f"{identity.session_id}{anchor}" if identity.session_id else "none (claude-sessions whoami --explain)"
    facts: dict[str, str | None] = {"session": who, **(_standing_facts(found) if identity.session_id else {})}
    if asked.is_stopped and asked.source:
        facts["database"] = f"not asked: {asked.error} ({rule_words(asked.source)})"
    elif error:
        answer = "no answer" if isinstance(error, Unreachable) else "not usable"
        facts["database"] = f"{answer}, {rule_words(asked.source)}" if asked.source else answer
    else:
        facts["database"] = _asked_words(asked)
        facts["server"] = f"Postgres {asked.server_version}"
    facts |= {finding.check: finding.text for finding in around}
    return labelled([(f"{name}:", str(value)) for name, value in facts.items()], columns)


def _database_facts(asked: Asked | None) -> dict[str, str | None]:
    """Return which database answered and which rule chose it, or why it did not."""
    if asked is None:
        return {}
    return {"database": f"not asked: {asked.error}" if asked.error else _asked_words(asked)}


def _asked_words(asked: Asked) -> str:
    return f"{asked.name}, {rule_words(str(asked.source))}"


def _standing_facts(found: Standings | None) -> dict[str, str | None]:
    """Return what the database says of a session, as names and words."""
    if found is None:
        return {}
    session = found.session.session if found.session else None
    held = f"{session.sd_id} for {format_age(session.claim_age_s)}, fence {session.fence}" if session else ""
    if session and (parked := session.parked_until):
        held += f", parked for {format_age((parked - session.server_now).total_seconds())} more"
    facts: dict[str, str | None] = {"holds": held if session and session.holds else "nothing"}
    if session is None:
        facts["holds"] = "nothing: it is not registered"
    if session and found.is_twin:
        facts["holds"] = "nothing: its id is open in another process" + place_of(session)
    if found.lost:
        facts["lost"] = describe(found.lost).removeprefix("lost ")
    if found.others:
        facts["also"] = ", ".join(f"{other.session.session_id} holds {other.session.sd_id}" for other in found.others)
    return facts


def history_tables(found: History) -> list[tuple[table.Table, table.Layout]]:
    """Return the terms of a work item or a session, and a session's events."""
    terms = [table.of_terms(found.terms, found.reader, found.name)] if found.terms else []
    events = [table.of_events(found.events, found.reader)] if found.events else []
    return [*terms, *events]


def timer_text(result: TimerResult) -> list[str]:
    """Return the outcome for a timer, or the plan of a dry run."""
    if not result.dry_run:
        idle = "" if result.runs else ", but nothing runs it yet"
        return [f"{result.timer}: {result.outcome.replace('_', ' ')}{idle}"]
    if result.outcome == "not_installed":
        return [f"{result.timer}: not installed"]
    verb = "would remove claude-sessions' part from" if result.outcome == "removed" else "would write to"
    if result.outcome == "already_installed":
        verb = "is already in"
    return [
        line
        for write in result.writes
        for line in (f"{verb} {write.to}{':' if write.text else ''}", *write.text.splitlines())
    ]


def merged_text(result: Merged, entries: Mapping[str, str]) -> list[str]:
    """Return the outcome for an agent's settings file, or the plan of a dry run."""
    if not result.dry_run:
        words = {"installed": "installed in", "already_installed": "already installed in", "removed": "removed from"}
        backup = f" (backup: {result.backup})" if result.backup else ""
        return [f"{result.agent}: {words.get(result.outcome, 'not installed in')} {result.file}{backup}"]
    verbs = {"installed": "would write to", "already_installed": "is already in", "removed": "would be removed from"}
    lines = [f"{verbs.get(result.outcome, 'is not in')} {result.file}"]
    return [*lines, *(f"  {name}: {command}" for name, command in entries.items())]


def plugin_text(directory: str) -> list[str]:
    """Return how to add the plugin to Claude Code."""
    return [
        "In Claude Code, or with `claude` before each line instead of the slash:",
        f"  /plugin marketplace add {directory}",
        "  /plugin install work-claims@work-claims",
        "The plugin has no status line and no guard. Both are in the settings: claude-sessions install claude",
    ]


def applied_text(applied: Sequence[AppliedFile], granted: str | None) -> list[str]:
    """Return what `schema apply` did, a line for each object it made or removed, and which role it granted rights."""
    lines = []
    for file in applied:
        changes = [
            _counted(verb, found) for verb, found in (("created", file.created), ("removed", file.removed)) if found
        ]
        if file.differences:
            changes.append(f"left {len(file.differences)} that differ{'s' if len(file.differences) == 1 else ''}")
        lines.append(f"{file.file}: {', '.join(changes) or 'already in force'}")
        lines += [f"  {made.kind} {made.name}" for made in file.created]
        lines += [f"  removed {made.kind} {made.name}" for made in file.removed]
        for found in file.differences:
            lines += [f"  {found.difference} {found.kind} {found.name}", f"    mend: {found.mend}"]
    return [*lines, f"granted to {granted}: what the commands need"] if granted else lines


def _counted(verb: str, found: Sequence[object]) -> str:
    return f"{verb} {len(found)} object{'' if len(found) == 1 else 's'}"


def inspection_lines(inspection: Inspection) -> list[str]:
    """Return a line for each optional file in force, each other role that may write, and each difference."""
    lines = [f"{optional.file} is in force" for optional in inspection.optional if optional.in_force]
    lines += [
        f"writer {writer.role}: {', '.join(writer.deeds)} on {writer.object}"
        for writer in inspection.writers
        if writer.is_expected
    ]
    for found in inspection.differences:
        line = f"{found.difference} {found.kind} {found.name}"
        if found.difference == "missing":
            line += f" (of {found.file})"
        elif found.difference == "changed":
            line += f": {found.found}, expected {found.expected}"
        else:
            line += f": {found.found}"
        lines.append(line)
        if found.mend:
            lines.append(f"  mend: {found.mend}")
    return lines


# By the value of a Verdict, whose module only `doctor` needs.
MARKS = {"ok": "OK", "warning": "WARNING", "failure": "FAILURE", "skipped": "-"}


def findings_text(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each check of `doctor`, and one below it for what mends it."""
    lines = []
    for found in findings:
        lines.append(f"{MARKS[found.verdict.value]:8} {found.check}: {found.text}")
        if found.mend and found.verdict != "ok":
            lines.append(f"{'':8} mend: {found.mend}")
    return lines


def shipped_line(inspection: Inspection) -> str:
    """Return the last line of a `schema check` that found nothing wrong."""
    writers = [writer.role for writer in inspection.writers if writer.object == "claude_sessions"]
    if "anon" not in writers and "PUBLIC" not in writers:
        return "the table is as shipped"
    everybody = "everybody" if "PUBLIC" in writers else "anon, which is everybody without a login,"
    return (
        f"the table is as shipped, and {everybody} may write it (close it: claude-sessions schema apply"
        " --optional least_privilege)"
    )


def removals_text(removals: Sequence[Removal], dry_run: bool) -> list[str]:
    """Return a line for each thing that `uninstall` took away, or would."""
    from claude_sessions_cli.removal import SERVER

    lines = []
    for one in removals:
        done, would = ("stopped the", "would stop the") if one.what == SERVER else ("removed", "would remove")
        verb = "left" if one.left else would if dry_run else done
        note = f": {one.note}" if one.note else ""
        lines.append(f"{verb} {one.what} in {one.place}{note}")
    return lines or ["nothing is installed"]


def server_text(status: Status, *, in_use: bool, source: str | None, problem: str | None) -> list[str]:
    """Return the lines of `db status`; `source` is the rule that chose a database here, `problem` why none did."""
    other = problem or f"commands use the database of {source}"
    facts = {
        "running": f"yes, pid {status.pid}" if status.running else "no, by db stop" if status.stopped else "no",
        "in use": "yes: no other database is configured" if in_use else f"no: {other}",
        "version": status.version,
        "data": status.data_dir,
        "socket": status.socket_dir,
        "log": status.log,
    }
    return align([(f"{name}:", str(value or "-")) for name, value in facts.items()])


def versions_text(found: Versions, columns: int) -> list[str]:
    """Return the lines of `version --verbose`."""
    facts = {
        "claude-sessions": found.version,
        "Python": f"{found.python}, {found.executable}",
        "psycopg": found.psycopg,
        "libpq": found.libpq,
        "private Postgres": " and ".join(found.embedded) or "not installed (the extra `embedded` has it)",
        "platform": found.platform,
        "SQL": found.sql,
    }
    return labelled([(f"{name}:", value) for name, value in facts.items()], columns)


def upgrade_text(done: Upgrade) -> list[str]:
    """Return the line of `db upgrade`."""
    if done.kept is None:
        return [f"Postgres {done.after} is the newest one that is installed: nothing to upgrade"]
    return [f"upgraded from Postgres {done.before} to {done.after}; the old cluster is kept in {done.kept}"]
