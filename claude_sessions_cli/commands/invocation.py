"""What every command does around its operation: find the settings, the caller and the database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from claude_sessions_cli import __version__, identity, settings
from claude_sessions_cli.settings import Settings

if TYPE_CHECKING:
    from claude_sessions_cli.caller import Caller
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.render import Output


def find_caller(
    found: Settings,
    *,
    session: str | None = None,
    pid: int | None = None,
    tty: str | None = None,
    required: bool = True,
) -> Caller:
    """Return who acts; raises NoIdentity where that is `required` and cannot be found."""
    from claude_sessions_cli.caller import Caller

    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    if required:
        identity.require(who)
    return Caller(who, found)


def load_settings(dsn: str | None, stale_after: float | None = None) -> Settings:
    """Return the settings of this invocation."""
    return settings.load(os.environ, dsn=dsn, stale_after=stale_after)


@contextmanager
def open_database(found: Settings, output: Output) -> Iterator[Database]:
    """Connect to the database of the settings; the embedded server is started, and its schema applied, where needed."""
    # psycopg is most of what a command costs: not before its options are known to be right.
    from claude_sessions_cli import database

    if found.dsn is not None:
        with database.connect(found.dsn, found.dsn_source) as connection:
            yield connection
        return

    from claude_sessions_cli import embedded

    with database.connect(embedded.ensure(output.note), found.dsn_source) as connection:
        marker = embedded.schema_marker()
        if not marker.exists() or marker.read_text() != __version__:
            from claude_sessions_cli import schema

            schema.apply(connection)
            marker.write_text(__version__)
        yield connection
