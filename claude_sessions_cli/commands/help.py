"""The command `help`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

import typer

from claude_sessions_cli import manual, options, render
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.manual import SECTIONS

app = options.new_app()


@app.command("help")
def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC|COMMAND]...", help="A topic, or a command.")
    ] = None,
) -> None:
    """Explain a topic or a command."""
    root = ctx.find_root()
    commands = [name for names in SECTIONS.values() for name in names]
    if words and words[0] in manual.topics():
        render.Output("help").result({}, manual.topic(words[0]).splitlines)
        return
    if words and words[0] not in commands:
        near = get_close_matches(words[0], [*commands, *manual.topics()], 1)
        hint = f"did you mean {near[0]}?" if near else "list them: claude-sessions help"
        raise UsageError(f"no such topic or command: {words[0][:40]!r}", hint)
    root.command.main([*(words or ()), "--help"], prog_name=root.info_name, standalone_mode=False)
