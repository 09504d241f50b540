"""The command `prompt`."""

from __future__ import annotations

import locale
import os
import time
from contextlib import suppress
from typing import Annotated

import typer

from claude_sessions_cli import identity, options
from claude_sessions_cli import prompt as prompt_file
from claude_sessions_cli.errors import UsageError

app = options.new_app()


@app.command()
def prompt(
    pid: Annotated[
        str | None,
        typer.Option("--pid", metavar="PID", help="The process of this session [detected]."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Print what this terminal holds.

    For a prompt or a status line: `SD-AUTH-001 12m`, `LOST SD-AUTH-001`, or nothing. Reads the small file that the
    commands of this session keep current, and no database. Always exits 0.
    """
    anchor = None
    # A status line must not show errors, and its shell may just have ended.
    with suppress(UsageError, ValueError):
        anchor = identity.detect(os.environ, pid=None if pid is None else int(pid)).anchor
    found = prompt_file.read(os.environ, anchor) if anchor else None
    segment = found.segment(time.time()) if found else ""
    if segment or json:
        from claude_sessions_cli.render import Output

        # Python writes UTF-8 in the locale C too, whose terminals may take a byte of a character for a command.
        charset = locale.nl_langinfo(locale.CODESET) or "ascii"
        shown = segment.encode(charset, "replace").decode(charset)
        Output("prompt", json).result({"text": segment}, lambda: [shown], whole=True)
