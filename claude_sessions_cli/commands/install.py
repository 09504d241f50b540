"""The command `install`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from claude_sessions_cli import options
from claude_sessions_cli.errors import SessionsError

app = options.new_app(help="Let something outside keep the sessions.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")]
Remove = Annotated[bool, typer.Option("--remove", help="Take it away again.")]


def _add_timer(kind: str, help: str) -> None:
    @app.command(kind, help=f"{help}: heartbeat --here and reap, each minute.", short_help=f"{help}.")
    def install(
        dry_run: DryRun = False,
        remove: Remove = False,
        dsn: options.Dsn = None,
        json: options.Json = False,
        quiet: options.Quiet = False,
    ) -> None:
        from claude_sessions_cli import render, timers, views

        output = render.Output(f"install {kind}", json, quiet)
        try:
            if remove:
                result = timers.remove(kind, os.environ, dry_run=dry_run)
            else:
                job = timers.plan(os.environ, sys.argv[0], dsn)
                result = timers.install(kind, job, os.environ, dry_run=dry_run)
        except OSError as error:
            raise SessionsError(f"cannot write {error.filename}: {error.strerror}") from None
        if result.note:
            output.note(result.note)
        output.result(views.timer_data(result), lambda: views.timer_text(result))


_add_timer("cron", "Add a line to this user's crontab")
_add_timer("systemd", "Add a timer to this user's systemd")
_add_timer("launchd", "Add a launch agent of this user")
