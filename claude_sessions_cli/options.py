"""Options that several commands share, and how a command's Typer application is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from claude_sessions_cli import completion
from claude_sessions_cli.errors import UsageError, unknown_word
from claude_sessions_cli.model import TRACKS
from claude_sessions_cli.names import SESSION_ID
from claude_sessions_cli.settings import DEFAULT_STALE_AFTER, parse_duration

CONTEXT = {"help_option_names": ["-h", "--help"]}
CANNOT_WRITE = "free some space, or fix its permissions"
# Of rows; Postgres takes no number of any length.
MAX_LIMIT = 2**31 - 1
# Options that are also accepted before the command's name.
LEADING = {"--dsn": True, "--session": True, "--json": False, "--quiet": False, "-q": False}
# The commands that act as a session, and all that ask a database.
AS_SESSION = ("claim", "release", "heartbeat", "park", "unpark", "check", "run", "whoami", "status")
ON_DATABASE = (*AS_SESSION, "list", "history", "reap", "doctor", "schema apply", "schema check", "schema describe")
# A command in a hint, which ends with the hint, or before the next one.
CALL = re.compile(r"claude-sessions[ ](?P<verb>(?:schema )?[a-z]+)(?P<rest>.*?)(?=; |\n|\)|$)")


def new_app(help: str | None = None) -> typer.Typer:
    """Return an application with plain help: it costs 60 ms less than panels, and can be copied from a terminal."""
    return typer.Typer(
        cls=Group,
        help=help,
        context_settings=CONTEXT,
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=False,
    )


def repeat_in(hint: str, argv: Sequence[str]) -> str:
    """Add the --session and --dsn of a command line to the commands of a hint: without them they act elsewhere."""
    session, dsn = _given("--session", argv), _given("--dsn", argv)
    if session and not SESSION_ID.fullmatch(session):
        session = None

    def complete(found: re.Match[str]) -> str:
        words = ["claude-sessions", found["verb"]]
        if session and found["verb"] in AS_SESSION and "--session" not in found["rest"]:
            words += ["--session", session]
        if dsn and found["verb"] in ON_DATABASE:
            # The DSN itself is long, and may hold a password.
            words += ["--dsn", "DSN"]
        return " ".join(words) + found["rest"]

    return CALL.sub(complete, hint)


def repeat_dsn(mend: str | None, dsn: str | None) -> str | None:
    """Add the --dsn of this command to the commands of what mends something."""
    return repeat_in(mend, ["--dsn", dsn]) if mend and dsn else mend


def _given(name: str, argv: Sequence[str]) -> str | None:
    """Return the value of an option on a command line."""
    for word, following in zip(argv, (*argv[1:], None), strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def check_track(*tracks: str | None) -> None:
    """Raise UsageError for an unknown track."""
    check_words("--track", tracks, TRACKS)


def check_words(option: str, given: Iterable[str | None], allowed: Sequence[str]) -> None:
    """Raise UsageError if a value of an option is not one of the allowed words."""
    for word in given:
        if word is not None and word not in allowed:
            raise unknown_word(
                f"{option} is not one of {', '.join(allowed)}: {word[:40]!r}", word, allowed, "write one of these"
            )


def refuse_beside(option: str, others: Mapping[str, bool]) -> None:
    """Raise UsageError if one of the other options is given, beside which `option` would mean nothing or two things."""
    for other, is_given in others.items():
        if is_given:
            raise UsageError(f"{option} cannot be combined with {other}", "leave one of them out")


class Group(TyperGroup):
    """Commands by name, of which the nearest is suggested for an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments begin with. Raises UsageError if it is unknown."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            raise unknown_word(f"No such command {name[:40]!r}", name, known, see_help(ctx))
        return super().resolve_command(ctx, args)


def see_help(ctx: Any) -> str:
    """Return the next step of a caller whose command line is wrong."""
    what = "list the commands" if hasattr(ctx.command, "list_commands") else "see its usage"
    return f"{what}: {ctx.command_path} --help"


def usage_error(error: Any, command: str) -> UsageError:
    """Return the tool's error for one of the parser of a command; it suggests the nearest of an unknown option."""
    # The parser names no context if an option has no value.
    hint = see_help(error.ctx) if error.ctx else f"see its usage: claude-sessions {command} --help"
    if isinstance(error, BadValue):
        hint = error.hint
    if not hasattr(error, "possibilities"):
        return UsageError(error.format_message().rstrip("."), hint)
    options = [option for option in error.ctx.command.params if option.param_type_name == "option"]
    known = [name for option in options if not option.hidden for name in option.opts]
    return unknown_word(error.message, error.option_name, [*known, *CONTEXT["help_option_names"]], hint)


class BadValue(typer.BadParameter):
    """A value of an option, whose name is known to the parser alone, and the next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def duration(text: str) -> float:
    """Return a duration option's seconds."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise BadValue(error.message, error.hint) from None


def duration_with_unit(text: str) -> float:
    """Return the seconds of a duration that may cost claims or rows: a number alone might be meant as hours or days."""
    seconds = duration(text)
    if text.strip()[-1:].isdigit():
        number = text.strip()
        raise BadValue(f"{number} has no unit", f"write {number}h, {number}d, or {number}s for seconds")
    return seconds


complete_held_items = completion.completer("complete_held_items")
complete_known_items = completion.completer("complete_held_items", "complete_past_items")
complete_session_ids = completion.completer("complete_session_ids")
complete_tracks = completion.chooser(lambda _: TRACKS)
complete_known_names = completion.completer("complete_held_items", "complete_past_items", "complete_session_ids")

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn", metavar="DSN", help="Postgres to use; without any, a private one. [env: CLAUDE_SESSIONS_DSN]"
    ),
]
SessionId = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="ID",
        help="Act as this session. [env: CLAUDE_SESSIONS_SESSION_ID, CLAUDE_CODE_SESSION_ID]",
        autocompletion=complete_session_ids,
    ),
]
Pid = Annotated[
    int | None,
    typer.Option("--pid", min=1, metavar="PID", help="The process of this session [detected]."),
]
Tty = Annotated[str | None, typer.Option("--tty", metavar="TTY", help="The terminal of this session [detected].")]
StaleAfter = Annotated[
    float | None,
    typer.Option(
        "--stale-after",
        parser=duration,
        metavar="DURATION",
        help=f"Silence after which a claim lapses [{DEFAULT_STALE_AFTER}]. [env: CLAUDE_SESSIONS_STALE_AFTER]",
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="|".join(TRACKS),
        help="The track that the work belongs to.",
        autocompletion=complete_tracks,
    ),
]
Wait = Annotated[
    float | None,
    typer.Option("--wait", parser=duration, metavar="DURATION", help="Wait for it, this long at most."),
]
Within = Annotated[
    float | None,
    typer.Option("--within", parser=duration, metavar="DURATION", hidden=True, help="Exit 6 silently after this time."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for results and for errors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on success.")]
