"""What the rounds of a timer leave in the state directory: a lock, a log with a limit, and when the last one was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from claude_sessions_cli import files

LOG_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a timer ran last, and what went wrong."""

    at: datetime
    error: str | None


def log_of(directory: Path) -> Path:
    """Return where what a timer says goes."""
    return directory / "upkeep.log"


@contextmanager
def only_one(directory: Path) -> Iterator[bool]:
    """Whether no other run is still under way."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / "upkeep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        first = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            first = False
        yield first
    finally:
        os.close(lock)


def write_to_log(directory: Path) -> None:
    """Let what this process says go to the log; where that cannot be opened, it goes where it went."""
    with suppress(OSError):
        log = os.open(log_of(directory), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def rotate(directory: Path) -> None:
    """Set a log that has grown too long aside, in the place of the one before."""
    log = log_of(directory)
    with suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_name(f"{log.name}.1"))


def record_run(directory: Path, error: str | None) -> None:
    """Note that a timer has run now."""
    stamp = directory / "upkeep.json"
    text = json.dumps({"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "error": error}) + "\n"
    with suppress(OSError):  # a full disk must not keep sessions from being kept
        files.write(stamp, text.encode())


def last_run(directory: Path) -> LastRun | None:
    """Return when a timer ran last; None where none has."""
    try:
        stamp = json.loads((directory / "upkeep.json").read_text())
        return LastRun(datetime.fromisoformat(stamp["at"]), stamp["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
