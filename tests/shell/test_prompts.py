"""The segment of a prompt or a status line."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest
from conftest import Table
from poll import PATIENCE_S, until, until_waiting
from requirements import each_posix_shell, each_shell, needs, only_zsh
from run_bench import PROGRAM
from terminal import CLI, Terminal, Tmux

from claude_sessions_cli import process, prompt
from claude_sessions_cli.prompt import State
from shell.hooks import Open, Window, state_of

LINES = [
    ("held {0} SD-AUTH-001 s", r"SD-AUTH-001 \d+s"),
    ("held {725} SD-AUTH-001 s", "SD-AUTH-001 12m"),
    ("held {5430} SD-AUTH-001 s", "SD-AUTH-001 1h30m"),
    ("held {187230} SD-AUTH-001 s", "SD-AUTH-001 2d4h"),
    ("held {-500} SD-AUTH-001 s", "SD-AUTH-001 0s"),
    ("held {725} SD?1.x:y_z s", r"SD\?1\.x:y_z 12m"),
    ("held {725} SD-AUTH-001 s 1767225600000000 1767225600000001", "SD-AUTH-001 12m"),
    ("held {725} SD-AUTH-001 s 1 2 0123456789abcdef", "SD-AUTH-001 12m"),
    ("held {725} SD-AUTH-001 s 1 2 0123456789abcdef +1", r"SD-AUTH-001 12m \+1"),
    ("held {5} SD-AUTH-001 s 1 2 0123456789abcdef +12", r"SD-AUTH-001 \d+s \+12"),
    ("held {725} SD-AUTH-001 s 1 2 ../../etc/passwd +$(touch_owned)", "SD-AUTH-001 12m"),
    ("lost 0 SD-AUTH-001 s - 2 0123456789abcdef +1", r"LOST SD-AUTH-001 \+1"),
    ("none 0 - s - 2 0123456789abcdef +1", r"\+1"),
    ("none 0 - - - - -2 +3", r"\+3"),
    ("none 0 - - - - -2", ""),
    ("lost 0 SD-AUTH-001 s", "LOST SD-AUTH-001"),
    ("none 0 - s", ""),
    ("", ""),
    ("held", ""),
    ("held x SD-1 s", ""),
    ("held 08 SD-1 s", ""),
    ("held a[$(touch_owned)] SD-1 s", ""),
    ("held 5 $(touch_owned) s", ""),
    ("held 5 `touch_owned` s", ""),
    ("lost 0 %n\\u s", ""),
    ("wrong 5 SD-1 s", ""),
    ("held {725} org/repo s", "org/repo 12m"),
    ("held {725} feature/foo~bar~~x s 1 2 0123456789abcdef +1", r"feature/foo bar  x 12m \+1"),
    ("held {725} задача-7 s", "задача-7 12m"),
    ("lost 0 @क्षेत्र+é,漢=/ s", r"LOST @क्षेत्र\+é,漢=/"),
    *((f"held 5 a{mark}b s", "") for mark in "!\"#$%&'()*;<>[\\]^`{|}\x01\x7f"),
]


@pytest.mark.faults
@each_shell
def test_prompt_shows_the_file(window: Open, states: Path, name: str) -> None:
    opened = window(name)
    path = state_of(states, opened)
    for line, shown in LINES:
        text = re.sub(r"\{(-?\d+)\}", lambda found: str(int(time.time()) - int(found[1])), line)
        path.write_text(f"{text.replace('touch_owned', 'touch owned')}\n", encoding="utf-8")
        opened.do("true")
        assert re.fullmatch(shown, opened.ask("$CLAUDE_SESSIONS_PROMPT")), line
        assert not (opened.directory / "owned").exists(), line


AT_PRECMD = 'precmd_functions+=(show); show() { PROMPT="[$CLAUDE_SESSIONS_PROMPT] " }'
# Ways to have the segment in a prompt, each of which expands it in its own manner.
EXPANSIONS = [
    ("bash", "PS1='[$CLAUDE_SESSIONS_PROMPT] '"),
    ("bash", "set -o posix; PS1='[$CLAUDE_SESSIONS_PROMPT] '"),
    ("bash", "PROMPT_COMMAND+=$'\\n''PS1=\"[$CLAUDE_SESSIONS_PROMPT] \"'"),
    ("bash", "shopt -u promptvars; PROMPT_COMMAND+=$'\\n''PS1=\"[$CLAUDE_SESSIONS_PROMPT] \"'"),
    ("zsh", "setopt prompt_subst; PROMPT='[$CLAUDE_SESSIONS_PROMPT] '"),
    ("zsh", "setopt prompt_subst prompt_bang; PROMPT='%B[$CLAUDE_SESSIONS_PROMPT]%b '"),
    ("zsh", AT_PRECMD),
    ("zsh", f"setopt prompt_subst prompt_bang; {AT_PRECMD}"),
    ("fish", 'function fish_prompt; echo -n "[$CLAUDE_SESSIONS_PROMPT] "; end'),
    ("fish", "function fish_prompt; echo -n (echo -n '['; echo -n $CLAUDE_SESSIONS_PROMPT)'] '; end"),
]
KEPT = ("a/b@c+d,e=f:g._h-i j? задача é 漢 क्ष 9", "=ls", "@x", "-n", "+1", ",", "/etc /bin")


def _is_seen(opened: Window, text: str) -> bool:
    return text in opened.seen()


@pytest.mark.parametrize(("name", "line"), [pytest.param(*case, marks=needs(case[0])) for case in EXPANSIONS])
def test_every_kept_character_is_literal_in_prompts(window: Open, states: Path, name: str, line: str) -> None:
    # zsh prints no letter that its terminal description may not show.
    opened = window(name, after=line, more={"TERM": "xterm"} if name == "fish" else None)
    path = state_of(states, opened)
    for item in KEPT:
        assert prompt.harmless(item) == item
        path.write_text(State("held", int(time.time()) - 725, item, "s").line, encoding="utf-8")
        opened.type("true")
        shown = f"[{item} 12m] "
        until(partial(_is_seen, opened, shown), f"{shown}\n{opened.seen()!r}")


@each_shell
def test_locale_c_shows_no_bytes_of_letters(window: Open, states: Path, name: str) -> None:
    opened = window(name, more={"LC_ALL": "C"})
    state_of(states, opened).write_text(f"held {int(time.time()) - 725} org/задача~7 s\n", encoding="utf-8")
    opened.do("true")
    assert re.fullmatch(r"org/\?{6,12} 7 12m", opened.ask("$CLAUDE_SESSIONS_PROMPT"))


@each_shell
def test_segment_disappears_and_returns_with_its_file(window: Open, states: Path, name: str) -> None:
    opened = window(name)
    path = state_of(states, opened)
    for _ in range(2):
        path.write_text(f"held {int(time.time()) - 725} SD-1 s\n")
        opened.do("true")
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "SD-1 12m"
        path.unlink()
        opened.do("true")
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == ""


@each_shell
def test_hostile_prompt_file_is_only_text(window: Open, states: Path, name: str) -> None:
    opened = window(name)
    path = state_of(states, opened)
    for content in (b"\0\xff\x1b]0;x\a\n" * 1000, b"held " * 100_000, b"held 99999999999999999999 SD-1 s\n", b"\n\n\n"):
        path.write_bytes(content)
        opened.do("true")
        assert re.fullmatch(r"(SD-1 \d+[smhd]\S*)?", opened.ask("$CLAUDE_SESSIONS_PROMPT"))
    path.unlink()
    path.mkdir()
    opened.do("true")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == ""
    assert "directory" not in opened.seen()


@pytest.mark.faults
@each_posix_shell
def test_file_that_goes_while_it_is_read_prints_nothing(window: Open, states: Path, name: str) -> None:
    opened, over = window(name), threading.Event()
    path = state_of(states, opened)

    def replace_it() -> None:
        while not over.is_set():
            path.write_text("none\n")
            path.unlink()

    path.unlink(missing_ok=True)
    thread = threading.Thread(target=replace_it)
    thread.start()
    try:
        for _ in range(60):
            opened.do("true")
    finally:
        over.set()
        thread.join()
    assert "No such file" not in opened.seen() and "no such file" not in opened.seen()


@pytest.mark.faults
@pytest.mark.parametrize(("options", "shown"), [(["--within", "50s"], "held"), ([], "none")])
def test_background_heartbeat_keeps_newer_prompt_file(
    states: Path, full_table: Table, stack: ExitStack, options: list[str], shown: str
) -> None:
    shell = subprocess.Popen(["sleep", "600"])
    stack.callback(shell.wait)
    stack.callback(shell.kill)
    own = {**os.environ, "CLAUDE_SESSIONS_DSN": full_table.dsn}
    beat = [*PROGRAM, "heartbeat", "--register", "--pid", str(shell.pid), *options]
    subprocess.run(beat, env=own, check=True, capture_output=True)
    anchor = process.read(shell.pid)
    assert [prompt.read(os.environ, anchor).kind] == ["none"]  # type: ignore[union-attr]
    with psycopg.connect(full_table.dsn) as holds_up:
        holds_up.execute("SELECT 1 FROM public.claude_sessions FOR UPDATE")
        late = subprocess.Popen(beat, env=own, stdout=subprocess.DEVNULL)
        until_waiting(full_table.connection)
        held = State("held", int(time.time()), "SD-1", "s", database=full_table.database.name)
        prompt.write(os.environ, anchor, held)
    assert late.wait(PATIENCE_S) == 0
    assert [prompt.read(os.environ, anchor).kind] == [shown]  # type: ignore[union-attr]


REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")


@each_shell
def test_documented_prompts_show_segment_at_next_prompt(window: Open, states: Path, name: str) -> None:
    [line] = re.findall(rf"^(.*CLAUDE_SESSIONS_PROMPT.*?) +# {name}$", REFERENCE, re.MULTILINE)
    # fish draws a right prompt only if the terminal can move its cursor.
    opened = window(name, after=line, more={"TERM": "xterm"})
    path = state_of(states, opened)
    opened.type(f"echo held 1 SD-AUTH-001 s >{path}")
    until(lambda: re.search(r"SD-AUTH-001 \d+d", opened.seen()), "the segment in the prompt")


@each_shell
def test_documented_switch_disables_the_hook(window: Open, states: Path, name: str) -> None:
    words = re.findall(r"`((?:set -g )?CLAUDE_SESSIONS_HOOK[= ]0)`", REFERENCE)
    [off] = [line for line in words if line.startswith("set") == (name == "fish")]
    opened = window(name)
    state_of(states, opened).write_text("lost 0 SD-AUTH-001 s\n")
    opened.do("true")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "LOST SD-AUTH-001"
    opened.do(off)
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == ""


@each_shell
def test_prompt_programs_find_segment_in_environment(window: Open, states: Path, name: str) -> None:
    """starship is one."""
    opened = window(name)
    state_of(states, opened).write_text("lost 0 SD-AUTH-001 s\n")
    opened.do("true")
    assert opened.run("printenv CLAUDE_SESSIONS_PROMPT").out == "LOST SD-AUTH-001\n"


@only_zsh
def test_documented_powerlevel10k_function_shows_only_a_segment(name: str) -> None:
    [function] = re.findall(r"^function prompt_claude_sessions.*$", REFERENCE, re.MULTILINE)
    text = f"{function}; p10k() {{ print -r -- ${{(j:|:)@}} }}; for CLAUDE_SESSIONS_PROMPT in '' 'SD-1 12m'; $1"
    done = subprocess.run(
        [name, "-f", "-c", text, name, "prompt_claude_sessions"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("segment|-t|SD-1 12m\n", "")


@needs("tmux")
def test_documented_tmux_status_line_shows_the_panes_item(
    stack: ExitStack, states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "claude-sessions"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {CLI} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    tmux = Tmux(tmp_path)
    stack.callback(tmux.close)
    tmux.pane()
    tmux.call("set-environment", "-g", "CLAUDE_SESSIONS_STATE_DIR", str(states.parent))
    [line] = re.findall(r"^set -g status-right .*$", REFERENCE, re.MULTILINE)
    (tmp_path / "tmux.conf").write_text(f"{line}\n")
    tmux.call("source-file", str(tmp_path / "tmux.conf"))
    shell = process.read(int(tmux.call("display-message", "-p", "#{pane_pid}")))
    prompt.write(os.environ, shell, State("held", int(time.time()) - 725, prompt.harmless("a/b @+,=é 7 #S"), "s"))
    # A status line runs its programs only while a client is attached.
    looking = Terminal(tmp_path, (*tmux.command, "attach"), {"TERM": "xterm"})
    stack.callback(looking.close)
    until(lambda: "a/b @+,=é 7 ?S 12m" in looking.seen(), f"the segment in the line\n{looking.seen()}")
