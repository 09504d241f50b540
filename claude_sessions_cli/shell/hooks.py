"""Render the hook file of a shell."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from claude_sessions_cli import prompt, settings
from claude_sessions_cli.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
# The variables that choose a database. A shell compares their values at each prompt.
VARIABLES = ("CLAUDE_SESSIONS_DSN", "CLAUDE_SESSIONS_CONFIG", *settings.LIBPQ_VARIABLES)
# A heartbeat without an answer must end before the next one begins.
TIMEOUT_S = 20


def render(shell: str, words: list[str], every: float) -> str:
    """Return the hook file of a shell; it runs the program, whose words are `words`, every `every` seconds."""
    quote = _quote_for_fish if shell == "fish" else shlex.quote
    states = prompt.directory(os.environ)
    whole = max(1, int(every))
    values = {
        "PROGRAM": " ".join(map(quote, words)),
        "STATES": quote(str(states) if states else "/nonexistent"),
        "EVERY": str(whole),
        "WITHIN": str(min(whole, TIMEOUT_S)),
        "VALUES": '"' + "|".join(f"${name}" if shell == "fish" else f"${{{name}-}}" for name in VARIABLES) + '"',
    }
    text = (Path(__file__).parent / f"hook.{shell}").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)


def heartbeat_seconds() -> float:
    try:
        return settings.load(os.environ).heartbeat_every
    except UsageError:
        # A shell's start must not fail for a broken configuration: every command reports it.
        return settings.parse_duration(settings.DEFAULT_HEARTBEAT_EVERY)


def _quote_for_fish(word: str) -> str:
    # fish_indent removes quotes that are not needed.
    if re.fullmatch(r"[\w./+-]+", word, re.ASCII):
        return word
    return "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"
