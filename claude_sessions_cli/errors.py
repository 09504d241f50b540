"""Errors that carry what a person or a script needs: a message, a hint, an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from claude_sessions_cli.model import JudgedSession

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_HELD = 3
EXIT_NOT_HELD = 4
EXIT_NO_IDENTITY = 5
EXIT_UNREACHABLE = 6
EXIT_SCHEMA = 7
EXIT_DENIED = 8
EXIT_INTERRUPTED = 130


class SessionsError(Exception):
    """An unforeseen failure, and the base of every error that the tool raises on purpose.

    `message` says in one line what went wrong, `hint` what to do next; neither holds a password. `data` is what a
    command that failed has to show all the same.
    """

    code: ClassVar[str] = "failure"
    exit_code: ClassVar[int] = EXIT_FAILURE

    def __init__(self, message: str, hint: str | None = None, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data


class UsageError(SessionsError):
    """A value, option, id, DSN or setting is wrong."""

    code = "usage"
    exit_code = EXIT_USAGE


class HeldByAnother(SessionsError):
    """The work item has a live holder, which is not this session."""

    code = "held"
    exit_code = EXIT_HELD

    def __init__(self, message: str, hint: str | None = None, holder: JudgedSession | None = None) -> None:
        super().__init__(message, hint)
        self.holder = holder


class NotHeld(SessionsError):
    """The session holds no such claim, is not registered, or has lost a claim: that of `lost_item`."""

    code = "not_held"
    exit_code = EXIT_NOT_HELD

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        data: dict[str, Any] | None = None,
        lost_item: str | None = None,
    ) -> None:
        super().__init__(message, hint, data)
        self.lost_item = lost_item


class NoIdentity(SessionsError):
    """Nothing says which session this is."""

    code = "no_identity"
    exit_code = EXIT_NO_IDENTITY


class Unreachable(SessionsError):
    """The database cannot be reached, or did not answer in time."""

    code = "unreachable"
    exit_code = EXIT_UNREACHABLE


class SchemaMismatch(SessionsError):
    """The table is missing, or is not the one that this version works on."""

    code = "schema"
    exit_code = EXIT_SCHEMA


class PermissionDenied(SessionsError):
    """The database does not let this role do it, or row security hides rows from it."""

    code = "denied"
    exit_code = EXIT_DENIED
