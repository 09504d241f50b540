"""The stamp of an agent's conversation: the file by which a hook decides, without Python, that nothing is due.

A file in the state directory, named for the agent's process and its conversation, as `4711.8a1c66ff-...`:

    5400 5460 ok 123456          when the last heartbeat was, when the next is due, the standing, the process' start
    SD-AUTH-001 A fix the login  the item as the prompt's file spells it, the track or -, the note
    told 1767225600000000        what the model has been told: the fences of lost terms, and `twin`

The times are those of a clock that nobody sets, or else of this host's. Beside it lie, for a while, a `.lock` of the
hook that is about to run, a `.run` that the running program locks, a `.loss` with the text for the model, and a `.keep`
while a shell sends heartbeats because a question waits for its user.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.model import Session
from claude_sessions_cli.names import SESSION_ID
from claude_sessions_cli.prompt import BLANK, harmless
from claude_sessions_cli.settings import state_directory
from claude_sessions_cli.text import presentable

UPTIME = Path("/proc/uptime")
# What the session is: in order, with an unreported loss, open in another process, or over.
OK, LOST, TWIN, ENDED = "ok", "lost", "twin", "ended"
KEPT_S = 7 * 86400
NOTE_LIMIT = 60


@dataclass(slots=True)
class Stamp:
    """The content of a stamp."""

    at: int = 0
    due: int = 0
    standing: str = OK
    start: str = "-"
    item: str = "-"
    track: str = "-"
    note: str = ""
    told: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Return the stamp in a file; an empty one if it is malformed."""
        lines = [line.split(" ") for line in text.split("\n")]
        try:
            (at, due, standing, start), (item, track, *note), (_, *told) = lines[:3]
            return cls(int(at), int(due), standing, start, item, track, " ".join(note), told)
        except ValueError:
            return cls()

    @property
    def text(self) -> str:
        """The content of the file."""
        shown = " ".join(filter(None, (self.item, self.track, self.note)))
        return f"{self.at} {self.due} {self.standing} {self.start}\n{shown}\n{' '.join(['told', *self.told])}\n"

    def show(self, session: Session | None) -> None:
        """Remember what a session holds."""
        held = session if session and session.holds and session.sd_id else None
        self.item = harmless(held.sd_id).replace(" ", BLANK) if held and held.sd_id else "-"
        self.track = harmless(held.track).replace(" ", BLANK) if held and held.track else "-"
        self.note = presentable(held.note or "")[:NOTE_LIMIT] if held else ""

    def is_fresh(self, now: int) -> bool:
        """Whether no heartbeat is due."""
        return self.at <= now < self.due


def now() -> int:
    """Return the time of the stamps' clock, which hook.sh reads too."""
    try:
        return int(UPTIME.read_text().partition(".")[0])
    except (OSError, ValueError):
        return int(time.time())


def path_of(environ: Mapping[str, str], pid: int) -> Path:
    """Return the stamp of the conversation of the process `pid`. Raises UsageError for a stranger's directory."""
    name = environ.get("CLAUDE_CODE_SESSION_ID") or "-"
    name = name if SESSION_ID.fullmatch(name) else "-"
    return state_directory(environ, "agents").absolute() / f"{pid}.{name}"


def read(path: Path) -> Stamp:
    """Return the stamp in a file; an empty one if the file is missing."""
    try:
        return Stamp.parse(files.read(path).decode())
    except (OSError, ValueError):
        return Stamp()


def write(path: Path, stamp: Stamp) -> None:
    """Replace the stamp, and allow the next hook to run. Raises OSError."""
    files.write(path, stamp.text.encode())
    beside(path, "lock").unlink(missing_ok=True)


def beside(path: Path, what: str) -> Path:
    """Return one of the files beside a stamp: `lock`, `run`, `loss` or `keep`."""
    return path.with_name(f"{path.name}.{what}")


@contextmanager
def run_lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a run; yield False if another run holds it. Raises OSError."""
    files.make_directory(path.parent)
    lock = files.open_own(beside(path, "run"), os.O_RDWR)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            # The sweep of another session would delete an old one, and two runs would lock two files.
            os.utime(lock)
            yield True
    finally:
        os.close(lock)


def sweep(path: Path) -> None:
    """Delete the files of agents that ended a week ago."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEPT_S:
                    Path(entry.path).unlink()
