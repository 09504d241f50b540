"""The command `heartbeat`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options, prompt, prompt_sync
from claude_sessions_cli.errors import UsageError

if TYPE_CHECKING:
    from claude_sessions_cli.settings import Settings

app = options.new_app()


@app.command()
def heartbeat(
    register: Annotated[
        bool, typer.Option("--register", help="Register a session that is unknown or has ended.")
    ] = False,
    if_older_than: Annotated[
        float | None,
        typer.Option(
            "--if-older-than",
            parser=options.duration,
            metavar="DURATION",
            help="Send none if the last one is younger.",
        ),
    ] = None,
    here: Annotated[
        bool,
        typer.Option("--here", help="For cron: renew the live sessions of this host, and release the dead ones."),
    ] = False,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", hidden=True, help="From a shell that uses another database now.")
    ] = False,
    shown: Annotated[
        str | None, typer.Option("--prompt", hidden=True, help="The line of the file that the prompt shows.")
    ] = None,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    stale_after: options.StaleAfter = None,
    within: options.Within = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that this session is alive.

    Exit 4 if the session is not registered, or has lost its claim; the error names the successor, the time and the
    reason. A session that lost its item to silence alone gets it back, under a new fence, unless another one has taken
    it.
    """
    invocation.limit_background_call(within)
    settings = invocation.load_settings(dsn, stale_after)
    if here:
        if register or any(option is not None for option in (if_older_than, session, pid, tty)):
            raise UsageError(
                "--here cannot be combined with --session, --pid, --tty, --register or --if-older-than",
                "renew all sessions of this host: claude-sessions heartbeat --here",
            )
        _beat_here(settings, json=json, quiet=quiet)
        return
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations.tombstones import claim_lost

    output = render.Output("heartbeat", json, quiet)
    # What the prompt showed when its shell called: the shell may have turned to another database since.
    looked_at = prompt_sync.shown_database(caller) if shown is None else prompt.database_of(shown)
    with invocation.open_database(settings, output, starts=within is None) as database:
        result = invocation.beat(
            caller,
            database,
            looked_at,
            register=register,
            if_older_than=if_older_than,
            in_background=within is not None,
            shown=not elsewhere,
        )
    if result.outcome == "registered":
        prompt.sweep(os.environ)
    if result.outcome == "lost" and result.tombstone:
        lost = claim_lost(result.tombstone, result.session.session)
        lost.data = as_json.heartbeat_data(result)
        raise lost
    output.result(as_json.heartbeat_data(result), lambda: as_text.heartbeat_text(result))


def _beat_here(settings: Settings, *, json: bool, quiet: bool) -> None:
    caller = invocation.find_caller(settings, required=False)

    from claude_sessions_cli import as_json, as_text, render
    from claude_sessions_cli.operations import heartbeat_here as operation

    output = render.Output("heartbeat", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = operation.heartbeat_here(database, caller)
    output.result_unless_refused(
        as_json.here_data(result), lambda: as_text.here_text(result), as_text.refused_lines(result.refused)
    )
