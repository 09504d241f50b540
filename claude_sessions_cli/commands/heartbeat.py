"""The command `heartbeat`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options, prompt
from claude_sessions_cli.errors import UsageError

if TYPE_CHECKING:
    from claude_sessions_cli.settings import Settings

app = options.new_app()


@app.command()
def heartbeat(
    register: Annotated[
        bool, typer.Option("--register", help="Register the session where it is unknown or has ended.")
    ] = False,
    if_older_than: Annotated[
        float | None,
        typer.Option(
            "--if-older-than",
            parser=options.duration,
            metavar="DURATION",
            help="Leave a heartbeat that is younger than this alone.",
        ),
    ] = None,
    here: Annotated[
        bool,
        typer.Option(
            "--here", help="For cron: renew every session of this host that runs, release those whose process is gone."
        ),
    ] = False,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    stale_after: options.StaleAfter = None,
    within: options.Within = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that this session lives; what it holds stays as it is.

    Exit 4 where the session is not registered, or has lost its claim: to whom, when and why. A session that lost its
    item to silence alone gets it back, under a new fence, while nobody else has taken it.
    """
    invocation.give_up_after(within)
    settings = invocation.load_settings(dsn, stale_after)
    if here:
        if register or any(option is not None for option in (if_older_than, session, pid, tty)):
            raise UsageError("--here renews every session of this host: it goes with no option that is about one")
        _beat_here(settings, json=json, quiet=quiet)
        return
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import sessions, tombstones

    output = render.Output("heartbeat", json, quiet)
    before = invocation.look_at_prompt(caller)
    with invocation.open_database(settings, output) as database:
        result = sessions.heartbeat(database, caller, register=register, if_older_than=if_older_than)
    # In the background, a command that was typed meanwhile knows better.
    if within is None or invocation.look_at_prompt(caller) == before:
        invocation.remember(caller, result.session.session)
    if result.outcome == "registered":
        prompt.sweep(os.environ)
    if result.outcome == "lost" and result.tombstone:
        lost = tombstones.lost_to(result.tombstone)
        lost.data = views.heartbeat_data(result)
        raise lost
    output.result(views.heartbeat_data(result), lambda: views.heartbeat_text(result))


def _beat_here(settings: Settings, *, json: bool, quiet: bool) -> None:
    caller = invocation.find_caller(settings, required=False)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import heartbeat_here

    output = render.Output("heartbeat", json, quiet)
    with invocation.open_database(settings, output) as database:
        result = heartbeat_here.heartbeat_here(database, caller)
    output.result(views.here_data(result), lambda: views.here_text(result))
