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
TIMEOUT_S = 50

app = options.new_app()


@app.command(hidden=True)
def upkeep(
    log: Annotated[bool, typer.Option("--log", help="Print to the log in the state directory.")] = False,
) -> None:
    """Run heartbeat --here and reap, as a timer does. Print changes and errors, each with the time."""
    from claude_sessions_cli import files
    from claude_sessions_cli.timers import upkeep_log

    directory = settings.state_directory(os.environ).absolute()
    try:
        with upkeep_log.run_lock(directory) as locked:
            if locked:
                # First, because a run may be killed at any time.
                files.rotate(upkeep_log.log_path(directory))
                if log:
                    upkeep_log.redirect_output(directory)
                _run(directory)
    except OSError as error:
        raise SessionsError(f"cannot use {error.filename or directory}: {error.strerror}") from None


def _run(directory: Path) -> None:
    from claude_sessions_cli.timers import upkeep_log

    def give_up(*_: object) -> None:
        # At once, as if killed: a rollback would wait for the same server.
        upkeep_log.record_run(directory, message)
        os.write(2, f"{_now()} {message}\n".encode())
        os._exit(EXIT_UNREACHABLE)

    message = f"the database has not answered for {TIMEOUT_S} seconds"
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        for line in _renew_and_reap().splitlines():
            sys.stdout.write(f"{_now()} {line}\n")
    except SessionsError as error:
        upkeep_log.record_run(directory, error.message)
        sys.stderr.write(f"{_now()} {error.message}\n")
        raise typer.Exit(error.exit_code) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    upkeep_log.record_run(directory, None)


def _renew_and_reap() -> str:
    from claude_sessions_cli import as_text, render
    from claude_sessions_cli.embedded import server
    from claude_sessions_cli.operations import heartbeat_here, reap

    found = invocation.load_settings(None)
    # A timer does not start a private server that its user stopped; after a reboot the first command does.
    if found.dsn is None and not server.status().running:
        return ""
    caller = invocation.find_caller(found, required=False)
    with invocation.open_database(found, render.Output("upkeep", quiet=True)) as database:
        here = heartbeat_here.heartbeat_here(database, caller)
        reaped = reap.reap(database, caller)
        invocation.correct_prompts(caller, (verdict.session for verdict in reaped.changed))
    return as_text.here_released_text(here) + as_text.reap_text(reaped, explain=False)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
