"""The status line, in sh: from the files of the session, before the user's own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, Sleeper
from poll import until
from requirements import needs_proc, only_root

from claude_sessions_cli import process, prompt
from claude_sessions_cli.claude_code import entries, stamp
from claude_sessions_cli.claude_code.stamp import Stamp
from claude_sessions_cli.times import format_age

pytestmark = needs_proc
Show = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def agent(sleeper: Sleeper) -> process.Process:
    """Return the process of an agent."""
    return process.read(sleeper().pid)


@pytest.fixture
def show(tmp_path: Path, agent: process.Process, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Return a function that runs the status line of the agent before a command of its user."""
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CLAUDE_PID", str(agent.pid))
    monkeypatch.setenv("CLAUDE_CODE_SESSION_ID", "conversation")
    called = tmp_path / "called"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$@" >>{shlex.quote(str(called))}\n')
    program.chmod(0o755)

    def run(command: str = "", text: str = "{}", **env: str) -> subprocess.CompletedProcess[str]:
        line = entries.status_command(command, "", [str(program)])
        # The heartbeat behind it looks at the files that a test changes next.
        return subprocess.run(
            ["/bin/sh", "-c", f"{line}; wait"],
            input=text,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=10,
        )

    return run


def _hold(agent: process.Process, age: float = 0, item: str = "SD-1") -> None:
    state = prompt.State("held", int(time.time() - age), item, "conversation", 1, 1, "0" * 16)
    prompt.write(os.environ, agent, state)


def _keep(agent: process.Process, **fields: object) -> Path:
    path = stamp.path_of(os.environ, agent.pid)
    path.parent.mkdir(parents=True, exist_ok=True)
    now = stamp.now()
    stamp.write(path, Stamp(**{"at": now, "due": now + 600, **fields}))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("age", [0, 59, 60, 3599, 3600, 86399, 86400, 700_000])
def test_age_is_that_of_the_prompt(show: Show, agent: process.Process, age: int) -> None:
    _keep(agent, item="SD-1")
    _hold(agent, age)
    assert show().stdout in [f"SD-1 {format_age(age + late)}\n" for late in (0, 1, 2)]


def test_line_shows_track_and_note_of_the_item(show: Show, agent: process.Process) -> None:
    _keep(agent, item="SD-1", track="A", note="fix the $(login) %s \\n")
    _hold(agent)
    assert show().stdout.partition("s ")[2] == "fix the $(login) %s \\n\n"
    assert show().stdout.startswith("SD-1 (A) ")
    _hold(agent, 0, "SD-2")
    assert show().stdout.startswith("SD-2 ") and "login" not in show().stdout


@only_root
def test_what_another_account_wrote_is_not_shown(show: Show, agent: process.Process) -> None:
    stamps = _keep(agent, item="SD-1", track="A", note="theirs")
    _hold(agent)
    os.chown(stamps, 65534, 65534)
    assert show().stdout.startswith("SD-1 ") and "theirs" not in show().stdout
    for file in stamps.parents[1].glob("terminals/*"):
        os.chown(file, 65534, 65534)
    assert show().stdout == ""


def test_item_of_any_script_is_shown_and_known(show: Show, agent: process.Process) -> None:
    for item in ("feature/foo bar", "org/задача @+,=", "a  b"):
        _keep(agent, item=item.replace(" ", "~"), track="A")
        _hold(agent, 0, item)
        assert show().stdout.startswith(f"{item} (A) "), item


def test_loss_is_shown_and_nothing_shows_nothing(show: Show, agent: process.Process) -> None:
    assert show().stdout == ""
    prompt.write(os.environ, agent, prompt.State.of_loss("SD-1", "conversation", "0" * 16))
    assert show().stdout == "LOST SD-1\n"
    path = prompt.file_of(os.environ, agent)
    assert path
    for text in ("", "\n", "held\n", "held x SD-1 a\n", "held 1 $(id) a\n", "\0\n", "lost 0 \x1b[31m a\n"):
        path.write_text(text)
        done = show()
        assert (done.returncode, done.stderr) == (0, "") and done.stdout in ("", "SD-1 -\n"), text


def test_session_of_run_is_shown(show: Show, agent: process.Process, sleeper: Sleeper) -> None:
    runner = process.read(sleeper().pid)
    prompt.write(os.environ, runner, prompt.State("held", int(time.time()), "SD-9", "run", 1, 1, "0" * 16))
    env = {"CLAUDE_SESSIONS_ANCHOR": f"pid:[1] {runner.pid} {runner.start}", "CLAUDE_SESSIONS_SESSION_ID": "run"}
    assert show(**env).stdout.startswith("SD-9 ")


def test_own_line_keeps_its_input_output_and_code(show: Show, agent: process.Process) -> None:
    _hold(agent)
    _keep(agent, item="SD-1")
    done = show("cat; printf 'two\\nlines' ; echo oops >&2; exit 3", text='{"model": "x"}\n')
    assert done.stdout.startswith("SD-1 ") and done.stdout.endswith('s  {"model": "x"}\ntwo\nlines')
    assert (done.stderr, done.returncode) == ("oops\n", 3)
    assert show("cat", text="all", CLAUDE_SESSIONS_HOOK="0").stdout == "all"


def test_own_line_that_hangs_is_ended_with_ours(show: Show, tmp_path: Path) -> None:
    line = entries.status_command(f"echo $$ >{tmp_path}/pid; exec sleep 600", "", ["/gone"])
    child = subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the user's command")
    # One process: the signal of the client reaches the user's command.
    assert (tmp_path / "pid").read_text().strip() == str(child.pid)
    child.kill()
    child.wait()


def test_heartbeat_is_sent_behind_it_if_due(show: Show, agent: process.Process, tmp_path: Path) -> None:
    called = tmp_path / "called"
    path = _keep(agent)
    show()
    _keep(agent, at=0, due=0)
    show()
    until(lambda: called.exists() and called.read_text(), "a heartbeat")
    assert called.read_text() == "hook statusLine --background\n"
    # The lock of the first one.
    show()
    stamp.beside(path, "lock").unlink()
    _hold(agent, 0, "SD-2")
    _keep(agent, at=stamp.now() - 10, item="SD-1")
    show()
    until(lambda: called.read_text().count("\n") == 2, "a heartbeat for the track and the note")
    assert called.read_text().endswith("hook statusLine --background --changed\n")


def test_command_prints_the_same(show: Show, agent: process.Process, cli: Cli) -> None:
    _keep(agent, item="SD-1", track="A")
    assert cli("statusline").stdout == ""
    _hold(agent)
    done = cli("statusline")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("SD-1 (A) ")


def test_stamp_is_read_back_as_written() -> None:
    for kept in (
        Stamp(),
        Stamp(1, 2, "lost", "123", "SD-1", "A", "two words", ["1", "twin"]),
        Stamp(1, 2, "ok", "-", "SD-1", "-", "", []),
    ):
        assert Stamp.parse(kept.text) == kept
    for text in ("", "\n", "x", "1 2\n", "a b ok -\n- -\ntold\n", json.dumps({})):
        assert Stamp.parse(text) == Stamp()
