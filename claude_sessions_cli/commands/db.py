"""The commands `db start`, `db stop`, `db status` and `db dsn`."""

from __future__ import annotations

from dataclasses import asdict

from claude_sessions_cli import as_text, invocation, options, render
from claude_sessions_cli.embedded import server
from claude_sessions_cli.settings import Settings

app = options.new_app("Manage the private Postgres server.")


@app.command()
def start(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Start the server if it is not running."""
    output = render.Output("db start", json, quiet)
    with invocation.open_database(_embedded(), output):
        status_ = server.status()
    output.result(asdict(status_), lambda: as_text.server_text(status_))


@app.command()
def stop(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Stop the server.

    The next command that needs it starts it again.
    """
    stopped = server.stop()
    render.Output("db stop", json, quiet).result(
        {"stopped": stopped}, lambda: ["stopped" if stopped else "not running"]
    )


@app.command()
def status(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show the state of the server, and its files."""
    found = server.status()
    render.Output("db status", json, quiet).result(asdict(found), lambda: as_text.server_text(found))


@app.command()
def dsn(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Print the server's DSN, for psql."""
    found = server.dsn()
    render.Output("db dsn", json, quiet).result({"dsn": found}, lambda: [found])


def _embedded() -> Settings:
    found = invocation.load_settings(None)
    return Settings(None, "the embedded server", found.stale_after, found.heartbeat_every)
