"""A timer of this user's systemd."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.settings import home_directory
from claude_sessions_cli.timers import unit_files
from claude_sessions_cli.timers.job import Job, TimerResult

HELP = "Add a timer to this user's systemd"
PLATFORM: str | None = "linux"
# A file for each user whose services run without a login.
LINGER = Path("/var/lib/systemd/linger")
SERVICE, TIMER = "claude-sessions.service", "claude-sessions.timer"
SYSTEMCTL = ("systemctl", "--user")
RELOAD = [*SYSTEMCTL, "daemon-reload"]


def install(job: Job, environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Install the units, or update them, and start the timer."""
    commands = [RELOAD, [*SYSTEMCTL, "enable", "--now", TIMER]]
    return unit_files.install("systemd", _units(job, environ), commands, dry_run=dry_run, limit=limit_of_user())


def limit_of_user() -> str | None:
    """Return when a timer of this user does not run: without linger, systemd ends it with the last login."""
    user = files.account_name(os.geteuid())
    if (LINGER / user).exists():
        return None
    return f"it runs only while {user} is logged in; to run it always: loginctl enable-linger {user}"


def remove(environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Stop the timer and delete the units."""
    place = _directory(environ)
    # systemctl made the link to enable the timer; it deletes it only if systemd can be reached.
    paths = [place / SERVICE, place / TIMER, place / "timers.target.wants" / TIMER]
    return unit_files.remove(
        "systemd",
        paths,
        [*SYSTEMCTL, "disable", "--now", TIMER],
        home_directory(environ),
        reload=[RELOAD],
        stop_without_file=[*SYSTEMCTL, "stop", TIMER],
        dry_run=dry_run,
    )


def _directory(environ: Mapping[str, str]) -> Path:
    config = environ.get("XDG_CONFIG_HOME") or home_directory(environ) / ".config"
    return Path(config) / "systemd" / "user"


def _units(job: Job, environ: Mapping[str, str]) -> dict[Path, bytes]:
    program, *rest = job.words
    # systemd expands a dollar sign in the arguments, but not in the path of the program.
    command = " ".join([_quote(program), *(_quote(word).replace("$", "$$") for word in rest)])
    variables = "".join(f"Environment={_quote(f'{name}={value}')}\n" for name, value in job.variables.items())
    service = (
        f"[Unit]\nDescription=claude-sessions {job.work}\n\n"
        f"[Service]\nType=oneshot\n{variables}ExecStart={command}\nTimeoutStartSec=55\n"
    )
    timer = (
        f"[Unit]\nDescription=claude-sessions {job.work}, each minute\n\n"
        "[Timer]\nOnCalendar=minutely\nAccuracySec=5s\n\n[Install]\nWantedBy=timers.target\n"
    )
    place = _directory(environ)
    return {place / SERVICE: os.fsencode(service), place / TIMER: os.fsencode(timer)}


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
