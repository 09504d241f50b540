"""What a terminal holds, in a small file that its shell's prompt reads with a builtin.

One line of words, such as `held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711`. The file is named for the process
that the session is, by pid and start: a shell knows both, and a process that got the pid later has another start.
Where the start is not a number that shells can read too, the name is the pid alone.
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
# Anything else might be read as more than text by a shell that expands its prompt.
_UNSAFE = re.compile(r"[^A-Za-z0-9._:-]", re.ASCII)
_LINE = re.compile(r"(held|lost|none) (0|[1-9]\d{0,11}) ([A-Za-z0-9._:?-]+) ([A-Za-z0-9._:-]+)\n", re.ASCII)
_NAMES = re.compile(r"\.?\d+(-\d+)?(\.\d+)?", re.ASCII)
KEPT_S = 7 * 86400
Edition = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class State:
    """How a session stands, as its last command saw it; `since` is in seconds of this host's clock."""

    kind: str
    since: int
    item: str
    session_id: str

    @classmethod
    def of(cls, session: Session) -> State:
        """Return what a prompt needs to know of a session's row."""
        # The server's clock may be another than this host's, by which a prompt has to count.
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
        """Return what a prompt shows: `SD-AUTH-001 12m`, `LOST SD-AUTH-001`, or nothing."""
        if self.kind == LOST:
            return f"LOST {self.item}"
        return f"{self.item} {format_age(max(0.0, now - self.since))}" if self.kind == HELD else ""


def harmless(text: str) -> str:
    """Return a text of the database with a question mark for whatever a shell might expand.

    >>> harmless("SD-1 $(rm -r ~) %~")
    'SD-1???rm?-r??????'
    """
    return _UNSAFE.sub("?", text) or "?"


def directory(environ: Mapping[str, str]) -> Path | None:
    """Return where the files of terminals are; None where this user has no place for them."""
    root = state_directory(environ)
    # Of a relative one, each command would find another; and without a home, `~` stays as it is.
    return root / "terminals" if root.is_absolute() else None


def file_of(environ: Mapping[str, str], anchor: Process) -> Path | None:
    """Return the file of the session that is the process `anchor`."""
    place = directory(environ)
    name = f"{anchor.pid}-{anchor.start}" if anchor.start.isdecimal() else str(anchor.pid)
    return place / name if place else None


def edition(environ: Mapping[str, str], anchor: Process) -> Edition:
    """Return what tells the file of `anchor` from every one that replaces it; None while there is none."""
    path = file_of(environ, anchor)
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def write(environ: Mapping[str, str], anchor: Process, state: State) -> None:
    """Replace the file of `anchor` at once and whole. No failure matters to the command that does it."""
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
        # What was true before is a lie now.
        with suppress(OSError):
            path.unlink()


def _make_private(place: Path) -> None:
    missing = [parent for parent in (place, *place.parents) if not parent.exists()]
    above = missing[-1].parent
    # Under sudo, HOME may be somebody's who could then not write there any more.
    if os.geteuid() == 0 and above.stat().st_uid != 0:
        raise PermissionError(above)
    for parent in reversed(missing):
        with suppress(FileExistsError):
            parent.mkdir(mode=0o700)


def read(environ: Mapping[str, str], anchor: Process) -> State | None:
    """Return how the session that is `anchor` stands; None where nobody has said so."""
    path = file_of(environ, anchor)
    try:
        line = path.read_text("ascii") if path else ""
    except (OSError, ValueError):
        return None
    words = _LINE.fullmatch(line)
    return State(words[1], int(words[2]), words[3], words[4]) if words else None


def forget(environ: Mapping[str, str], anchor: Process) -> None:
    """Remove the file of a session that is over."""
    path = file_of(environ, anchor)
    if path:
        with suppress(OSError):
            path.unlink()


def sweep(environ: Mapping[str, str]) -> None:
    """Remove the files of shells that ended without a word, a week after their last one."""
    place = directory(environ)
    if place is None:
        return
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _NAMES.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEPT_S:
                        Path(entry.path).unlink()
