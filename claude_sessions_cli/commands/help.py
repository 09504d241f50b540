"""The command `help`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from typing import Annotated, Any

import typer

from claude_sessions_cli import completion, manual, options, render
from claude_sessions_cli.errors import unknown_word
from claude_sessions_cli.manual import COMMANDS

app = options.new_app()


def _next_words(ctx: typer.Context) -> Iterable[str]:
    """Return the topics and commands, or the commands of a group that is named."""
    if not (named := ctx.params.get("words")):
        return [*COMMANDS, *manual.topics()]
    root: Any = ctx.find_root().command
    return getattr(root.get_command(ctx, named[0]), "commands", ())


@app.command("help")
def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC|COMMAND]...",
            help="A topic, or a command.",
            autocompletion=completion.chooser(_next_words),
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Explain a topic or a command."""
    root, output = ctx.find_root(), render.Output("help", json)
    if words and words[0] in manual.topics():
        text = manual.topic(words[0])
        output.result({"text": text}, text.splitlines)
        return
    if words and words[0] not in COMMANDS:
        raise unknown_word(
            f"no such topic or command: {words[0][:40]!r}",
            words[0],
            [*COMMANDS, *manual.topics()],
            "list them: claude-sessions help",
        )
    printed = StringIO()
    with redirect_stdout(printed):
        root.command.main([*(words or ()), "--help"], prog_name=root.info_name, standalone_mode=False)
    output.result({"text": printed.getvalue()}, printed.getvalue().splitlines)
