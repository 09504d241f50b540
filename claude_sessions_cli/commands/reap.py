"""The command `reap`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options

app = options.new_app()


@app.command()
def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the sessions that are kept too, and why.")] = False,
    max_age: Annotated[
        float | None,
        typer.Option(
            "--max-age",
            parser=options.duration,
            metavar="DURATION",
            help="Also take claims older than this, unless their process is proven alive.",
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(
            "--prune",
            parser=options.duration,
            metavar="DURATION",
            help="Also delete sessions that have been released for longer than this.",
        ),
    ] = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Free what dead sessions hold: for cron, safe to run at any time and on every host.

    A process that is proven dead on this host: released at once. Silent for longer than --stale-after, not parked, and
    not proven alive: stale. Stale for a day: released. Prints the sessions that it changed, with the evidence.
    """
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, required=False)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import reap as operation

    output = render.Output("reap", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = operation.reap(database, caller, max_age=max_age, prune=prune, dry_run=dry_run)
    output.result(views.reap_data(result), lambda: views.reap_text(result, explain))
