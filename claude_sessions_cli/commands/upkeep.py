"""The hidden command `upkeep`, which the timers run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from claude_sessions_cli import invocation, options, prompt_sync, settings
from claude_sessions_cli.errors import EXIT_UNREACHABLE, RowsRefused, SessionsError, Unreachable, UsageError
from claude_sessions_cli.log import write as write_log

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.operations.caller import Caller

# What it does to the database: the lines that it prints, and those of the rows that the table refused.
Step: TypeAlias = "Callable[[Database, Caller], tuple[list[str], list[str]]]"
# The next run is due after a minute.
TIMEOUT_S = 50

app = options.new_app()


@app.command(hidden=True)
def upkeep(
    here: Annotated[bool, typer.Option("--here", help="Reap nothing: another host does.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print to the log in the state directory.")] = False,
) -> None:
    """Run heartbeat --here and reap, as a timer does. Print changes and errors, each with the time."""
    from claude_sessions_cli import files
    from claude_sessions_cli.timers import upkeep_log

    directory = settings.usable_state_directory(os.environ)
    try:
        with upkeep_log.run_lock(directory) as locked:
            if locked:
                # First, because a run may be killed at any time.
                files.rotate(upkeep_log.log_path(directory))
                if log:
                    upkeep_log.redirect_output(directory)
                _run(directory, [_renew] if here else [_renew, _reap])
    except OSError as error:
        raise UsageError(
            f"cannot use {error.filename or directory}: {error.strerror}", settings.ANOTHER_STATE
        ) from None


def _run(directory: Path, steps: Sequence[Step]) -> None:
    from claude_sessions_cli.timers import upkeep_log

    def give_up(*_: object) -> None:
        # At once, as if killed: a rollback would wait for the same server.
        upkeep_log.record_run(directory, message)
        write_log(2, message)
        os._exit(EXIT_UNREACHABLE)

    message = f"the database has not answered for {TIMEOUT_S} seconds"
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        failures = _take(steps)
    except SessionsError as error:
        failures = [error]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for failure in failures:
        for line in failure.as_text():
            write_log(2, line)
    upkeep_log.record_run(directory, failures[0].message if failures else None)
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _take(steps: Sequence[Step]) -> list[SessionsError]:
    """Take each step, and print what it changed; return the errors of all."""
    from claude_sessions_cli import render
    from claude_sessions_cli.embedded import server

    found = invocation.load_settings(None)
    if found.dsn is None:
        state = server.status()
        # A timer starts it after a reboot, but creates none, and leaves one alone that its user stopped.
        if not state.running and (state.stopped or state.version is None):
            return []
    caller = invocation.find_caller(found, required=False)
    failures = []
    with invocation.open_database(found, render.Output("upkeep", quiet=True)) as database:
        for step in steps:
            try:
                lines, refused = step(database, caller)
            except Unreachable:
                raise
            except SessionsError as error:
                # Another step may work.
                failures.append(error)
                continue
            for line in lines:
                write_log(1, line)
            if refused:
                failures.append(RowsRefused(refused, {}))
    return failures


def _renew(database: Database, caller: Caller) -> tuple[list[str], list[str]]:
    from claude_sessions_cli import as_text
    from claude_sessions_cli.operations.heartbeat_here import heartbeat_here

    result = heartbeat_here(database, caller)
    return as_text.here_released_text(result), as_text.refused_lines(result.refused)


def _reap(database: Database, caller: Caller) -> tuple[list[str], list[str]]:
    from claude_sessions_cli import as_text
    from claude_sessions_cli.operations.reap import reap

    result = reap(database, caller)
    prompt_sync.correct(caller, (verdict.session for verdict in result.changed))
    return as_text.reap_text(result), as_text.refused_lines(result.refused)
