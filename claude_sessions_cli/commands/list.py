"""The command `list`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claude_sessions_cli import completion, invocation, options
from claude_sessions_cli.errors import Unreachable, UsageError
from claude_sessions_cli.model import STATUSES, TRACKS, JudgedSession
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.settings import rule_words

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.operations.list import Listing
    from claude_sessions_cli.render import Output
    from claude_sessions_cli.table import Column, Layout, Table

app = options.new_app()
WATCH_EVERY_S = 2.0


def _columns(_: typer.Context) -> Iterable[str]:
    from claude_sessions_cli import table

    return table.COLUMNS


def _sorts(_: typer.Context) -> Iterable[str]:
    from claude_sessions_cli.operations import list as operation

    return operation.SORTS


def _column_option(name: str, help: str, words: Callable[[typer.Context], Iterable[str]]) -> Any:
    return typer.Option(name, metavar="COLUMN[,...]", help=help, autocompletion=completion.chooser(words, many=True))


@app.command("list")
def list_(
    sd: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SD]...",
            help="Only the holders of these work items.",
            autocompletion=options.complete_held_items,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Include sessions that have ended.")] = False,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="|".join(STATUSES),
            help="Only this status; repeatable.",
            autocompletion=completion.chooser(lambda _: STATUSES),
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            metavar="|".join(TRACKS),
            help="Only this track; repeatable.",
            autocompletion=options.complete_tracks,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Only sessions on the host NAME.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions on the command's own host.")] = False,
    codebase: Annotated[str | None, typer.Option("--codebase", metavar="NAME", help="Only this codebase.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only this session.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=options.MAX_LIMIT, metavar="N", help="At most N sessions.")
    ] = None,
    sort: Annotated[list[str] | None, _column_option("--sort", "Sort by these; -COLUMN reverses.", _sorts)] = None,
    columns: Annotated[list[str] | None, _column_option("--columns", "Show these columns only.", _columns)] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show every column and whole ids.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print plain lines on a terminal too.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON object for each session.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw the list until q is pressed.")] = False,
    interval: Annotated[
        float | None,
        typer.Option("--interval", parser=options.duration, metavar="DURATION", help="How often [2s]."),
    ] = None,
    session: options.SessionId = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who holds what, and whether it lives.

    YOURS is this session; DEAD has a process that is gone; PARKED has declared its silence; LAPSED may be taken by
    anyone; LIVE has a live process or a fresh heartbeat; QUIET is the rest. A narrow terminal shows fewer columns, and
    ids as prefixes, which other commands accept if they are unique.
    """
    options.check_words("--status", status or (), STATUSES)
    options.check_track(*(track or ()))
    if host is not None:
        options.refuse_beside("--host", {"--here": here})
    if jsonl:
        options.refuse_beside("--jsonl", {"--json": json})
    if columns:
        options.refuse_beside("--columns", {"--json": json, "--jsonl": jsonl})
    if interval is not None and not watch:
        raise UsageError("--interval needs --watch", "add --watch")
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, required=mine)

    from claude_sessions_cli import as_json, as_text, render, table
    from claude_sessions_cli.operations import list as operation
    from claude_sessions_cli.operations import short_ids

    named, sorts = _words(columns), _words(sort)
    options.check_words("--columns", named, tuple(table.COLUMNS))
    options.check_words("--sort", [word.removeprefix("-") for word in sorts], tuple(operation.SORTS))
    filters = operation.Filters(
        sd_ids=[check_work_item(item) for item in sd or ()],
        all_statuses=all_,
        statuses=status or (),
        tracks=track or (),
        hostname=caller.identity.host.hostname if here else host,
        boot_id=caller.identity.host.boot_id if here else None,
        codebase=codebase,
        limit=limit,
        sort=sorts,
    )
    output = render.Output("list", json, quiet)
    layout = table.Layout(plain, wide, chosen=bool(named))
    shown = table.named(named) if named else table.LIST
    with invocation.open_database(settings, output) as database:
        caller = short_ids.as_named(database, caller)
        if mine:
            filters = replace(filters, session_id=caller.session_id)
        name = "the private server" if settings.dsn is None else database.description
        source = f"{name}, {rule_words(settings.dsn_source)}"

        def look() -> operation.Listing:
            return operation.list_sessions(database, caller, filters)

        if watch:
            _watch(database, look, output, layout, shown, source, interval or WATCH_EVERY_S, jsonl)
            return
        found = look()
    if jsonl:
        output.objects(map(as_json.session_data, found.sessions))
        return
    rows = table.rows(shown, found.sessions)
    if found.sessions or json or quiet:
        output.table(as_json.listing_data(found), rows, layout, as_text.listing_footer(found, source))
    for item in as_text.free_items(found, filters):
        output.note(item)
    if (more := found.total - len(found.sessions)) > 0:
        output.note(f"{more} more")


def _words(texts: Iterable[str] | None) -> list[str]:
    return [word.strip().lower() for text in texts or () for word in text.split(",") if word.strip()]


def _watch(
    database: Database,
    look: Callable[[], Listing],
    output: Output,
    layout: Layout,
    columns: Sequence[Column[JudgedSession]],
    source: str,
    seconds: float,
    jsonl: bool,
) -> None:
    """Look again and again, through a restart of the database too."""
    from claude_sessions_cli import as_json, as_text, table

    is_lost = False

    def look_again() -> Listing:
        nonlocal is_lost
        if is_lost:
            database.reconnect()
        is_lost = True
        found = look()
        is_lost = False
        return found

    def drawn() -> tuple[Table, str]:
        found = look_again()
        return table.rows(columns, found.sessions), as_text.listing_footer(found, source)

    if not (output.json or jsonl or layout.plain) and sys.stdout.isatty():
        from claude_sessions_cli import screen

        screen.watch(drawn, layout, "claude-sessions list", seconds)
        return
    is_noted = False
    while True:
        try:
            found = look_again()
        except Unreachable as error:
            if not is_noted:
                output.note(f"{error.message}; trying again")
            is_noted = True
        else:
            is_noted = False
            data, rows = as_json.listing_data(found), table.rows(columns, found.sessions)
            is_read = output.objects(data["sessions"]) if jsonl else output.again(data, rows)
            if not is_read:
                return
        time.sleep(seconds)
