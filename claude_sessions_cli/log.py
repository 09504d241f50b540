"""Logs: a line for each event, with its time; clean, and without passwords."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.text import presentable

FLAGS = os.O_WRONLY | os.O_APPEND
LINE_LIMIT = 300


def write(number: int, text: str) -> None:
    """Write a line to an open file. Raises OSError."""
    at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    os.write(number, f"{at} {presentable(text)}\n".encode(errors="replace"))


def append(path: Path, text: str) -> None:
    """Add a line, cut to LINE_LIMIT, to a log of limited size. Raises OSError."""
    files.make_directory(path.parent)
    files.rotate(path)
    number = files.open_own(path, FLAGS)
    try:
        write(number, presentable(text)[:LINE_LIMIT])
    finally:
        os.close(number)
