"""The small files that a shell's prompt reads with a builtin: what its terminal holds.

One line of words, such as `held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711 1767225600000000 1767225600000000
0f1e2d3c4b5a6978 +1`: since when, the item, the session, the fence, the row's `updated_at`, the database, and how many
claims the terminal holds in others. A blank of the item is written `~`.

A file is named for the process that the session is, by pid and start: a shell knows both, and a process that got the
pid later has another start. If the start is not a number that shells can read, the name is the pid alone.

A terminal has a file for each database, with the database's name at its end, and one without, which its prompt reads: a
copy of the file of the database that its shell uses. A shell whose variables name another database replaces that copy
at once, by the file of the other one if it knows it, else by the name of a turn, such as `-2`, until a heartbeat has
found the database.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from claude_sessions_cli import files
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import ProcessRecord, Session, Witness
from claude_sessions_cli.names import nfc
from claude_sessions_cli.process import Process
from claude_sessions_cli.settings import state_directory
from claude_sessions_cli.times import fence_of, format_age

HELD, LOST, NOTHING = "held", "lost", "none"
# How often a file is read again that its shell is writing.
ATTEMPTS = 5
# Of the other characters, a shell that expands its prompt evaluates some, and tmux the `#`.
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+,=-]+(?: +[A-Za-z0-9._:/@+,=-]+)*", re.ASCII)
_PUNCTUATION = frozenset("._:/@+,=- ")
_ENDS = re.compile(r"^ +| +\Z")
BLANK = "~"
# Letters and marks of which nothing is seen.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_NUMBER = r"(?:0|[1-9]\d{0,17})"
# Earlier versions wrote the first four words.
_LINE = re.compile(
    r"(held|lost|none) (0|[1-9]\d{0,11}) ([^ \n]+) ([A-Za-z0-9._:-]+)"
    rf"(?: ({_NUMBER}|-) ({_NUMBER}|-)(?: ([0-9a-f]+|-\d*)(?: \+(\d{{1,4}}))?)?)?\n",
    re.ASCII,
)
_NAMES = re.compile(r"\.?\d+(-\d+)?(\.[0-9a-f]{16})?(\.\d+)?", re.ASCII)
KEPT_S = 7 * 86400
# Longer than any line.
LINE_LIMIT = 4096
Version = tuple[int, int] | None


class State(NamedTuple):
    """What a session holds, as its last command saw it; `since` is in seconds of this host's clock.

    `updated_at` is in microseconds since the epoch. `elsewhere` counts the claims that the terminal holds in other
    databases.
    """

    kind: str
    since: int
    item: str
    session_id: str
    fence: int | None = None
    updated_at: int | None = None
    database: str = "-"
    elsewhere: int = 0

    @classmethod
    def of(cls, session: Session, database: str) -> State:
        """Return the state of a session's row in a database."""
        updated_at = fence_of(session.updated_at)
        # A prompt counts by this host's clock, which may differ from the server's.
        if session.holds and session.sd_id:
            since = max(0, int(time.time() - (session.claim_age_s or 0.0)))
            item = harmless(session.sd_id)
            return cls(HELD, since, item, session.session_id, session.fence, updated_at, database)
        if session.tombstone:
            return cls.of_loss(session.tombstone.sd_id, session.session_id, database, updated_at)
        return cls(NOTHING, 0, "-", session.session_id, None, updated_at, database)

    @classmethod
    def of_loss(cls, item: str, session_id: str, database: str, updated_at: int | None = None) -> State:
        """Return the state of a session that lost its item."""
        return cls(LOST, 0, harmless(item), session_id, None, updated_at, database)

    @classmethod
    def parse(cls, line: str) -> State | None:
        """Return the state that a line describes; None if it is malformed."""
        words = _LINE.fullmatch(line)
        item = words[3].replace(BLANK, " ") if words else ""
        if words is None or item != harmless(item):
            return None
        fence, updated_at = (int(word) if word and word != "-" else None for word in words.group(5, 6))
        database, elsewhere = words[7] or "-", int(words[8] or 0)
        return cls(words[1], int(words[2]), item, words[4], fence, updated_at, database, elsewhere)

    @property
    def witness(self) -> Witness | None:
        """What the file proves of the row: nothing if it has replaced a character of the item."""
        if self.kind != HELD or self.updated_at is None or "?" in self.item:
            return None
        return Witness(self.item, self.fence, self.updated_at)

    @property
    def line(self) -> str:
        """The line of the file."""
        times = (str(value) if value is not None and value >= 0 else "-" for value in (self.fence, self.updated_at))
        words = (self.kind, str(self.since), self.item.replace(" ", BLANK), self.session_id, *times, self.database)
        return " ".join(words) + (f" +{self.elsewhere}" if self.elsewhere else "") + "\n"

    def segment(self, now: float) -> str:
        """Return the text of the prompt: `SD-AUTH-001 12m`, `LOST SD-AUTH-001`, `SD-AUTH-001 12m +1`, or nothing."""
        shown = {HELD: f"{self.item} {format_age(max(0.0, now - self.since))}", LOST: f"LOST {self.item}"}
        return " ".join([*filter(None, [shown.get(self.kind)]), *([f"+{self.elsewhere}"] if self.elsewhere else [])])


