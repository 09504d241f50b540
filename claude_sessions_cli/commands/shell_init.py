"""The command `shell-init`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from claude_sessions_cli import options, process, prompt, settings
from claude_sessions_cli.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
# A heartbeat that finds no answer must be gone before the next one.
PATIENCE_S = 20

app = options.new_app()


@app.command("shell-init")
def shell_init(
    shell: Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="The shell that is to run it.")],
) -> None:
    """Print the integration of a shell: eval "$(claude-sessions shell-init zsh)".

    The terminal registers itself, beats in the background while a person works in it, and ends with its shell. What it
    holds is in $CLAUDE_SESSIONS_PROMPT. CLAUDE_SESSIONS_HOOK=0 (set -g CLAUDE_SESSIONS_HOOK 0 in fish) turns it off;
    claude_sessions_unhook takes it away.
    """
    if shell not in SHELLS:
        raise UsageError(f"no such shell: {shell[:40]!r}", f"a shell is one of {', '.join(SHELLS)}")
    sys.stdout.write(render(shell, process.this_program(sys.argv[0]), _every()))


def render(shell: str, words: list[str], every: float) -> str:
    """Return the hook file of a shell, which calls the program that is `words` every so many seconds."""
    quote = _quote_for_fish if shell == "fish" else shlex.quote
    states = prompt.directory(os.environ)
    whole = max(1, int(every))
    values = {
        "PROGRAM": " ".join(map(quote, words)),
        "STATES": quote(str(states) if states else "/nonexistent"),
        "EVERY": str(whole),
        "WITHIN": str(min(whole, PATIENCE_S)),
    }
    text = (Path(__file__).parents[1] / "shell" / f"hook.{shell}").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)


def _every() -> float:
    try:
        return settings.load(os.environ).heartbeat_every
    except UsageError:
        # A start-up file is no place to complain of a configuration: every command does.
        return settings.DEFAULT_HEARTBEAT_EVERY_S


def _quote_for_fish(word: str) -> str:
    # As fish_indent has it, which takes quotes away that are not needed.
    if re.fullmatch(r"[\w./+-]+", word, re.ASCII):
        return word
    return "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"
