"""Draw `list.svg`, the README's picture: what `list` shows of real sessions on a private server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DIRECTORY = Path(__file__).parent
COLUMNS = 118
PROGRAM = [sys.executable, "-m", "claude_sessions_cli"]


def main() -> None:
    """Make sessions claim, die and fall silent; list them; export the terminal's picture."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as root, the server runs as another account
        # Only the private server: the caller's settings go, and an empty file stands for config.toml.
        config = Path(directory, "config.toml")
        config.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
        os.environ.clear()
        os.environ.update(
            {
                **environment,
                "CLAUDE_SESSIONS_CONFIG": str(config),
                "CLAUDE_SESSIONS_DATA_DIR": str(Path(directory, "data")),
                "CLAUDE_SESSIONS_STATE_DIR": str(Path(directory, "state")),
            }
        )
        codebase = Path(directory, "shop")
        codebase.mkdir()
        os.chdir(codebase)
        processes = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
        try:
            _play([str(process.pid) for process in processes])
            processes[1].kill()
            processes[1].wait()
            _draw()
        finally:
            for process in processes:
                process.kill()
                process.wait()
            _run("db", "stop", "--quiet")
            os.chdir(DIRECTORY)


def _play(pids: list[str]) -> None:
    _run("claim", "SD-AUTH-001", "--track", "A", "--session", "fix-login", "--pid", pids[0], "--tty", "/dev/pts/3")
    _run("claim", "SD-BILL-007", "--track", "B", "--session", "invoices", "--pid", pids[1], "--tty", "/dev/pts/4")
    _run("claim", "SD-DOCS-012", "--track", "STANDALONE", "--session", "quickstart", "--pid", pids[2])
    _run("claim", "SD-PERF-004", "--session", "slow-queries")
    _run("heartbeat", "--register", "--session", "session_7c1d09ab_pts6_52210", "--pid", pids[2])


def _run(*argv: str) -> None:
    subprocess.run([*PROGRAM, *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _draw() -> None:
    from claude_sessions_cli import database, invocation, render, table
    from claude_sessions_cli.embedded import server
    from claude_sessions_cli.operations.list import list_sessions

    caller = invocation.find_caller(invocation.load_settings(None), session="fix-login")
    with database.connect(server.dsn(), "the private server") as connection:
        found = list_sessions(connection, caller)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print("[bold]$[/bold] claude-sessions list")
        for cells in render.styled(table.fit(table.rows(table.LIST, found.sessions), COLUMNS), Text, COLUMNS):
            console.print(Text("  ").join(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    svg = console.export_svg(title="claude-sessions")
    # A picture must not load fonts from elsewhere.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (DIRECTORY / "list.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
