"""The command `reap`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import invocation, options, prompt_sync
from claude_sessions_cli.errors import UsageError

app = options.new_app()


@app.command()
def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Also show the sessions that are kept, and why.")] = False,
    max_age: Annotated[
        float | None,
        typer.Option(
            "--max-age",
            parser=options.duration_with_unit,
            metavar="DURATION",
            help="Also free claims older than DURATION.",
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(
            "--prune",
            parser=options.duration_with_unit,
            metavar="DURATION",
            help="Also delete sessions released this long ago.",
        ),
    ] = None,
    cascade: Annotated[bool, typer.Option("--cascade", help="With --prune: change other tables' rows too.")] = False,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """End dead sessions and free their claims.

    For cron: safe to run at any time and on every host. A session whose process is dead on this host is released at
    once. One that is silent for longer than --stale-after, neither parked nor proven alive, becomes stale, and after a
    day released. Prints the sessions that it changed, with the evidence. Exit 7 if the table refused some.
    """
    settings = invocation.load_settings(dsn, stale_after)
    caller = invocation.find_caller(settings, required=False)

    if max_age is not None and max_age < settings.stale_after:
        raise UsageError(
            f"--max-age ({max_age:g}s) is shorter than stale_after ({settings.stale_after:g}s)",
            "write at least stale_after, such as --max-age 1d",
        )
    if cascade and prune is None:
        raise UsageError("--cascade is for --prune", "name the age: --prune 30d --cascade")

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import reap as operation

    output = render.Output("reap", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = operation.reap(
            database,
            caller,
            max_age=max_age,
            prune=prune,
            cascade=cascade,
            dry_run=dry_run,
            explain=explain,
            announce=lambda references: output.note(as_text.cascade_text(references)),
        )
        if not dry_run:
            prompt_sync.correct(caller, (verdict.session for verdict in result.changed))
    output.result_unless_refused(
        as_json.reap_data(result), lambda: as_text.reap_text(result), as_text.refused_lines(result.refused)
    )
