"""The command `unpark`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_sessions_cli import invocation, options

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import JudgedSession
    from claude_sessions_cli.operations.caller import Caller

app = options.new_app()


@app.command()
def unpark(
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """End a declared silence."""

    def operate(database: Database, caller: Caller) -> JudgedSession:
        from claude_sessions_cli.operations import park as operation

        return operation.unpark(database, caller)

    invocation.act_on_claim(
        "unpark",
        operate,
        lambda held: ({}, f"unparked {held.session.sd_id}"),
        session=session,
        pid=pid,
        tty=tty,
        dsn=dsn,
        json=json,
        quiet=quiet,
    )
