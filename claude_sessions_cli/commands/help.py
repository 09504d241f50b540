"""The command `help`."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Annotated

import typer

from claude_sessions_cli import manual, options, render
from claude_sessions_cli.errors import unknown_word
from claude_sessions_cli.manual import SECTIONS

app = options.new_app()


@app.command("help")
def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC|COMMAND]...", help="A topic, or a command.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Explain a topic or a command."""
    root, output = ctx.find_root(), render.Output("help", json)
    commands = [name for names in SECTIONS.values() for name in names]
    if words and words[0] in manual.topics():
        text = manual.topic(words[0])
        output.result({"text": text}, text.splitlines)
        return
    if words and words[0] not in commands:
        raise unknown_word(
            f"no such topic or command: {words[0][:40]!r}",
            words[0],
            [*commands, *manual.topics()],
            "list them: claude-sessions help",
        )
    printed = StringIO()
    with redirect_stdout(printed):
        root.command.main([*(words or ()), "--help"], prog_name=root.info_name, standalone_mode=False)
    output.result({"text": printed.getvalue()}, printed.getvalue().splitlines)
