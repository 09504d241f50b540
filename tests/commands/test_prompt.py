"""`prompt` as a whole process, for prompts and status lines that call it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Cli

from claude_sessions_cli import process, prompt
from claude_sessions_cli.cli import run
from claude_sessions_cli.prompt import State

# A status line may not know the pid.
MALFORMED_PIDS = ("", "abc", "0", "-1", "1.5", "9" * 30, "9" * 5000, "#{pane_pid}")


def test_prompt_prints_nothing_without_a_session(cli: Cli) -> None:
    for options in ([], ["--pid", "4194304"], ["--pid", str(os.getpid())], ["--pid", "#{pane_pid}"]):
        done = cli("prompt", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), options


def test_prompt_ignores_malformed_pids(capfd: pytest.CaptureFixture[str]) -> None:
    for pid in MALFORMED_PIDS:
        assert run(["prompt", "--pid", pid]) == 0, pid
        assert capfd.readouterr() == ("", ""), pid


def test_prompt_shows_terminal_of_given_process(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    own = process.read(os.getpid())
    prompt.write(os.environ, own, State("held", int(time.time()) - 725, "SD-1", "s"))
    done = cli("prompt", "--pid", str(own.pid))
    assert (done.returncode, done.stdout, done.stderr) == (0, "SD-1 12m\n", "")


def test_prompt_in_locale_c_is_ascii(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    own = process.read(os.getpid())
    prompt.write(os.environ, own, State("held", int(time.time()) - 725, "org/задача 7", "s"))
    for locale, shown in (("C", "org/?????? 7 12m\n"), ("C.UTF-8", "org/задача 7 12m\n")):
        done = cli("prompt", "--pid", str(own.pid), env={"LC_ALL": locale}, encoding="utf-8")
        assert (done.returncode, done.stdout, done.stderr) == (0, shown, ""), locale


def test_prompt_and_shell_init_import_no_driver() -> None:
    for command in (["prompt"], ["shell-init", "bash"]):
        code = f"import sys; from claude_sessions_cli.cli import run; run({command!r}); print('psycopg' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