def harmless(text: str) -> str:
    """Return text in NFC with a question mark for each character that a shell or tmux might expand, or nobody sees.

    Kept are letters and digits of any script, accents on letters, blanks inside, and `._:/@+,=-`.

    >>> harmless("SD-1 $(rm -r ~) %~"), harmless("org/repo"), harmless(" \u0437\u0430\u0434\u0430\u0447\u0430-7#S")
    ('SD-1 ??rm -r ?? ??', 'org/repo', '?\u0437\u0430\u0434\u0430\u0447\u0430-7?S')
    """
    if _PLAIN.fullmatch(text):
        return text
    import unicodedata  # late: few names need it

    kept: list[str] = []
    before = ""
    for character in _INVISIBLE.sub("?", nfc(text)):
        kind = unicodedata.category(character)[0]
        is_accent = kind == "M" and before in ("L", "M")
        is_kept = is_accent or kind in ("L", "N") or character in _PUNCTUATION
        kept.append(character if is_kept else "?")
        before = kind if is_kept else ""
    return _ENDS.sub(lambda blanks: "?" * len(blanks[0]), "".join(kept)) or "?"


def directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of the prompt files; None if this user has no place for them."""
    try:
        place = state_directory(environ, "terminals")
    except UsageError:
        # A stranger may write it: no command fails for its prompt.
        return None
    # A relative path would differ between commands; and without a home, `~` is not expanded.
    return place if place.is_absolute() else None


def file_of(environ: Mapping[str, str], anchor: Process | ProcessRecord, database: str | None = None) -> Path | None:
    """Return the prompt file of the process `anchor`: of one database, else the one that its prompt reads."""
    place = directory(environ)
    name = f"{anchor.pid}-{anchor.start}" if anchor.start.isdecimal() else str(anchor.pid)
    return place / (f"{name}.{database}" if database else name) if place else None


def version(environ: Mapping[str, str], anchor: Process, database: str) -> Version:
    """Return what changes whenever the file of a database is replaced; None if it is missing."""
    path = file_of(environ, anchor, database)
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def always() -> bool:
    """Whether a command in the foreground shows its state."""
    return True


def has_state(environ: Mapping[str, str]) -> bool:
    """Return whether this account has a state directory."""
    with suppress(OSError, UsageError):
        return state_directory(environ).exists()
    return False


def write(
    environ: Mapping[str, str],
    anchor: Process | ProcessRecord,
    state: State,
    *,
    shown: Callable[[], bool] = always,
) -> None:
    """Replace the file of the state's database, and the one that the prompt reads. A failure fails no command.

    If the state is not to be `shown`, a prompt of another database only counts the claim.
    """
    beside, path = file_of(environ, anchor, state.database), file_of(environ, anchor)
    if beside is None or path is None:
        return
    _replace(beside, state)
    for _ in range(ATTEMPTS):
        with _kept_readable(path) as read_replaced:
            before, visible = _read(path), shown()
            if visible or (before and before.database == state.database):
                current = state
            elif before:
                current = before
            else:
                return
            counted = current._replace(elsewhere=_count_others(path, current))
            if not visible and counted == before:
                return
            # The shell may turn to another database at any moment, and writes the file in place then.
            if not _replace(path, counted, partial(_shows, path, before)):
                continue
            turned = read_replaced()
        if turned is None or turned == before:
            return
        _replace(path, turned)


def _shows(path: Path, state: State | None) -> bool:
    return _read(path) == state


@contextmanager
def _kept_readable(path: Path) -> Iterator[Callable[[], State | None]]:
    """Yield a function that reads the file which is at the path now, also after it has been replaced."""
    number = None
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read() -> State | None:
        with suppress(OSError, ValueError):
            return State.parse(os.pread(number, LINE_LIMIT, 0).decode()) if number is not None else None
        return None

    try:
        yield read
    finally:
        if number is not None:
            os.close(number)


def correct(environ: Mapping[str, str], anchor: ProcessRecord, session_id: str, item: str, fence: int | None) -> None:
    """Show the loss of a term in the prompt of another terminal of this user, if that still shows the term."""
    path = file_of(environ, anchor)
    if path is None:
        return
    # A fence tells terms apart, whatever each terminal calls the database.
    term = (session_id, harmless(item), fence)
    for beside in _besides(path):
        if known := _held(beside, term):
            write(environ, anchor, State.of_loss(item, session_id, known.database), shown=lambda: False)
    # Of an earlier version, which writes no file beside it.
    if known := _held(path, term):
        _replace(path, State.of_loss(item, session_id, known.database))


def _held(path: Path, term: tuple[str, str, int | None]) -> State | None:
    """Return the state in a file of this user, if that is the term."""
    known, (session_id, item, fence) = _read(path), term
    if known is None or known.kind != HELD or (known.session_id, known.item) != (session_id, item):
        return None
    with suppress(OSError):
        return known if known.fence in (None, fence) and path.stat().st_uid == os.geteuid() else None
    return None


def _besides(path: Path) -> list[Path]:
    """Return the files of the databases of a terminal."""
    with suppress(OSError):
        return [*path.parent.glob(f"{path.name}.*")]
    return []


def _count_others(path: Path, state: State) -> int:
    """Return how many claims the terminal of a file holds beside this state; a database may have several names."""
    found = [_read(beside) for beside in _besides(path)]
    return len({(held.item, held.fence) for held in found if held and held.kind == HELD} - {(state.item, state.fence)})


def _replace(path: Path, state: State, still: Callable[[], bool] = always) -> bool:
    """Replace a file atomically, or remove it; return False if `still` was False at the last moment."""
    line = state.line.encode()
    try:
        try:
            return files.write(path, line, still=still)
        except FileNotFoundError:
            _make_private(path.parent)
            return files.write(path, line, still=still)
    except OSError:
        # A stale file is worse than a missing one.
        with suppress(OSError):
            path.unlink()
        return True


def _make_private(place: Path) -> None:
    missing = [parent for parent in (place, *place.parents) if not parent.exists()]
    above = missing[-1].parent
    # Under sudo, HOME may belong to another user, who could no longer write there.
    if os.geteuid() == 0 and above.stat().st_uid != 0:
        raise PermissionError(above)
    files.make_directory(place)


def read(environ: Mapping[str, str], anchor: Process, database: str | None = None) -> State | None:
    """Return the state that the prompt of `anchor` shows, or last knew of a database; None without a readable file."""
    path = file_of(environ, anchor, database)
    return _read(path) if path else None


def database_of(line: str) -> str | None:
    """Return the database that a line of a prompt file names; None if it is malformed."""
    state = State.parse(f"{line}\n")
    return state.database if state else None


def session_of(environ: Mapping[str, str], anchor: Process) -> str | None:
    """Return the session that the files of `anchor` name; None without one."""
    path = file_of(environ, anchor)
    found = [_read(known) for known in (path, *_besides(path))] if path else []
    # A shell that has just turned to a database does not name it.
    return next((state.session_id for state in found if state and state.session_id != "-"), None)


def _read(path: Path) -> State | None:
    try:
        return State.parse(files.read(path).decode())
    except (OSError, ValueError):
        return None


def remove(environ: Mapping[str, str], anchor: Process, database: str) -> None:
    """Delete the file of a session that has ended, and the one that the prompt reads unless that is of another."""
    beside, path = file_of(environ, anchor, database), file_of(environ, anchor)
    if beside is None or path is None:
        return
    shown = _read(path)
    other = shown is not None and not shown.database.startswith("-") and shown.database != database
    for ended in [beside] if other else [beside, path]:
        with suppress(OSError):
            ended.unlink()


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
