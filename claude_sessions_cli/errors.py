"""Errors with a message, a hint and an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from claude_sessions_cli.text import mask_passwords, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from claude_sessions_cli.model import JudgedSession

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_HELD = 3
EXIT_NOT_HELD = 4
EXIT_NO_IDENTITY = 5
EXIT_UNREACHABLE = 6
EXIT_SCHEMA = 7
EXIT_DENIED = 8
EXIT_TIMED_OUT = 124
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_INTERRUPTED = 130

# The next steps after several errors.
AGAIN = "try again"
REPORT = "show the traceback: set CLAUDE_SESSIONS_DEBUG=1 and run it again"
RUN_AGAIN = "run it again: add --wait 10m"
NOT_A_PROGRAM = "correct its name, its permissions or its #! line"
SEE_ALL = "list all sessions: claude-sessions list --all"
SEE_TRIGGERS = "list the triggers: claude-sessions schema check"


class SessionsError(Exception):
    """An unforeseen failure, and the base of every error that the tool raises on purpose.

    `message` is the error in one line, `hint` the next step: what to do, or a command, which stands between a colon and
    a semicolon or the end. They may quote what stands in a wrong place, so the passwords of DSNs in them are masked.
    `data` is what a failed command prints with `--json`, `holder` the session that holds the item.
    """

    code: ClassVar[str] = "failure"
    exit_code: ClassVar[int] = EXIT_FAILURE

    def __init__(
        self, message: str, hint: str, data: dict[str, Any] | None = None, holder: JudgedSession | None = None
    ) -> None:
        self.message = mask_passwords(message)
        self.hint = mask_passwords(hint)
        self.data = data
        self.holder = holder
        self.lines: Sequence[str] = [self.message]
        super().__init__(self.message)

    def as_text(self) -> list[str]:
        """Return the lines that people read: the last one ends with the hint."""
        return [*self.lines[:-1], f"{self.lines[-1]} ({self.hint})"]


class UsageError(SessionsError):
    """A value, option, id, DSN or setting is wrong."""

    code = "usage"
    exit_code = EXIT_USAGE


class HoldsAnother(UsageError):
    """The session already holds another work item."""

    code = "holds_another"


class UnknownItem(UsageError):
    """A foreign key of the table refers to a list of work items, and the item is not on it."""


def unknown_word(message: str, word: str, known: Sequence[str], otherwise: str) -> UsageError:
    """Return the error of a wrong word; its hint is the known word that is nearest, or `otherwise` if none is near."""
    near = nearest(word, known)
    return UsageError(message, f"did you mean {near}?" if near else otherwise)


class HeldByAnother(SessionsError):
    """Another live session holds the work item."""

    code = "held"
    exit_code = EXIT_HELD


class NotHeld(SessionsError):
    """The session does not hold the claim, is not registered, or has lost its claim of `lost_item`."""

    code = "not_held"
    exit_code = EXIT_NOT_HELD

    def __init__(
        self,
        message: str,
        hint: str,
        data: dict[str, Any] | None = None,
        holder: JudgedSession | None = None,
        lost_item: str | None = None,
    ) -> None:
        super().__init__(message, hint, data, holder)
        self.lost_item = lost_item


class NoIdentity(SessionsError):
    """No rule finds the session of this command."""

    code = "no_identity"
    exit_code = EXIT_NO_IDENTITY


class Unreachable(SessionsError):
    """The database cannot be reached, or did not answer in time.

    `passing` says that the server answered, and is only full, starting, or not the primary: worth waiting for.
    """

    code = "unreachable"
    exit_code = EXIT_UNREACHABLE

    def __init__(self, message: str, hint: str, *, passing: bool = False) -> None:
        super().__init__(message, hint)
        self.passing = passing


class SchemaMismatch(SessionsError):
    """The table is missing, or does not fit this version."""

    code = "schema"
    exit_code = EXIT_SCHEMA


class DuplicateRefused(SchemaMismatch):
    """A unique index that is not of this tool refuses a row."""


class RowsRefused(SchemaMismatch):
    """A constraint, key or trigger of the table refused to change some rows, and the others are changed.

    `lines` says for each which session and item it is, and what the table said.
    """

    def __init__(self, lines: Sequence[str], data: dict[str, Any]) -> None:
        changes = "a change" if len(lines) == 1 else f"{len(lines)} changes"
        hint = "list the constraints and triggers that are not ours: claude-sessions schema check"
        super().__init__(f"the table refused {changes}: {lines[0]}", hint, data)
        self.lines = lines


class PermissionDenied(SessionsError):
    """The database denies it to this role, or row security hides rows from the role."""

    code = "denied"
    exit_code = EXIT_DENIED
