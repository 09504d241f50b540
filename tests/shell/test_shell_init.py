"""What `shell-init` and `prompt` print, and that the hooks pass their checkers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from needed import each_shell, needs, only_bash
from terminal import CLI, WHOAMI
from waiting import until

from claude_sessions_cli import process
from claude_sessions_cli import prompt as state
from claude_sessions_cli.cli import run
from claude_sessions_cli.commands import shell_init
from claude_sessions_cli.errors import UsageError
from shell.hooks import HOOKS, Window, rows


@each_shell
def test_shell_init_output_hooks_a_starting_shell(stack: ExitStack, tmp_path: Path, dsn: str, name: str) -> None:
    line = f"{CLI} shell-init fish | source" if name == "fish" else f'eval "$({CLI} shell-init {name})"'
    opened = Window(tmp_path, name, line, {"CLAUDE_SESSIONS_DSN": dsn, "XDG_STATE_HOME": str(tmp_path / "xdg")})
    stack.callback(opened.close)
    until(lambda: rows(dsn), "the terminal's row")
    assert rows(dsn)[0][0] == opened.run(WHOAMI).session


def test_shell_init_uses_configured_interval(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = cli("shell-init", "bash", env={"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "7s", "CLAUDE_SESSIONS_STATE_DIR": "/a b"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "__claude_sessions_every=7\n" in done.stdout
    assert "__claude_sessions_within=7\n" in done.stdout
    assert "__claude_sessions_states='/a b/terminals'\n" in done.stdout


def test_shell_init_ignores_broken_configuration(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = cli("shell-init", "zsh", env={"CLAUDE_SESSIONS_CONFIG": str(tmp_path / "missing")})
    assert (done.returncode, done.stderr) == (0, "")
    assert "__claude_sessions_every=60\n" in done.stdout


def test_shell_init_rejects_unknown_shell(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = cli("shell-init", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "claude-sessions: no such shell: 'tcsh' (a shell is one of bash, zsh, fish)\n"


# A status line may not know the pid.
MALFORMED_PIDS = ("", "abc", "0", "-1", "1.5", "9" * 30, "9" * 5000, "#{pane_pid}")


def test_prompt_prints_nothing_without_a_session(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for options in ([], ["--pid", "4194304"], ["--pid", str(os.getpid())], ["--pid", "#{pane_pid}"]):
        done = cli("prompt", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), options


def test_prompt_ignores_malformed_pids(capfd: pytest.CaptureFixture[str]) -> None:
    for pid in MALFORMED_PIDS:
        assert run(["prompt", "--pid", pid]) == 0, pid
        assert capfd.readouterr() == ("", ""), pid


def test_prompt_shows_terminal_of_given_process(
    cli: Callable[..., subprocess.CompletedProcess[str]], states: Path
) -> None:
    own = process.read(os.getpid())
    state.write(os.environ, own, state.State("held", int(time.time()) - 725, "SD-1", "s"))
    done = cli("prompt", "--pid", str(own.pid), env={"CLAUDE_SESSIONS_STATE_DIR": str(states.parent)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "SD-1 12m\n", "")


def test_prompt_and_shell_init_import_no_driver() -> None:
    for command in (["prompt"], ["shell-init", "bash"]):
        code = f"import sys; from claude_sessions_cli.cli import run; run({command!r}); print('psycopg' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


ODD = ['/opt/it\'s here/$(x)`y`\\z "q"/claude-sessions', "a\nb", "-m"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        pytest.param("bash", ["bash", "--norc", "--noprofile", "-i", "-c"], marks=needs("bash")),
        pytest.param("zsh", ["zsh", "-f", "-i", "-c"], marks=needs("zsh")),
        pytest.param("fish", ["fish", "--no-config", "-i", "-c"], marks=needs("fish")),
    ],
)
def test_odd_program_paths_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: list[str]
) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", "/odd 'dir\\")
    rendered = tmp_path / "hook"
    rendered.write_text(shell_init.render(name, ODD, 60))
    words = "$__claude_sessions_program" if name == "fish" else '"${__claude_sessions_program[@]}"'
    show = f"printf '%s\\0' {words} \"$__claude_sessions_states\""
    done = subprocess.run(
        [*command, f"source {rendered}; {show}"], capture_output=True, text=True, start_new_session=True
    )
    assert done.stdout.split("\0")[:-1] == [*ODD, "/odd 'dir\\/terminals"]


def test_program_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "claude-sessions"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert process.this_program("bin/claude-sessions") == [str(script)]
    [found] = process.this_program("/somewhere/__main__.py")[:1]
    assert Path(found).is_absolute()


@pytest.mark.parametrize("rendered", [False, True])
@pytest.mark.parametrize(
    ("name", "checker"),
    [
        pytest.param("bash", ["shellcheck"], marks=needs("shellcheck")),
        pytest.param("bash", ["bash", "-n"], marks=needs("bash")),
        pytest.param("zsh", ["zsh", "-n"], marks=needs("zsh")),
        pytest.param("fish", ["fish", "--no-execute"], marks=needs("fish")),
        pytest.param("fish", ["fish_indent", "--check"], marks=needs("fish_indent")),
    ],
)
def test_hooks_pass_their_checkers(tmp_path: Path, states: Path, name: str, checker: list[str], rendered: bool) -> None:
    path = HOOKS / f"hook.{name}"
    if rendered:
        path = tmp_path / f"rendered.{name}"
        path.write_text(shell_init.render(name, ["/usr/local/bin/claude-sessions"], 60))
    done = subprocess.run([*checker, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@only_bash
def test_bash_hook_uses_only_bash_3_2_features(name: str) -> None:
    text = (HOOKS / "hook.bash").read_text()
    later = [r"\$\{\w+,,", r"\$\{\w+\^", r"\[-\d", r"mapfile|readarray", r"declare -[Ag]|local -n", r"&>>", r"\|&"]
    later += [r"coproc", r"printf -v \w+\[", r"%\(", r"BASHPID", r"\$\{\w+@", r"EPOCHREALTIME", r";;&|;&", r"\[\[ -v"]
    assert not [pattern for pattern in later if re.search(pattern, text)]


def test_unknown_shell_has_no_hook() -> None:
    with pytest.raises(UsageError):
        shell_init.shell_init("sh")
