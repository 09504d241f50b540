"""What is set up around the tool on this host: the shell's hook, agents' hooks, timers, completion."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from claude_sessions_cli import process, settings
from claude_sessions_cli.claude_code import settings_file
from claude_sessions_cli.embedded import cluster, server
from claude_sessions_cli.errors import SessionsError, Unreachable, UsageError
from claude_sessions_cli.identity import Identity
from claude_sessions_cli.operations.doctor import Finding, Verdict
from claude_sessions_cli.settings import Settings
from claude_sessions_cli.shell import rc_files
from claude_sessions_cli.timers import install, systemd, upkeep_log
from claude_sessions_cli.timers.upkeep_log import LastRun
from claude_sessions_cli.times import format_age

# A timer runs each minute.
TIMER_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is set up: `shell_hook` in the caller's shell, the rest for its user.

    `state_error` says why the state directory is not usable.
    `agent_hooks` are settings files, `hooks_disabled_in` is the one that turns all hooks off, `hook_ran_at` is when a
    hook ran last, `completion` are shells.
    """

    shell_hook: bool
    agent_hooks: list[str]
    hooks_disabled_in: str | None
    hook_ran_at: datetime | None
    timers: list[str]
    timer_ran: LastRun | None
    completion: list[str]
    state_error: UsageError | None


def look(environ: Mapping[str, str]) -> Surroundings:
    """Return what is set up for this process and its user."""
    directory, completion = None, []
    with suppress(UsageError):
        directory = settings.state_directory(environ)
    with suppress(UsageError):
        completion = rc_files.completed_shells(environ, settings.home_directory(environ))
    return Surroundings(
        shell_hook=_has_hook(environ),
        agent_hooks=[str(path) for path in settings_file.installed_in(environ)],
        hooks_disabled_in=str(off) if (off := settings_file.disabled_in(environ)) else None,
        hook_ran_at=_latest(directory / "agents") if directory else None,
        timers=_timers(environ),
        timer_ran=upkeep_log.last_run(directory) if directory else None,
        completion=completion,
        state_error=_state_error(environ),
    )


def _state_error(environ: Mapping[str, str]) -> UsageError | None:
    try:
        settings.usable_state_directory(environ)
    except UsageError as error:
        return error
    return None


def _has_hook(environ: Mapping[str, str]) -> bool:
    """Whether the shell of this command has the hook: it exports its own process."""
    _, pid, *_ = [*environ.get("CLAUDE_SESSIONS_SHELL", "").split(":"), ""]
    return pid.isdecimal() and int(pid) in {found.pid for found in process.lineage(os.getpid())}


def _latest(directory: Path) -> datetime | None:
    times = []
    with suppress(OSError):
        for path in directory.iterdir():
            with suppress(OSError):
                times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), timezone.utc) if times else None


def _timers(environ: Mapping[str, str]) -> list[str]:
    found = []
    for kind in install.KINDS:
        # A machine without cron has no crontab to ask.
        with suppress(SessionsError, OSError):
            if install.remove(kind, environ, dry_run=True).outcome == "removed":
                found.append(kind)
    return found


def diagnose(environ: Mapping[str, str], who: Identity, found: Settings | None) -> list[Finding]:
    """Return the outcome of each check of this host; without settings, of those that need none."""
    return [
        *_private_server(found),
        _session(who),
        *([_heartbeat(found)] if found else []),
        *describe(environ, who, look(environ)),
    ]


def _private_server(found: Settings | None) -> list[Finding]:
    is_used = found is not None and found.dsn is None
    try:
        state = server.status()
        newest = cluster.newest(cluster.installed())
    except (Unreachable, UsageError) as error:
        return [Finding("private server", Verdict.FAILURE, error.message, error.hint)] if is_used else []
    if not state.running:
        text = f"none runs in {state.data_dir}"
        return [Finding("private server", Verdict.WARNING, text, "claude-sessions db start")] if is_used else []
    age = format_age(_age(state.started_at)) if state.started_at else "an unknown time"
    text = f"Postgres {state.version} in {state.data_dir}, up for {age}{'' if is_used else '; not used here'}"
    if state.version and float(state.version) < int(newest):
        text = f"{text}; Postgres {newest} is installed"
        return [Finding("private server", Verdict.WARNING, text, "claude-sessions db upgrade")]
    return [Finding("private server", Verdict.OK, text)]


