"""Timers that are files which a service manager reads."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.timers.job import TimerResult, Write

# Messages of systemctl and launchctl if there was nothing to stop.
_NOTHING_RUNS = re.compile("does not exist|not loaded|No such process|Could not find", re.IGNORECASE)


def install(
    kind: str, texts: dict[Path, bytes], commands: Sequence[list[str]], *, dry_run: bool, limit: str | None = None
) -> TimerResult:
    """Write the files that differ, and run the commands that start the timer; `limit` says when it does not run."""
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_bytes() != text]
    writes = [Write(str(path), text.decode(errors="replace")) for path, text in texts.items()]
    outcome = "installed" if changed else "already_installed"
    if dry_run:
        return TimerResult(kind, outcome, True, writes, limit)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, texts[path], 0o644)
    failure = _run(commands)
    idle = f"{failure}; it is installed, but runs only after: {shlex.join(commands[-1])}" if failure else None
    note = "; ".join(said for said in (idle, limit) if said)
    return TimerResult(kind, outcome, False, writes, note or None, runs=not failure)


def remove(
    kind: str,
    paths: Sequence[Path],
    stop: list[str],
    home: Path,
    *,
    reload: Sequence[list[str]] = (),
    stop_without_file: list[str],
    dry_run: bool,
) -> TimerResult:
    """Stop the timer and delete its files, and each directory below `home` that is empty then.

    The note names `stop_without_file` if it could not be stopped.
    """
    there = [path for path in paths if os.path.lexists(path)]
    note = None
    if there and not dry_run:
        failure = _run([stop])
        for path in there:
            path.unlink(missing_ok=True)
            files.remove_empty(path.parent, home)
        _run(reload)
        if failure and not _NOTHING_RUNS.search(failure):
            note = f"{failure}; it is removed, but stops only after: {shlex.join(stop_without_file)}"
    writes = [Write(str(path), "") for path in there]
    return TimerResult(kind, "removed" if there else "not_installed", dry_run, writes, note)


def _run(commands: Sequence[list[str]]) -> str | None:
    """Run commands and return the error of the last one."""
    failure = None
    for command in commands:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
            said = " ".join(done.stderr.split())
            failure = f"{command[0]}: {said or f'exit {done.returncode}'}" if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = f"{command[0]}: {error.strerror if isinstance(error, OSError) else 'no answer'}"
    return failure
