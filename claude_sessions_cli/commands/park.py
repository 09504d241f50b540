"""The command `park`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from claude_sessions_cli import invocation, options
from claude_sessions_cli.times import to_second

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import JudgedSession
    from claude_sessions_cli.operations.caller import Caller

app = options.new_app()


@app.command()
def park(
    how_long: Annotated[float, typer.Argument(metavar="DURATION", parser=options.duration, help="At most 45m.")],
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Declare silence, for 45 minutes at most.

    The claim does not lapse before the time is over, although the session sends no heartbeat.
    """

    def operate(database: Database, caller: Caller) -> JudgedSession:
        from claude_sessions_cli.operations import park as operation

        return operation.park(database, caller, how_long)

    def answer(parked: JudgedSession) -> tuple[dict[str, Any], str]:
        until = parked.session.parked_until
        return {"parked_until": until}, f"parked {parked.session.sd_id} until {to_second(until) if until else '-'}"

    invocation.act_on_claim("park", operate, answer, session=session, pid=pid, tty=tty, dsn=dsn, json=json, quiet=quiet)
