"""Version: which program this is, and what it runs on. Asks no database."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from claude_sessions_cli import __version__, connection, queries
from claude_sessions_cli.embedded import cluster
from claude_sessions_cli.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the program and of what it runs on; `embedded` are the Postgres programs of the extra."""

    version: str
    python: str
    executable: str
    psycopg: str
    libpq: str
    embedded: list[str]
    platform: str
    sql: str


def versions() -> Versions:
    """Return the versions in use."""
    try:
        embedded = sorted(cluster.installed(), key=int)
    except Unreachable:
        embedded = []
    psycopg, libpq = connection.driver_versions()
    return Versions(
        __version__,
        platform.python_version(),
        sys.executable,
        psycopg,
        libpq,
        embedded,
        platform.platform(),
        str(queries.directory()),
    )
