"""The small file that a shell's prompt reads with a builtin: what its terminal holds.

One line of words, such as `held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711`. The file is named for the process
that the session is, by pid and start: a shell knows both, and a process that got the pid later has another start.
If the start is not a number that shells can read, the name is the pid alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.model import Session
from claude_sessions_cli.process import Process
from claude_sessions_cli.settings import state_directory
from claude_sessions_cli.times import format_age

HELD, LOST, NOTHING = "held", "lost", "none"
# A shell that expands its prompt might evaluate other characters.
_UNSAFE = re.compile(r"[^A-Za-z0-9._:-]", re.ASCII)
_LINE = re.compile(r"(held|lost|none) (0|[1-9]\d{0,11}) ([A-Za-z0-9._:?-]+) ([A-Za-z0-9._:-]+)\n", re.ASCII)
_NAMES = re.compile(r"\.?\d+(-\d+)?(\.\d+)?", re.ASCII)
KEPT_S = 7 * 86400
Version = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class State:
    """What a session holds, as its last command saw it; `since` is in seconds of this host's clock."""

    kind: str
    since: int
    item: str
    session_id: str

    @classmethod
    def of(cls, session: Session) -> State:
        """Return the state of a session's row."""
        # A prompt counts by this host's clock, which may differ from the server's.
        if session.holds and session.sd_id:
            since = max(0, int(time.time() - (session.claim_age_s or 0.0)))
            return cls(HELD, since, harmless(session.sd_id), session.session_id)
        if session.tombstone:
            return cls.of_loss(session.tombstone.sd_id, session.session_id)
        return cls(NOTHING, 0, "-", session.session_id)

    @classmethod
    def of_loss(cls, item: str, session_id: str) -> State:
        """Return the state of a session that lost its item."""
        return cls(LOST, 0, harmless(item), session_id)

    def segment(self, now: float) -> str:
        """Return the text of the prompt: `SD-AUTH-001 12m`, `LOST SD-AUTH-001`, or nothing."""
        if self.kind == LOST:
            return f"LOST {self.item}"
        return f"{self.item} {format_age(max(0.0, now - self.since))}" if self.kind == HELD else ""


def harmless(text: str) -> str:
    """Return text with a question mark for each character that a shell might expand.

    >>> harmless("SD-1 $(rm -r ~) %~")
    'SD-1???rm?-r??????'
    """
    return _UNSAFE.sub("?", text) or "?"


def directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of the prompt files; None if this user has no place for them."""
    root = state_directory(environ)
    # A relative path would differ between commands; and without a home, `~` is not expanded.
    return root / "terminals" if root.is_absolute() else None


def file_of(environ: Mapping[str, str], anchor: Process) -> Path | None:
    """Return the prompt file of the process `anchor`."""
    place = directory(environ)
    name = f"{anchor.pid}-{anchor.start}" if anchor.start.isdecimal() else str(anchor.pid)
    return place / name if place else None


def version(environ: Mapping[str, str], anchor: Process) -> Version:
    """Return what changes whenever the file of `anchor` is replaced; None if it is missing."""
    path = file_of(environ, anchor)
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def write(environ: Mapping[str, str], anchor: Process, state: State) -> None:
    """Replace the prompt file of `anchor` atomically. A failure does not fail the command."""
    path = file_of(environ, anchor)
    if path is None:
        return
    line = f"{state.kind} {state.since} {state.item} {state.session_id}\n".encode("ascii")
    try:
        try:
            files.write(path, line)
        except FileNotFoundError:
            _make_private(path.parent)
            files.write(path, line)
    except OSError:
        # A stale file is worse than a missing one.
        with suppress(OSError):
            path.unlink()


def _make_private(place: Path) -> None:
    missing = [parent for parent in (place, *place.parents) if not parent.exists()]
    above = missing[-1].parent
    # Under sudo, HOME may belong to another user, who could no longer write there.
    if os.geteuid() == 0 and above.stat().st_uid != 0:
        raise PermissionError(above)
    for parent in reversed(missing):
        with suppress(FileExistsError):
            parent.mkdir(mode=0o700)


def read(environ: Mapping[str, str], anchor: Process) -> State | None:
    """Return the state in the prompt file of `anchor`; None if it is missing or malformed."""
    path = file_of(environ, anchor)
    try:
        line = path.read_text("ascii") if path else ""
    except (OSError, ValueError):
        return None
    words = _LINE.fullmatch(line)
    return State(words[1], int(words[2]), words[3], words[4]) if words else None


def remove(environ: Mapping[str, str], anchor: Process) -> None:
    """Delete the prompt file of a session that has ended."""
    path = file_of(environ, anchor)
    if path:
        with suppress(OSError):
            path.unlink()


def sweep(environ: Mapping[str, str]) -> None:
    """Delete prompt files of shells that died without cleanup, after a week."""
    place = directory(environ)
    if place is None:
        return
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _NAMES.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEPT_S:
                        Path(entry.path).unlink()
