"""The command `shell-init`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from claude_sessions_cli import completion, options, process, render
from claude_sessions_cli.shell import hooks
from claude_sessions_cli.shell.hooks import SHELLS

app = options.new_app()


@app.command("shell-init")
def shell_init(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="|".join(SHELLS),
            help="The shell that runs it.",
            autocompletion=completion.chooser(lambda _: SHELLS),
        ),
    ],
    json: options.Json = False,
) -> None:
    """Print the integration of a shell.

    Use: eval "$(claude-sessions shell-init zsh)". The terminal registers itself, sends heartbeats in the background
    while a person works in it, and ends with its shell. CLAUDE_SESSIONS_PROMPT shows what it holds.
    CLAUDE_SESSIONS_HOOK=0 (in fish: set -g CLAUDE_SESSIONS_HOOK 0) turns it off; claude_sessions_unhook removes it.
    """
    options.check_words("shell", [shell], SHELLS)
    script = hooks.render(shell, process.this_program(sys.argv[0]), hooks.heartbeat_seconds())
    render.Output("shell-init", json).script(script)
