"""The hidden command `upkeep`, which the timers run."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from claude_sessions_cli import invocation, options, settings
from claude_sessions_cli.errors import EXIT_UNREACHABLE, SessionsError

# The next run is due after a minute.
PATIENCE_S = 50

app = options.new_app()


@app.command(hidden=True)
def upkeep(
    log: Annotated[bool, typer.Option("--log", help="Say it in the log of the state directory.")] = False,
) -> None:
    """Run heartbeat --here and reap, as a timer does: says what changed and what failed, each with the time."""
    from claude_sessions_cli import rounds

    directory = settings.state_directory(os.environ).absolute()
    try:
        with rounds.only_one(directory) as first:
            if first:
                # First of all, since a run may end at any time.
                rounds.rotate(directory)
                if log:
                    rounds.write_to_log(directory)
                _run(directory)
    except OSError as error:
        raise SessionsError(f"cannot use {error.filename or directory}: {error.strerror}") from None


def _run(directory: Path) -> None:
    from claude_sessions_cli import rounds

    def give_up(*_: object) -> None:
        # At once, as if killed: to roll back would wait for the same server.
        rounds.record_run(directory, message)
        os.write(2, f"{_now()} {message}\n".encode())
        os._exit(EXIT_UNREACHABLE)

    message = f"the database has not answered for {PATIENCE_S} seconds"
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        for line in _keep().splitlines():
            sys.stdout.write(f"{_now()} {line}\n")
    except SessionsError as error:
        rounds.record_run(directory, error.message)
        sys.stderr.write(f"{_now()} {error.message}\n")
        raise typer.Exit(error.exit_code) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    rounds.record_run(directory, None)


def _keep() -> str:
    from claude_sessions_cli import embedded, render, views
    from claude_sessions_cli.operations import heartbeat_here, reap

    found = invocation.load_settings(None)
    # A private server that its user has stopped stays so; after a reboot the first command starts it.
    if found.dsn is None and not embedded.status().running:
        return ""
    caller = invocation.find_caller(found, required=False)
    with invocation.open_database(found, render.Output("upkeep", quiet=True)) as database:
        here = heartbeat_here.heartbeat_here(database, caller)
        reaped = reap.reap(database, caller)
    return views.here_released_text(here) + views.reap_text(reaped, explain=False)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
