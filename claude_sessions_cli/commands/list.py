"""The command `list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import STATUSES, TRACKS

if TYPE_CHECKING:
    from claude_sessions_cli.model import Listing

app = options.new_app()
MAX_LIMIT = 2**31 - 1
WATCH_EVERY_S = 2.0


@app.command("list")
def list_(
    sd: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SD]...",
            help="Only who holds these work items.",
            autocompletion=options.complete_held_items,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Sessions that have ended too.")] = False,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="|".join(STATUSES), help="Only this status; repeatable.")
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option("--track", metavar="|".join(TRACKS), help="Only this track; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Only sessions on this host.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions on the host of this command.")] = False,
    codebase: Annotated[str | None, typer.Option("--codebase", metavar="NAME", help="Only this codebase.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only this session.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=MAX_LIMIT, metavar="N", help="At most N sessions.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float | None, typer.Option("--interval", parser=options.duration, metavar="DURATION", help="How often [2s].")
    ] = None,
    session: options.SessionId = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who holds what, where, how old it is, and whether it is really alive.

    YOURS is this session; DEAD has a process that is gone; PARKED has declared its silence; LAPSED may be taken by
    anyone; LIVE has a live process or a fresh heartbeat; QUIET is the rest.
    """
    options.check_words("--status", status or (), STATUSES)
    options.check_track(*(track or ()))
    if host is not None and here:
        raise UsageError("--host and --here exclude each other")
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, session=session, required=mine)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import list as operation
    from claude_sessions_cli.operations import sessions

    sd_ids = [sessions.check_work_item(item) for item in sd or ()]
    output = render.Output("list", json, quiet)
    with invocation.open_database(settings, output) as database:

        def find() -> Listing:
            return operation.list_sessions(
                database,
                caller,
                sd_ids=sd_ids,
                all_statuses=all_,
                statuses=status or (),
                tracks=track or (),
                hostname=caller.identity.host.hostname if here else host,
                codebase=codebase,
                session_id=caller.session_id if mine else None,
                limit=limit,
            )

        if watch:
            output.watch(lambda: _cells_of(find()), interval or WATCH_EVERY_S)
            return
        found = find()
    output.table(views.listing_data(found), views.listing_rows(found), "no sessions")
    if found.total > len(found.sessions):
        output.note(f"{found.total - len(found.sessions)} more")


def _cells_of(found: Listing) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    from claude_sessions_cli import views

    return views.listing_data(found), views.listing_rows(found)
