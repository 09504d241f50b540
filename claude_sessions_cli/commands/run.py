"""The command `run`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import identity, options, process
from claude_sessions_cli.commands import invocation, waiting
from claude_sessions_cli.errors import EXIT_HELD, EXIT_NOT_HELD, HeldByAnother, NotHeld, SessionsError, UsageError

if TYPE_CHECKING:
    from claude_sessions_cli.caller import Caller
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import ClaimResult

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127

app = options.new_app()


@app.command()
def run(
    sd: Annotated[str, typer.Argument(metavar="SD", help="The work item.")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
    track: options.Track = None,
    wait: options.Wait = None,
    conflict_exit_code: Annotated[
        int, typer.Option("--conflict-exit-code", min=0, max=255, help="Exit with this where another holds the item.")
    ] = EXIT_HELD,
    keep_on_failure: Annotated[
        bool, typer.Option("--keep-on-failure", help="Where the command fails, keep the claim until it lapses.")
    ] = False,
    session: options.SessionId = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    quiet: options.Quiet = False,
) -> None:
    """Run a command under a claim: claim, keep the heartbeat while it runs, release.

    Exits with the command's code. Where the claim is lost, or cannot be renewed in time, the command gets TERM and then
    KILL before anyone else can have the item; exit 4. The command finds CLAUDE_SESSIONS_SD, CLAUDE_SESSIONS_FENCE and
    CLAUDE_SESSIONS_SESSION_ID in its environment.
    """
    from claude_sessions_cli import leases, render, running, sessions

    options.check_track(track)
    sessions.check_work_item(sd)
    output = render.Output("run", quiet=quiet)
    _check_command(command[0])
    settings = invocation.load_settings(dsn, stale_after)
    own = invocation.find_caller(settings, session=session, required=False)
    itself = process.read(os.getpid())

    with invocation.open_database(settings, output) as database:
        shared = _holds(database, own, sd)
        who = own if shared else _session_of_its_own(own, itself, session)

        def claim_one(item: str) -> ClaimResult:
            return sessions.claim(database, who, item, track=track)

        try:
            waiting.take(database, who, [sd], wait, claim_one, quiet=quiet)
            renewed = running.uptime()
            held = leases.enter_run(database, who, {**_record(who, itself)})
        except HeldByAnother as error:
            output.failure(error)
            raise typer.Exit(conflict_exit_code) from None
    fence = held.session.fence or 0
    invocation.remember(who, held.session)

    def renew() -> None:
        with invocation.open_database(settings, output) as database, invocation.loss_remembered(who):
            leases.renew_term(database, who, sd, fence)

    keeper = running.Keeper(renew, settings.heartbeat_every, renewed)
    window = running.Window(settings.stale_after)
    environment = {**os.environ, **_exports(who, sd, fence, dsn)}
    try:
        finished = running.run(command, environment, keeper, window, lambda text: output.failure(NotHeld(text)))
    except OSError as error:
        finished = running.Finished(_code_of(error))
        output.failure(SessionsError(f"cannot run {command[0]}: {error.strerror}"))

    if not shared:
        invocation.forget(who)
    failed = finished.code != 0 or finished.stopped_for is not None
    try:
        with invocation.open_database(settings, output) as database:
            if shared:
                leases.leave_run(database, who)
            elif failed and keep_on_failure:
                leases.outlive_process(database, who)
            else:
                leases.release_term(database, who, sd, fence, reason="failed" if failed else "completed")
    except SessionsError as error:
        # The command's own answer matters more; the claim lapses by itself, because this process is gone.
        output.note(f"the claim was not given back: {error.message}")
    raise typer.Exit(EXIT_NOT_HELD if finished.stopped_for else finished.code)


def _check_command(program: str) -> None:
    if shutil.which(program) is not None:
        return
    found = Path(program).exists() if "/" in program else shutil.which(program, os.F_OK) is not None
    error = UsageError(f"cannot run {identity.shorten(program)}: {'not executable' if found else 'no such command'}")
    from claude_sessions_cli.render import Output

    Output("run").failure(error)
    raise typer.Exit(EXIT_NOT_EXECUTABLE if found else EXIT_NOT_FOUND)


def _code_of(error: OSError) -> int:
    return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE


def _holds(database: Database, own: Caller, sd: str) -> bool:
    from claude_sessions_cli import leases

    if own.identity.session_id is None:
        return False
    try:
        leases.check(database, own, sd)
    except NotHeld:
        return False
    return True


def _session_of_its_own(own: Caller, itself: process.Process, session: str | None) -> Caller:
    """Return this very process as a session: it ends with the command, and needs no terminal."""
    who = replace(
        own.identity,
        session_id=session or identity.derive_session_id(itself, own.identity.host),
        anchor=itself,
        tty=itself.tty,
    )
    return replace(own, identity=who)


def _record(who: Caller, itself: process.Process) -> dict[str, object]:
    host = who.identity.host
    return {"pid": itself.pid, "start": itself.start, "boot_id": host.boot_id, "pid_ns": host.pid_ns}


def _exports(who: Caller, sd: str, fence: int, dsn: str | None) -> dict[str, str]:
    exports = {
        "CLAUDE_SESSIONS_SESSION_ID": who.session_id,
        "CLAUDE_SESSIONS_SD": sd,
        "CLAUDE_SESSIONS_FENCE": str(fence),
    }
    anchor = who.identity.anchor
    if anchor:
        exports["CLAUDE_SESSIONS_ANCHOR"] = f"{who.identity.host.pid_ns} {anchor.pid} {anchor.start}"
    if dsn:  # or the command's own calls would ask another database
        exports["CLAUDE_SESSIONS_DSN"] = dsn
    return exports
