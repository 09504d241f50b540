"""The command `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.errors import NotHeld

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import JudgedSession
    from claude_sessions_cli.operations.caller import Caller

app = options.new_app()


@app.command()
def check(
    sd: Annotated[
        str | None,
        typer.Argument(
            metavar="[SD]", help="The work item [any that is held].", autocompletion=options.complete_held_items
        ),
    ] = None,
    fence: Annotated[int | None, typer.Option("--fence", metavar="N", help="The fence that must be current.")] = None,
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Exit 0 if this session holds the item.

    Exit 4 if it does not. For scripts and git hooks; never writes.
    """

    def operate(database: Database, caller: Caller) -> JudgedSession:
        from claude_sessions_cli import as_json
        from claude_sessions_cli.operations import check as operation

        try:
            return operation.check(database, caller, sd, fence=fence)
        except NotHeld as error:
            error.data = {"holder": as_json.session_data(error.holder)}
            raise

    invocation.act_on_claim(
        "check",
        operate,
        lambda held: (
            {"fence": held.session.fence},
            f"{held.session.sd_id} is yours, fence {held.session.fence}",
        ),
        session=session,
        pid=pid,
        tty=tty,
        dsn=dsn,
        json=json,
        quiet=quiet,
    )
