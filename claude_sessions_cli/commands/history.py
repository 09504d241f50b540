"""The command `history`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.names import check_name

if TYPE_CHECKING:
    from claude_sessions_cli.operations.timeline import Timeline
    from claude_sessions_cli.settings import Settings

DAY_S = 86400.0
USUAL_LIMIT = 100

app = options.new_app()


@app.command()
def history(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD|SESSION]",
            help="A work item or a session [this session].",
            autocompletion=options.complete_known_names,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, max=options.MAX_LIMIT, metavar="N", help=f"At most the latest N [{USUAL_LIMIT}]."
        ),
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Draw who held what, a bar for each item.")] = False,
    since: Annotated[
        float | None,
        typer.Option("--since", parser=options.duration, metavar="DURATION", help="The length of the timeline [1d]."),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write the timeline as a picture.")] = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show who held an item, and how it ended.

    For a session: its terms, with times, and who ended each, from which host. --timeline draws all items of a day.
    """
    if not (timeline or svg) and since is not None:
        raise UsageError("--since needs --timeline", "add --timeline")
    if limit is not None:
        options.refuse_beside("--limit", {"--timeline": timeline, "--svg": svg is not None})
    settings = invocation.load_settings(dsn)
    if timeline or svg:
        _draw(settings, name, since or DAY_S, svg, json, quiet)
        return
    if name is None:
        name = invocation.find_caller(settings).session_id
    check_name(name)

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import history as operation

    output = render.Output("history", json, quiet)
    with invocation.open_database(settings, output) as database:
        found = operation.read(database, name, limit=limit or USUAL_LIMIT)
    output.tables(as_json.history_data(found), as_text.history_tables(found))


def _draw(settings: Settings, name: str | None, seconds: float, svg: Path | None, json: bool, quiet: bool) -> None:
    if name is not None:
        check_name(name)

    from claude_sessions_cli import as_json, chart, render
    from claude_sessions_cli.operations import timeline as operation

    output = render.Output("history", json, quiet)
    caller = invocation.find_caller(settings, required=False)
    with invocation.open_database(settings, output) as database:
        found = operation.timeline(database, caller, seconds, name)
    if svg is not None:
        try:
            # Not replaced: it may be /dev/stdout.
            svg.write_text(chart.svg(found), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {svg}: {error.strerror}", "name another file") from None
        output.note(f"drawn in {svg}")
        output.result(as_json.timeline_data(found), list)
    elif found.items:
        output.result(as_json.timeline_data(found), lambda: _bars(found))
    else:
        output.result(as_json.timeline_data(found), list)
        output.note("nothing was held in that time")


def _bars(found: Timeline) -> list[str]:
    from claude_sessions_cli import chart, render

    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    return list(chart.lines(found, render.columns_of(), ascii_only="utf" not in locale.lower()))
