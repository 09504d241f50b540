"""The command `unpark`."""

from __future__ import annotations

from claude_sessions_cli import invocation, options

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
    """Take a declared silence back."""
    settings = invocation.load_settings(dsn)
    caller = invocation.find_caller(settings, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import render, views
    from claude_sessions_cli.operations import leases

    output = render.Output("unpark", json, quiet)
    with invocation.open_database(settings, output) as database, invocation.loss_remembered(caller):
        session_ = leases.unpark(database, caller)
    invocation.remember(caller, session_.session)
    output.result({"session": views.session_data(session_)}, lambda: f"unparked {session_.session.sd_id}")
