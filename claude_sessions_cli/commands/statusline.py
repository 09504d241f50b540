"""The command `statusline`."""

from __future__ import annotations

import os
import sys

from claude_sessions_cli import options

app = options.new_app()


@app.command()
def statusline() -> None:
    """Print what this agent's session holds.

    For a status line of Claude Code that its user wrote; `install claude` runs the same without Python. Reads files,
    asks no database, and sends a heartbeat in the background if one is due. Always exits 0.
    """
    from claude_sessions_cli import process
    from claude_sessions_cli.claude_code import entries

    sys.stdout.flush()
    words = ["/bin/sh", "-c", entries.status_command("", "", process.this_program(sys.argv[0]))]
    os.execv(words[0], words)
