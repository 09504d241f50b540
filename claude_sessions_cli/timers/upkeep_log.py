"""What a timer leaves in the state directory: a lock, a log of limited size, and the time of the last run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from claude_sessions_cli import files, log
from claude_sessions_cli.times import to_time, utc


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a timer ran last, and its error if it failed."""

    at: datetime
    error: str | None


def log_path(directory: Path) -> Path:
    """Return the path of the log."""
    return directory / "upkeep.log"


@contextmanager
def run_lock(directory: Path) -> Iterator[bool]:
    """Hold the lock of a run; yield False if another run holds it."""
    files.make_directory(directory)
    lock = files.open_own(directory / "upkeep.lock", os.O_RDWR)
    try:
        locked = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        yield locked
    finally:
        os.close(lock)


def redirect_output(directory: Path) -> None:
    """Send stdout and stderr to the log, tracebacks included; leave them as they are if it cannot be opened."""
    with suppress(OSError):
        number = files.open_own(log_path(directory), log.FLAGS)
        os.dup2(number, 1)
        os.dup2(number, 2)
        os.close(number)


def record_run(directory: Path, error: str | None) -> None:
    """Record that a run ended now, and its error if it failed."""
    stamp = directory / "upkeep.json"
    at = utc(datetime.now(timezone.utc).replace(microsecond=0))
    text = json.dumps({"at": at, "error": error}) + "\n"
    with suppress(OSError):  # a full disk must not stop the heartbeats
        files.write(stamp, text.encode())


def last_run(directory: Path) -> LastRun | None:
    """Return the last run of a timer; None if there was none."""
    try:
        stamp = json.loads(files.read(directory / "upkeep.json"))
        at, error = to_time(stamp["at"]), stamp["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return LastRun(at, error) if at else None
