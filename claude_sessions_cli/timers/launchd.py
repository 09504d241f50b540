"""A launch agent of this user, on macOS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from claude_sessions_cli.settings import home_directory
from claude_sessions_cli.timers import unit_files
from claude_sessions_cli.timers.job import Job, TimerResult

HELP = "Add a launch agent of this user"
PLATFORM: str | None = "darwin"
LABEL = "claude-sessions.upkeep"


def install(job: Job, environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Install the agent, or update it, and start it."""
    path = _path(environ)
    start = ["launchctl", "bootstrap", f"gui/{os.getuid()}", str(path)]
    return unit_files.install("launchd", {path: _agent(job)}, [_stop(), start], dry_run=dry_run)


def remove(environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Stop the agent and delete it."""
    home = home_directory(environ)
    return unit_files.remove("launchd", [_path(environ)], _stop(), home, stop_without_file=_stop(), dry_run=dry_run)


def _path(environ: Mapping[str, str]) -> Path:
    return home_directory(environ) / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def _agent(job: Job) -> bytes:
    import plistlib  # late: only this kind needs it

    agent = {
        "Label": LABEL,
        "ProgramArguments": list(job.words),
        "EnvironmentVariables": dict(job.variables),
        "StartInterval": 60,
        "RunAtLoad": True,
        "ProcessType": "Background",
        "StandardOutPath": str(job.log),
        "StandardErrorPath": str(job.log),
    }
    return plistlib.dumps(agent)


def _stop() -> list[str]:
    return ["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"]