def _heartbeat(found: Settings) -> Finding:
    every, limit = format_age(found.heartbeat_every), format_age(found.stale_after)
    return Finding("heartbeat", Verdict.OK, f"each {every}; a claim lapses after {limit} of silence")


def describe(environ: Mapping[str, str], who: Identity, around: Surroundings) -> list[Finding]:
    """Return the outcome of each check of what is set up."""
    set_up = [_shell(around, who), _agent(environ, around), _timer(around), _completion(around)]
    if error := around.state_error:
        return [Finding("state", Verdict.WARNING, error.message, error.hint), *set_up]
    return set_up


def _session(who: Identity) -> Finding:
    if who.session_id:
        return Finding("session", Verdict.OK, who.session_id)
    text = "no rule finds the session of this process"
    return Finding("session", Verdict.WARNING, text, "claude-sessions whoami --explain")


def _shell(around: Surroundings, who: Identity) -> Finding:
    if around.shell_hook:
        return Finding("shell hook", Verdict.OK, "on in this shell")
    if who.anchor is None or who.anchor.tty is None:
        return Finding("shell hook", Verdict.SKIPPED, "this is no shell in a terminal")
    shell = who.anchor.program
    mend = 'eval "$(claude-sessions shell-init bash)" in ~/.bashrc'
    return Finding("shell hook", Verdict.WARNING, f"off in this {shell}: it sends no heartbeats", mend)


def _agent(environ: Mapping[str, str], around: Surroundings) -> Finding:
    if around.agent_hooks:
        last = around.hook_ran_at
        ran = f", last ran {format_age(_age(last))} ago" if last else ", not run yet"
        text = f"in {' and '.join(around.agent_hooks)}{ran}"
        if off := around.hooks_disabled_in:
            text = f"{text}; off: {off} sets {settings_file.OFF}"
            return Finding("agent hooks", Verdict.WARNING, text, f"remove {settings_file.OFF} from {off}")
        return Finding("agent hooks", Verdict.OK, text)
    if shutil.which("claude", path=environ.get("PATH")) is None:
        return Finding("agent hooks", Verdict.OK, "none; no Claude Code is on the PATH")
    text = "Claude Code has none: its sessions neither register nor end by themselves"
    return Finding("agent hooks", Verdict.WARNING, text, "claude-sessions install claude")


def _timer(around: Surroundings) -> Finding:
    usual = "claude-sessions install cron"
    if not around.timers:
        return Finding("timer", Verdict.WARNING, "none: only commands reap on this host", usual)
    names = " and ".join(around.timers)
    last = around.timer_ran
    again = f"claude-sessions install {around.timers[0]}"
    if last is None:
        return Finding("timer", Verdict.WARNING, f"{names}: it has not run yet", again)
    age = _age(last.at)
    if age > TIMER_LIMIT_S:
        return Finding("timer", Verdict.WARNING, f"{names}: it last ran {format_age(age)} ago", again)
    if last.error:
        return Finding(
            "timer", Verdict.WARNING, f"{names}: its last run failed: {last.error}", "claude-sessions upkeep"
        )
    if "systemd" in around.timers and (limit := systemd.limit_of_user()):
        text, _, mend = limit.partition("; to run it always: ")
        return Finding("timer", Verdict.WARNING, f"{names}: {text}", mend)
    return Finding("timer", Verdict.OK, f"{names}, last ran {format_age(age)} ago")


def _age(moment: datetime) -> float:
    """Return the seconds since a time of this host."""
    return max(0.0, time.time() - moment.timestamp())


def _completion(around: Surroundings) -> Finding:
    return Finding("completion", Verdict.OK, " and ".join(around.completion) or "not installed")
