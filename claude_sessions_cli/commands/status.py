"""The command `status`."""

from __future__ import annotations

import os

from claude_sessions_cli import as_json, as_text, identity, invocation, options, render, surroundings

app = options.new_app()


@app.command()
def status(
    session: options.SessionId = None,
    pid: options.Pid = None,
    tty: options.Tty = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show this session, the database, the set-up.

    What the session holds and since when; which database answers and which rule chose it; the hook of this shell, the
    hooks of agents, the timer and when it last ran, completion. If the database does not answer, the rest is shown, and
    the exit code is that of the error. Writes nothing, and starts no server.
    """
    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    output = render.Output("status", json, quiet)
    who, found, asked, error = invocation.ask_standings(who, dsn, output)
    around = surroundings.look(os.environ)
    data = as_json.status_data(who, found, asked, around)
    if error is None or not json:
        columns = min(render.columns_of(), render.USUAL_COLUMNS)
        set_up = surroundings.describe(os.environ, who, around)
        output.result(data, lambda: as_text.status_text(who, found, asked, error, set_up, columns))
    if error:
        error.data = data
        raise error
