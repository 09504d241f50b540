"""The file config.toml: a key set or removed; its other lines stay as they are."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claude_sessions_cli import files, settings
from claude_sessions_cli.errors import SessionsError, UsageError, unknown_word


def check_key(key: str) -> None:
    """Raise UsageError for an unknown key; the hint names the nearest."""
    if key not in settings.KEYS:
        raise unknown_word(f"unknown key: {key[:40]!r}", key, settings.KEYS, f"use one of {', '.join(settings.KEYS)}")


def change(environ: Mapping[str, str], key: str, value: str | None) -> tuple[Path, bool]:
    """Set a key, or remove it if `value` is None; return the file, and whether it changed.

    Raises UsageError if the value is wrong, or the file is malformed or may be written by others.
    """
    check_key(key)
    path = settings.config_path(environ)
    if value is not None:
        _check_value(path if path.exists() else None, key, value)
    try:
        before = path.read_bytes().decode() if path.exists() else ""
        after = _edit(before, key, value)
        if _parse(before) is None or _parse(after) != _expected(_parse(before) or {}, key, value):
            raise UsageError(f"{path} is not edited: {key} is not on a line of its own", "edit the file by hand")
        if after != before:
            # The link of a directory under version control stays.
            target = path.resolve()
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(target, after.encode())
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SessionsError(f"cannot change {path}: {reason}", settings.MEND) from None
    return path, after != before


def _check_value(path: Path | None, key: str, value: str) -> None:
    """Raise UsageError for a value that a command would refuse beside the rest of the file."""
    if key == "dsn":
        if not value:
            raise UsageError("dsn is empty", "remove it: claude-sessions config unset dsn")
        if value != settings.EMBEDDED and not value.startswith("env:"):
            from claude_sessions_cli import connection  # late: it imports psycopg

            connection.parse_dsn(value, "dsn")
        return
    variable = f"CLAUDE_SESSIONS_{key.upper()}"
    known = {"CLAUDE_SESSIONS_CONFIG": str(path)} if path else {}
    try:
        settings.load({"CLAUDE_SESSIONS_DSN": "-", **known, variable: value})
    except UsageError as error:
        raise UsageError(error.message.replace(variable, key), error.hint) from None


def _edit(text: str, key: str, value: str | None) -> str:
    line = "" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
    found = re.search(rf"""^[ \t]*(["']?){key}\1[ \t]*=.*(?:\n|\Z)""", text, re.MULTILINE)
    if found:
        return text[: found.start()] + line + text[found.end() :]
    return text + ("" if not line or not text or text.endswith("\n") else "\n") + line


def _parse(text: str) -> dict[str, Any] | None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        parsed: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed


def _expected(before: dict[str, Any], key: str, value: str | None) -> dict[str, Any]:
    rest = {name: known for name, known in before.items() if name != key}
    return rest if value is None else {**rest, key: value}
