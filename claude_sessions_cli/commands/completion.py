"""The command `completion`."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_sessions_cli import options, render
from claude_sessions_cli.completion import VARIABLE, chooser
from claude_sessions_cli.shell.hooks import SHELLS

app = options.new_app()


@app.command()
def completion(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="|".join(SHELLS),
            help="The shell that runs it.",
            autocompletion=chooser(lambda _: SHELLS),
        ),
    ],
    json: options.Json = False,
) -> None:
    """Print the completion script of a shell.

    Use: eval "$(claude-sessions completion bash)", or write it where the shell looks. --install-completion does that
    for this user.
    """
    options.check_words("shell", [shell], SHELLS)

    # Late: few commands need it. Typer has it, and does not export it.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=render.PROGRAM, complete_var=VARIABLE, shell=shell)
    render.Output("completion", json).script(script)
