"""The commands `db start`, `db stop`, `db status`, `db dsn` and `db upgrade`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from claude_sessions_cli import as_text, invocation, options, render
from claude_sessions_cli.embedded import server
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.settings import EMBEDDED

app = options.new_app("Manage the private Postgres server.")


@app.command()
def start(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Start the server if it is not running."""
    output = render.Output("db start", json, quiet)
    _start(output)
    _show_state(output)


@app.command()
def stop(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Stop the server.

    No timer and no hook starts it again; the next command that needs it does.
    """
    stopped = server.stop()
    render.Output("db stop", json, quiet).result(
        {"stopped": stopped}, lambda: ["stopped" if stopped else "not running"]
    )


@app.command()
def status(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show the state of the server, and its files."""
    _show_state(render.Output("db status", json, quiet))


@app.command()
def dsn(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Print the server's DSN, for psql."""
    found, output = server.dsn(), render.Output("db dsn", json, quiet)
    running = server.status().running
    if not running:
        output.note("the private server is not running (start it: claude-sessions db start)")
    output.result({"dsn": found, "running": running}, lambda: [found], whole=True)


@app.command()
def upgrade(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Move the data to the newest Postgres.

    The cluster of the older version is kept beside the new one.
    """
    from claude_sessions_cli.embedded import upgrade as operation

    output = render.Output("db upgrade", json, quiet)
    done = operation.upgrade(output.note)
    _start(render.Output("db upgrade", quiet=True))
    outcome = "upgraded" if done.kept else "already_newest"
    output.result({"outcome": outcome, **asdict(done)}, lambda: as_text.upgrade_text(done))


def _start(output: render.Output) -> None:
    # Whatever is configured: these commands are about the private server.
    with invocation.open_database(invocation.load_settings(EMBEDDED), output):
        pass


def _show_state(output: render.Output) -> None:
    found = server.status()
    use = _use()
    output.result({**asdict(found), **use}, lambda: as_text.server_text(found, **use))


def _use() -> dict[str, Any]:
    """Return whether commands use the private server here, and the rule that says so, or why none does."""
    try:
        settings = invocation.load_settings(None)
    except SessionsError as error:
        return {"in_use": False, "source": None, "problem": error.message}
    return {"in_use": settings.dsn is None, "source": settings.dsn_source, "problem": None}
