"""The command `install`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from claude_sessions_cli import options
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.timers.install import KINDS, Kind

app = options.new_app(help="Install a timer that renews and reaps.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written; write nothing.")]
Remove = Annotated[bool, typer.Option("--remove", help="Remove it.")]


def _add_timer(name: str, kind: Kind) -> None:
    @app.command(name, help=f"{kind.HELP}: heartbeat --here and reap, each minute.", short_help=f"{kind.HELP}.")
    def install(
        dry_run: DryRun = False,
        remove: Remove = False,
        dsn: options.Dsn = None,
        json: options.Json = False,
        quiet: options.Quiet = False,
    ) -> None:
        from claude_sessions_cli import as_text, render
        from claude_sessions_cli.timers import install as operation
        from claude_sessions_cli.timers import job

        output = render.Output(f"install {name}", json, quiet)
        try:
            if remove:
                result = operation.remove(name, os.environ, dry_run=dry_run)
            else:
                planned = job.plan(os.environ, sys.argv[0], dsn)
                result = operation.install(name, planned, os.environ, dry_run=dry_run)
        except OSError as error:
            raise SessionsError(f"cannot write {error.filename}: {error.strerror}") from None
        if result.note:
            output.note(result.note)
        output.result(asdict(result), lambda: as_text.timer_text(result))


for name, kind in KINDS.items():
    _add_timer(name, kind)
