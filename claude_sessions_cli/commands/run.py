"""The command `run`."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import identity, invocation, options, process
from claude_sessions_cli.errors import (
    EXIT_HELD,
    EXIT_NOT_HELD,
    HeldByAnother,
    NoIdentity,
    NotHeld,
    SessionsError,
    UsageError,
)
from claude_sessions_cli.model import ProcessRecord
from claude_sessions_cli.text import clean

if TYPE_CHECKING:
    from claude_sessions_cli.model import ClaimResult, Session
    from claude_sessions_cli.operations.caller import Caller
    from claude_sessions_cli.render import Output

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
GIVE_BACK_S = 5.0
TELL_S = 0.1

app = options.new_app()


@app.command()
def run(
    sd: Annotated[
        str, typer.Argument(metavar="SD", help="The work item.", autocompletion=options.complete_known_items)
    ],
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
    from claude_sessions_cli import render, renewal, supervisor
    from claude_sessions_cli.operations import run as operation
    from claude_sessions_cli.operations import sessions

    gc.enable()  # which the program turns off, because most commands are short
    options.check_track(track)
    sessions.check_work_item(sd)
    output = render.Output("run", quiet=quiet)
    _check_command(command[0], output)
    settings = invocation.load_settings(dsn, stale_after)
    own = invocation.find_caller(settings, session=session, required=False)
    itself, host = _read_itself(), own.identity.host
    runner = ProcessRecord(itself.pid, itself.start, host.boot_id, host.pid_ns)

    with invocation.open_database(settings, output) as database:

        def claim_one(item: str) -> ClaimResult:
            return sessions.claim(database, who, item, track=track)

        try:
            who, shared = operation.find_holder(database, own, itself, sd, named=session is not None)
            if not shared:
                invocation.claim_or_wait(database, who, [sd], wait, claim_one, output)
            begun = renewal.uptime()
            held = operation.enter(database, who, runner)
            if shared and track:
                held = claim_one(sd).session
        except HeldByAnother as error:
            output.failure(error)
            raise typer.Exit(conflict_exit_code) from None
    fence = held.session.fence or 0
    invocation.remember(who, held.session)

    def trusted(session: Session) -> float:
        # What the row says is what others go by.
        return session.patience_s(0.0) or settings.stale_after

    def renew() -> float:
        with invocation.open_database(settings, output) as database, invocation.loss_remembered(who):
            return trusted(operation.renew(database, who, sd, fence).session)

    def give_back(keep: bool, reason: str) -> None:
        with invocation.open_database(settings, output) as database:
            if shared:
                with invocation.loss_remembered(who):
                    operation.leave(database, who, runner, sd, fence)
            elif keep:
                operation.outlive_process(database, who, sd, fence)
            else:
                operation.release(database, who, sd, fence, reason=reason)

    keeper = renewal.Keeper(renew, settings.heartbeat_every, renewal.Trust(begun, trusted(held.session)))
    environment = _environment(who, sd, fence, dsn, stale_after)
    has_started = True
    try:
        finished = supervisor.run(command, environment, keeper, _tell)
    except OSError as error:
        has_started, finished = False, supervisor.Finished(_code_of(error))
        _tell(f"cannot run {identity.shorten(command[0])}: {error.strerror}", GIVE_BACK_S)

    if not shared:
        invocation.forget(who)
    failed = finished.code != 0 or finished.stopped_for is not None
    keep = keep_on_failure and failed and has_started and keeper.lost is None
    problem = _within(GIVE_BACK_S, lambda: give_back(keep, "failed" if failed else "completed"))
    lost = finished.stopped_for is not None or (has_started and isinstance(problem, NotHeld))
    if isinstance(problem, NotHeld):
        # Who stopped the command for it has told it already.
        if finished.stopped_for is None:
            _tell(f"the claim was lost before the command ended: {problem.message}", GIVE_BACK_S)
    elif problem:
        # The command's own answer matters more; the claim lapses by itself, because this process is gone.
        _tell(f"the claim was not given back: {problem.message}", GIVE_BACK_S)
    elif keep and not shared:
        give = f"claude-sessions release --session {who.session_id} --end"
        _tell(f"{sd} is kept until it lapses; give it back: {give}", GIVE_BACK_S)
    if not lost:
        supervisor.follow(finished)
    raise typer.Exit(EXIT_NOT_HELD if lost else finished.code)


def _check_command(program: str, output: Output) -> None:
    if shutil.which(program) is not None:
        return
    reason, code = "no such command", EXIT_NOT_FOUND
    if "/" in program and Path(program).is_dir():
        reason, code = "it is a directory", EXIT_NOT_EXECUTABLE
    elif ("/" in program and os.path.lexists(program)) or shutil.which(program, os.F_OK) is not None:
        reason, code = "it is not executable", EXIT_NOT_EXECUTABLE
    output.failure(UsageError(f"cannot run {identity.shorten(program)}: {reason}"))
    raise typer.Exit(code)


def _code_of(error: OSError) -> int:
    return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE


def _tell(text: str, patience: float = TELL_S) -> None:
    """Write a line to stderr, but wait no longer for its reader: a command is to be stopped in time, whoever reads."""
    line = os.fsencode(f"claude-sessions: {clean(text)}\n")

    def write() -> None:
        with suppress(OSError):
            os.write(2, line)

    # Not through sys.stderr: a thread that holds its lock at exit brings the interpreter down.
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(patience)


def _within(seconds: float, work: Callable[[], None]) -> SessionsError | None:
    """Do some work in a thread that may hang; return what went wrong."""
    problems = [SessionsError("the database did not answer in time")]

    def attempt() -> None:
        try:
            work()
            problems.clear()
        except SessionsError as error:
            problems[:] = [error]
        except Exception as error:
            problems[:] = [SessionsError(f"{type(error).__name__}: {error}")]

    worker = threading.Thread(target=attempt, daemon=True)
    worker.start()
    worker.join(seconds)
    return problems[0] if problems else None


def _read_itself() -> process.Process:
    try:
        return process.read(os.getpid())
    except PermissionError:
        raise NoIdentity("this process cannot see itself in /proc, so it cannot be a session") from None


def _environment(who: Caller, sd: str, fence: int, dsn: str | None, stale_after: float | None) -> dict[str, str]:
    """Return the command's environment, in which the program acts as this session on this database."""
    anchor = who.identity.anchor
    exports = {
        "CLAUDE_SESSIONS_SESSION_ID": who.session_id,
        "CLAUDE_SESSIONS_ANCHOR": identity.export_anchor(anchor, who.identity.host) if anchor else None,
        "CLAUDE_SESSIONS_SD": sd,
        "CLAUDE_SESSIONS_FENCE": str(fence),
    }
    if dsn:
        exports["CLAUDE_SESSIONS_DSN"] = dsn
    if stale_after:
        exports["CLAUDE_SESSIONS_STALE_AFTER"] = f"{stale_after:g}"
    # An anchor that was inherited belongs to another id.
    return {name: value for name, value in {**os.environ, **exports}.items() if value is not None}
