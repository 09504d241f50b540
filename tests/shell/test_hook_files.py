"""The files of the hooks: their checkers, their features, and the quoting of their values."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from requirements import needs, only_bash

from claude_sessions_cli.shell import hooks
from shell.hooks import HOOKS

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
    rendered.write_text(hooks.render(name, ODD, 60))
    words = "$__claude_sessions_program" if name == "fish" else '"${__claude_sessions_program[@]}"'
    show = f"printf '%s\\0' {words} \"$__claude_sessions_states\""
    done = subprocess.run(
        [*command, f"source {rendered}; {show}"], capture_output=True, text=True, start_new_session=True
    )
    assert done.stdout.split("\0")[:-1] == [*ODD, "/odd 'dir\\/terminals"]


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
        path.write_text(hooks.render(name, ["/usr/local/bin/claude-sessions"], 60))
    done = subprocess.run([*checker, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@only_bash
def test_bash_hook_uses_only_bash_3_2_features(name: str) -> None:
    text = (HOOKS / "hook.bash").read_text()
    later = [r"\$\{\w+,,", r"\$\{\w+\^", r"\[-\d", r"mapfile|readarray", r"declare -[Ag]|local -n", r"&>>", r"\|&"]
    later += [r"coproc", r"printf -v \w+\[", r"%\(", r"BASHPID", r"\$\{\w+@", r"EPOCHREALTIME", r";;&|;&", r"\[\[ -v"]
    assert not [pattern for pattern in later if re.search(pattern, text)]
