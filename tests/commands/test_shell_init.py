"""`shell-init` as a whole process."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Cli
from poll import until
from requirements import each_shell
from shell.hooks import Window, rows
from terminal import CLI, WHOAMI

from claude_sessions_cli.commands import shell_init
from claude_sessions_cli.errors import UsageError


@pytest.mark.faults
@each_shell
def test_shell_init_output_hooks_a_starting_shell(stack: ExitStack, tmp_path: Path, dsn: str, name: str) -> None:
    line = f"{CLI} shell-init fish | source" if name == "fish" else f'eval "$({CLI} shell-init {name})"'
    opened = Window(tmp_path, name, line, {"CLAUDE_SESSIONS_DSN": dsn, "XDG_STATE_HOME": str(tmp_path / "xdg")})
    stack.callback(opened.close)
    until(lambda: rows(dsn), "the terminal's row")
    assert rows(dsn)[0][0] == opened.run(WHOAMI).session


def test_shell_init_uses_configured_interval(cli: Cli) -> None:
    done = cli("shell-init", "bash", env={"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "7s", "CLAUDE_SESSIONS_STATE_DIR": "/a b"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "__claude_sessions_every=7\n" in done.stdout
    assert "__claude_sessions_within=7\n" in done.stdout
    assert "__claude_sessions_states='/a b/terminals'\n" in done.stdout


def test_shell_init_ignores_broken_configuration(cli: Cli, tmp_path: Path) -> None:
    done = cli("shell-init", "zsh", env={"CLAUDE_SESSIONS_CONFIG": str(tmp_path / "missing")})
    assert (done.returncode, done.stderr) == (0, "")
    assert "__claude_sessions_every=60\n" in done.stdout


def test_shell_init_rejects_unknown_shell(cli: Cli) -> None:
    done = cli("shell-init", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "claude-sessions: shell is not one of bash, zsh, fish: 'tcsh' (write one of these)\n"


def test_unknown_shell_has_no_hook() -> None:
    with pytest.raises(UsageError):
        shell_init.shell_init("sh")
