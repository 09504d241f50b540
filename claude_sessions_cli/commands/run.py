"""The command `run`."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from claude_sessions_cli import invocation, options, process, prompt_sync
from claude_sessions_cli.errors import (
    EXIT_HELD,
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    EXIT_NOT_HELD,
    NOT_A_PROGRAM,
    HeldByAnother,
    NoIdentity,
    UsageError,
)
from claude_sessions_cli.names import check_work_item
from claude_sessions_cli.text import shorten

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.operations.caller import Caller
    from claude_sessions_cli.operations.claim import ClaimResult
    from claude_sessions_cli.render import Output

STDERR = 2

app = options.new_app()


class RunCommand(TyperCommand):
    """A command line whose item stands before its first `--`, and the options of its command behind it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a line that would run something else.

        Without an item, the command's name would be locked, and its first argument run; without a `--`, the command's
        options would be taken for those of `run`.
        """
        parser = self.make_parser(ctx)
        if "--" in args:
            before, _, _ = parser.parse_args(args[: args.index("--")])
            if not (before.get("sd") or before.get("help")):
                raise UsageError("no work item before --", "name it: claude-sessions run SD -- COMMAND")
        else:
            # It stops at a word that is no option: at the item, then at the command.
            parser.allow_interspersed_args = False
            after_item, _, _ = parser.parse_args([*args])
            after_command, _, _ = parser.parse_args([*(after_item.get("command") or ())])
            for word in after_command.get("command") or ():
                if word.startswith("-") and word != "-":
                    raise UsageError(
                        f"no -- before the command, which has an option: {word[:40]!r}",
                        "add it: claude-sessions run SD -- COMMAND",
                    )
        return super().parse_args(ctx, args)


@app.command(cls=RunCommand)
def run(
    sd: Annotated[
        str, typer.Argument(metavar="SD", help="The work item.", autocompletion=options.complete_known_items)
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
    track: options.Track = None,
    wait: options.Wait = None,
    conflict_exit_code: Annotated[
        int,
        typer.Option("--conflict-exit-code", min=0, max=255, metavar="N", help="Exit code if another holds it."),
    ] = EXIT_HELD,
    keep_on_failure: Annotated[
        bool, typer.Option("--keep-on-failure", help="If the command fails, keep the claim until it lapses.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", parser=options.duration, metavar="DURATION", help="Stop the command after this long."
        ),
    ] = None,
    session: options.SessionId = None,
    stale_after: options.StaleAfter = None,
    dsn: options.Dsn = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end; the command's output goes to stderr.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a command under a claim.

    Claims the item, renews the claim while the command runs, and releases it. Exits with the command's code; 124 if it
    timed out. If the claim is lost, or cannot be renewed in time, the command gets TERM and then KILL before another
    session can take the item; exit 4. If this process is killed, a guardian stops the command in the same way. The
    command finds CLAUDE_SESSIONS_SD, CLAUDE_SESSIONS_FENCE and CLAUDE_SESSIONS_SESSION_ID in its environment.
    """
    from claude_sessions_cli import as_json, render, supervisor
    from claude_sessions_cli.operations import run as operation
    from claude_sessions_cli.operations.tombstones import describe

    gc.enable()  # the program disables it, because most commands are short
    options.check_track(track)
    check_work_item(sd)
    output = render.Output("run", json, quiet)
    _check_command(command[0], output)
    settings = invocation.load_settings(dsn, stale_after)
    own = invocation.find_caller(settings, session=session, required=False)
    itself = _read_itself()
    deadline = invocation.deadline_after(wait)
    with invocation.open_database(settings, output, deadline) as database:

        def acquire(caller: Caller, claim_one: Callable[[str], ClaimResult]) -> ClaimResult:
            result = invocation.claim_or_wait(database, caller, [sd], deadline, claim_one, output)
            if result.lost_before:
                output.loss(f"before this, the session {describe(result.lost_before)}")
            return result

        named, waits = session is not None, deadline is not None
        try:
            lease = operation.begin(database, own, itself, sd, named=named, track=track, acquire=acquire, waits=waits)
        except HeldByAnother as error:
            # A refusal that the caller calls success, as cron does, is no news.
            if not (quiet and conflict_exit_code == 0):
                output.failure(error)
            raise typer.Exit(conflict_exit_code) from None
    prompt_sync.update(lease.caller, lease.held.session, database)

    @contextmanager
    def connect(shows_loss: bool) -> Iterator[Database]:
        with (
            invocation.open_database(settings, output) as opened,
            prompt_sync.shows_loss(lease.caller, opened) if shows_loss else nullcontext(),
        ):
            yield opened

    def ended() -> None:
        if not lease.shared:
            prompt_sync.clear(lease.caller, database)

    environment = operation.environment_for(lease, os.environ, dsn, stale_after)
    result = operation.supervise(
        *(command, environment, lease, connect, render.report, ended),
        keep_on_failure=keep_on_failure,
        timeout=timeout,
        stdout=STDERR if json else None,
    )
    output.result(as_json.run_data(result, lease), list)
    if result.lost:
        raise typer.Exit(EXIT_NOT_HELD)
    supervisor.follow(result.finished)
    raise typer.Exit(result.finished.code)


def _check_command(program: str, output: Output) -> None:
    if shutil.which(program) is not None:
        return
    reason, code = "no such command", EXIT_NOT_FOUND
    if "/" in program and Path(program).is_dir():
        reason, code = "it is a directory", EXIT_NOT_EXECUTABLE
    elif ("/" in program and os.path.lexists(program)) or shutil.which(program, os.F_OK) is not None:
        reason, code = "it is not executable", EXIT_NOT_EXECUTABLE
    output.failure(UsageError(f"cannot run {shorten(program)}: {reason}", NOT_A_PROGRAM))
    raise typer.Exit(code)


def _read_itself() -> process.Process:
    try:
        return process.read(os.getpid())
    except PermissionError:
        raise NoIdentity(
            "this process cannot see itself in /proc, so it cannot be a session", "mount /proc without hidepid"
        ) from None
