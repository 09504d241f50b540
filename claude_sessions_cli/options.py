"""Options that several commands share, and how a command's Typer application is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from claude_sessions_cli import completion
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import TRACKS
from claude_sessions_cli.settings import DEFAULT_STALE_AFTER, parse_duration

CONTEXT = {"help_option_names": ["-h", "--help"]}
# Of rows; Postgres takes no number of any length.
MAX_LIMIT = 2**31 - 1
# Options that are also accepted before the command's name.
LEADING = {"--dsn": True, "--session": True, "--json": False, "--quiet": False, "-q": False}


def new_app(help: str | None = None) -> typer.Typer:
    """Return an application with plain help: it costs 60 ms less than panels, and can be copied from a terminal."""
    return typer.Typer(
        help=help, context_settings=CONTEXT, add_completion=False, rich_markup_mode=None, no_args_is_help=False
    )


def check_track(*tracks: str | None) -> None:
    """Raise UsageError for an unknown track."""
    check_words("--track", tracks, TRACKS)


def check_words(option: str, given: Iterable[str | None], allowed: Sequence[str]) -> None:
    """Raise UsageError if a value of an option is not one of the allowed words."""
    for word in given:
        if word is not None and word not in allowed:
            from difflib import get_close_matches  # late: few values are wrong

            near = get_close_matches(word, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else None
            raise UsageError(f"{option} is not one of {', '.join(allowed)}: {word[:40]!r}", hint)


def duration(text: str) -> float:
    """Return a duration option's seconds."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise typer.BadParameter(f"{error.message} ({error.hint})") from None


def duration_with_unit(text: str) -> float:
    """Return the seconds of a duration that may cost claims or rows: a number alone might be meant as hours or days."""
    seconds = duration(text)
    if text.strip()[-1:].isdigit():
        number = text.strip()
        raise typer.BadParameter(f"{number} has no unit (write {number}h, {number}d, or {number}s for seconds)")
    return seconds


complete_held_items = completion.completer("complete_held_items")
complete_known_items = completion.completer("complete_held_items", "complete_past_items")
complete_session_ids = completion.completer("complete_session_ids")
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
    str | None, typer.Option("--track", metavar="|".join(TRACKS), help="The track that the work belongs to.")
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
