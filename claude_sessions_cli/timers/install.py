"""The kinds of timers, and what they share: a job is planned first, and its directory exists."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from claude_sessions_cli import files
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.timers import cron, launchd, systemd
from claude_sessions_cli.timers.job import Job, TimerResult


class Kind(Protocol):
    """A module that installs and removes one kind of timer.

    `HELP` begins the help of its command. `PLATFORM` is the only one that runs it, in the words of sys.platform; None
    for any.
    """

    HELP: str
    PLATFORM: str | None

    def install(self, job: Job, environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
        """Install the timer, or update it. A dry run writes nothing. Raises OSError if a file cannot be written."""

    def remove(self, environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
        """Remove the timer, and nothing else. A dry run writes nothing."""


KINDS: dict[str, Kind] = {"cron": cron, "systemd": systemd, "launchd": launchd}


# This platform, and names for people.
HERE = sys.platform
NAMES = {"linux": "Linux", "darwin": "macOS"}


def install(kind: str, job: Job, environ: Mapping[str, str], *, dry_run: bool = False) -> TimerResult:
    """Install a timer, or update it. Raises UsageError on a platform that has nothing to run it."""
    _require_platform(kind)
    if not dry_run:
        files.make_directory(job.directory)
    return KINDS[kind].install(job, environ, dry_run=dry_run)


def _require_platform(kind: str) -> None:
    needed = KINDS[kind].PLATFORM
    if needed is not None and needed != HERE:
        others = [f"claude-sessions install {name}" for name, other in KINDS.items() if other.PLATFORM in (None, HERE)]
        raise UsageError(
            f"{kind} runs timers on {NAMES.get(needed, needed)} only, and this is {NAMES.get(HERE, HERE)}",
            f"use another timer: {'; or: '.join(others)}",
        )


def remove(kind: str, environ: Mapping[str, str], *, dry_run: bool = False) -> TimerResult:
    """Remove a timer, and nothing else."""
    return KINDS[kind].remove(environ, dry_run=dry_run)
