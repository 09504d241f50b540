"""When the private server may stand in: never for an account that has used another database, nor under sudo.

Two worlds would each have a holder of the same work item. The state directory remembers which rule named the other
database, never the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from claude_sessions_cli import files, settings
from claude_sessions_cli.errors import Unreachable, UsageError
from claude_sessions_cli.settings import Settings
from claude_sessions_cli.text import clean

RULE_LIMIT = 200
# A state directory that is missing or full, or that others may write.
UNUSABLE = (OSError, UsageError)
# How a command finds out that it runs for another account, and how that account passes its database on.
BORROWED = {
    "SUDO_UID": ("sudo", "sudo --preserve-env=CLAUDE_SESSIONS_DSN claude-sessions ..."),
    "DOAS_USER": ("doas", "setenv { CLAUDE_SESSIONS_DSN } in doas.conf"),
}


def remember(environ: Mapping[str, str], found: Settings) -> None:
    """Remember the rule that named another database, after a connection to it."""
    # Inside `run`, the variable may hold what --dsn named.
    if found.dsn is None or found.dsn_source == "--dsn" or environ.get("CLAUDE_SESSIONS_SD"):
        return
    if _remembered(environ) != found.dsn_source:
        with suppress(*UNUSABLE):
            _write(environ, f"{found.dsn_source}\n".encode())


def refuse(environ: Mapping[str, str], found: Settings) -> None:
    """Raise Unreachable if the settings fall back to the private server and another database is meant."""
    if not found.is_fallback:
        return
    config = settings.config_path(environ)
    private = f'a private database: --dsn {settings.EMBEDDED}, or dsn = "{settings.EMBEDDED}" there'
    for variable, (program, way) in BORROWED.items():
        if environ.get(variable):
            raise Unreachable(
                f"no database is configured under {program}, which drops CLAUDE_SESSIONS_DSN",
                f"pass it on: {way}; or write dsn into {config}; for {private}",
            )
    if rule := _remembered(environ):
        raise Unreachable(
            f"no database is configured here, but this account has used the one from {rule[:RULE_LIMIT]}",
            f"write dsn into {config}, or set CLAUDE_SESSIONS_DSN; for {private}",
        )


def can_remember(environ: Mapping[str, str]) -> bool:
    """Return whether the state directory keeps what `remember` writes; write once that there is no rule yet."""
    with suppress(*UNUSABLE):
        if not _path(environ).exists():
            _write(environ, b"\n")
        files.read(_path(environ))
        return True
    return False


def _remembered(environ: Mapping[str, str]) -> str:
    try:
        lines = files.read(_path(environ)).decode(errors="replace").splitlines()
    except UNUSABLE:
        return ""
    return clean(lines[0]) if lines else ""


def _write(environ: Mapping[str, str], text: bytes) -> None:
    path = _path(environ)
    files.make_directory(path.parent)
    files.write(path, text)


def _path(environ: Mapping[str, str]) -> Path:
    return settings.state_directory(environ) / "database-rule"
