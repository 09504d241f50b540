"""The session of a command, in real terminals, under real shells, relays, multiplexers and agents."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Cli
from poll import until
from requirements import cross, each_shell, each_shell_at_length, needs, needs_sudo
from terminal import CLI, SHELLS, WHOAMI, Agent, Answer, Keyboard, Terminal, Tmux, environment

from claude_sessions_cli import identity, process
from claude_sessions_cli.liveness import this_host
from commands.answers import Run, data_of

Open = Callable[..., Terminal]
START_AGENT = 'while read -r line; do eval "$line"; done'


needs_script = pytest.mark.skipif(
    shutil.which("script") is None or platform.system() != "Linux", reason="util-linux's script is not installed"
)
needs_setsid = pytest.mark.skipif(shutil.which("setsid") is None, reason="setsid is not installed")
needs_linux = pytest.mark.skipif(platform.system() != "Linux", reason="this is not Linux")


@pytest.fixture
def terminal(stack: ExitStack, tmp_path: Path) -> Open:
    """Return a function that opens a window."""

    def start(name: str = "bash", more: dict[str, str] | None = None, cwd: Path | None = None) -> Terminal:
        made = Terminal(tmp_path, SHELLS[name], more, cwd)
        stack.callback(made.close)
        return made

    return start


@pytest.fixture
def tmux(stack: ExitStack, tmp_path: Path) -> Tmux:
    """Return a tmux server that has not started yet."""
    made = Tmux(tmp_path)
    stack.callback(made.close)
    return made


@pytest.fixture
def agent(stack: ExitStack, tmp_path: Path) -> Callable[..., Agent]:
    """Return a function that starts an agent; without arguments, a program named claude."""

    def start(
        *argv: str, name: str = "claude", on: Keyboard | None = None, more: dict[str, str] | None = None
    ) -> Agent:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copy(str(shutil.which("bash")), copy)
        made = Agent(tmp_path, copy, argv or (name,), more, on)
        stack.callback(made.close)
        return made

    return start


def hook_of(shell: Terminal, start: str | None = None) -> str:
    """Return the variable that the shell hook exports."""
    return f"{shell.tty}:{shell.pid}:{start or process.read(shell.pid).start}"


def anchor_of(pid: int) -> str:
    """Return the anchor that the tool exports with an id."""
    return identity.export_anchor(process.read(pid), this_host())


def given(keyboard: Keyboard, **variables: str) -> str:
    """Return the words that set variables for a command, from files: a value may be too long to type."""
    words = []
    for name, value in variables.items():
        file = keyboard.directory / f"value-of-{name}"
        file.write_text(value)
        words.append(f'{name}="$(cat {file})"')
    return " ".join(["env", *words])


# -- one terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.faults
@each_shell
def test_commands_in_one_terminal_share_a_session(terminal: Open, tmp_path: Path, name: str) -> None:
    window = terminal(name)
    first, second = window.run(), window.run()
    assert first.data == second.data
    data = first.data
    letters = re.sub("[^A-Za-z0-9]", "", window.tty.removeprefix("/dev/"))
    assert re.fullmatch(rf"session_[0-9a-f]{{8}}_{letters}_{window.pid}", first.session)
    assert data["anchor"] == {"pid": window.pid, "program": name, "start": process.read(window.pid).start}
    assert (data["pid"], data["tty"]) == (window.pid, window.tty)
    assert (data["hostname"], data["codebase"]) == (socket.gethostname(), tmp_path.name)
    assert first.winners == ["session: derived from the anchor", "anchor: terminal"]


@needs_linux
def test_process_record_matches_the_kernel(terminal: Open) -> None:
    window = terminal()
    code = "import json, os; from claude_sessions_cli import identity as i; "
    answer = window.run(
        f"{sys.executable} -c {shlex.quote(code + 'print(json.dumps(i.detect(os.environ).own_metadata()))')}"
    )
    fields = Path(f"/proc/{window.pid}/stat").read_text().rpartition(")")[2].split()
    found = json.loads(answer.out)["process"]
    assert found.pop("machine_id", "") == this_host().machine_id
    assert found == {
        "pid": window.pid,
        "start": fields[19],
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_ns": str(Path(f"/proc/{window.pid}/ns/pid").readlink()),
    }


@each_shell_at_length
def test_two_terminals_are_two_sessions(terminal: Open, name: str) -> None:
    first, second = terminal(name), terminal(name)
    assert first.run().session != second.run().session
    assert (first.run().data["tty"], second.run().data["tty"]) == (first.tty, second.tty)


@pytest.mark.faults
def test_terminal_opened_after_closing_another_is_new_session(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        window = Terminal(tmp_path)
        seen.add(window.run().session)
        window.close()
    assert len(seen) == 3


def test_login_shell_is_the_terminals_shell(stack: ExitStack, tmp_path: Path) -> None:
    window = Terminal(tmp_path, ("bash", "-c", "exec -a -bash bash --norc --noprofile -i"))
    stack.callback(window.close)
    assert window.run().data["pid"] == window.pid


@pytest.mark.faults
@cross("inner", list(SHELLS), [(name, name) for name in SHELLS])
def test_nested_shell_agrees_with_outer_shell(terminal: Open, name: str, inner: str) -> None:
    window = terminal(name)
    outer = window.run().data
    assert window.enter(shlex.join(SHELLS[inner]), inner) != window.pid
    assert window.run().data == outer


FORMS = {
    "sh -c": f"sh -c '{WHOAMI}; true'",
    "bash -c": f"bash -c '{WHOAMI}; true'",
    "bash -i -c": f"bash --norc -i -c '{WHOAMI}; true'",
    "a pipe": f"echo | {WHOAMI} | cat",
    "a subshell": f"( {WHOAMI}; true )",
    "a substitution": f'echo "$({WHOAMI})"',
    "a background job": f"{WHOAMI} >{{out}} & wait $!",
    "nohup": f"nohup {WHOAMI}",
    "nohup in the background": f"nohup {WHOAMI} >{{out}} & wait $!",
    "env -i": f'env -i HOME="$HOME" {WHOAMI}',
    "xargs": f"echo --explain | xargs {WHOAMI}",
    "timeout": f"timeout 60 {WHOAMI}",
    "nothing on its standard streams": f"{WHOAMI} <&- >{{out}}",
}


@pytest.mark.faults
def test_command_agrees_with_terminal_however_started(terminal: Open) -> None:
    window = terminal()
    plain = window.run().data
    for form, text in FORMS.items():
        assert window.run(text).data == plain, form


@pytest.mark.faults
def test_script_file_agrees_with_terminal(terminal: Open, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{WHOAMI}\n:\n")
    script.chmod(0o755)
    window = terminal()
    assert window.run(str(script)).data == window.run(f"bash {script}").data == window.run().data


@needs("make")
def test_makefile_agrees_with_terminal(terminal: Open, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(f"all:\n\t@{WHOAMI}; true\n")
    window = terminal()
    assert window.run("make -s").data == window.run().data


# -- relays: a terminal of their own in the same window ---------------------------------------------------------------


@pytest.mark.faults
@needs_script
def test_util_linux_script_agrees_with_outer_terminal(terminal: Open) -> None:
    window = terminal()
    outer = window.run().data
    inner = window.run("script -qec 'tty >{out}' /dev/null").out.strip()
    assert inner not in ("", window.tty)
    assert window.run(f"script -qec '{WHOAMI} >{{out}}' /dev/null").data == outer
    window.enter("script -q /dev/null -c 'bash --norc --noprofile -i'")
    assert window.run("tty").out.strip() not in ("", window.tty)
    assert window.run().data == outer


def _without(answer: Answer, *left_out: str) -> dict[str, object]:
    return {name: value for name, value in answer.data.items() if name not in left_out}


@pytest.mark.faults
@needs_sudo
def test_sudo_agrees_with_outer_terminal(terminal: Open) -> None:
    window = terminal()
    outer = _without(window.run(), "database")
    # Under sudo, a database must be named.
    assert _without(window.run(f"sudo -n {WHOAMI}"), "database") == outer
    assert _without(window.run(f"sudo -n sh -c '{WHOAMI}; true'"), "database") == outer


@needs_sudo
@pytest.mark.parametrize(
    "command",
    [
        "sudo -n -i",
        *(
            pytest.param(how, marks=pytest.mark.faults)
            for how in ("sudo -n -s", "sudo -n sudo -n -i", "sudo -n su -", "sudo -n su -P")
        ),
    ],
)
def test_shell_under_sudo_agrees_with_outer_terminal(terminal: Open, command: str) -> None:
    window = terminal()
    outer = window.run()
    assert window.enter(command) != window.pid
    assert window.run("id -u").out.strip() == "0"
    left_out = ("codebase", "rules", "database")
    assert _without(window.run(), *left_out) == _without(outer, *left_out)


@needs_sudo
@needs_linux
def test_debian_sudo_opens_its_own_terminal(terminal: Open) -> None:
    window = terminal()
    inner = window.run("sudo -n tty >{out}").out.strip()
    if inner == window.tty:
        pytest.skip("sudo is not set to use_pty here")
    # So the agreement above goes through two terminals.
    assert inner.startswith("/dev/pts/")


def ask(directory: Path) -> tuple[Path, Path]:
    """Return a script that writes the session of its terminal, and the terminal, and the file it writes to."""
    answer, script = directory / "asked", directory / "ask"
    script.write_text(f"#!/bin/sh\n{WHOAMI} >{answer}.new\ntty >>{answer}.new\nmv {answer}.new {answer}\n")
    script.chmod(0o755)
    return script, answer


RECORDERS = {
    "expect": "expect -c 'spawn -noecho {script}; expect eof'",
    "unbuffer": "unbuffer {script}",
    "asciinema": "asciinema rec -q -c {script} {script}.cast",
    "ttyrec": "ttyrec -e {script} {script}.ttyrec",
    "rlwrap": "stty cols 80 && rlwrap -a {script}",
}


@pytest.mark.faults
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in RECORDERS])
def test_recorder_agrees_with_outer_terminal(terminal: Open, tmp_path: Path, name: str) -> None:
    window = terminal()
    outer = window.run().data
    script, answer = ask(tmp_path)
    assert window.run(RECORDERS[name].format(script=script)).code == 0
    data, tty = answer.read_text().splitlines()
    assert tty not in ("not a tty", window.tty)
    assert json.loads(data)["data"] == outer


COOKED = "pty.setraw = tty.setraw = lambda *_: None"
SECOND = "more = os.openpty()"


def program(directory: Path, name: str, *lines: str) -> Path:
    """Return a Python program of that name that opens a terminal for its arguments, or for bash, after some lines."""
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    spawn = f"pty.spawn(sys.argv[2:] or {list(SHELLS['bash'])})"
    path.write_text("\n".join([f"#!{sys.executable}", "import os, pty, sys, tty", *lines, spawn, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.faults
@pytest.mark.parametrize("start", ["{path} shell", "{python} -I {path} shell"], ids=["script", "python"])
@pytest.mark.parametrize(
    "name", ["poetry", *(pytest.param(name, marks=pytest.mark.faults) for name in ("pipenv", "hatch"))]
)
def test_shell_of_python_tool_agrees_with_outer_terminal(terminal: Open, tmp_path: Path, name: str, start: str) -> None:
    window = terminal()
    outer = window.run()
    path = program(tmp_path, name, COOKED, SECOND)
    window.enter(start.format(path=path, python=sys.executable))
    assert window.run("tty").out.strip() not in ("", window.tty)
    assert window.run().data == outer.data


@needs_linux
def test_unknown_program_in_raw_mode_is_inside_the_window(terminal: Open, tmp_path: Path) -> None:
    window = terminal()
    outer = window.run()
    window.enter(str(program(tmp_path, "wrapper")))
    assert window.run("tty").out.strip() not in ("", window.tty)
    assert window.run().data == outer.data


NOT_INSIDE = {
    "two terminals": ("wrapper", SECOND),
    "cooked mode": ("wrapper", COOKED),
    "a multiplexer": ("dvtm", ""),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", NOT_INSIDE)
def test_program_that_may_be_an_emulator_is_own_session(terminal: Open, tmp_path: Path, case: str) -> None:
    window = terminal()
    outer = window.run()
    own = window.enter(str(program(tmp_path, *NOT_INSIDE[case])))
    inner = window.run()
    assert inner.data["pid"] == own
    assert inner.session != outer.session


def test_emulator_in_background_is_not_inside_the_window(terminal: Open, tmp_path: Path) -> None:
    window = terminal()
    script, answer = ask(tmp_path)
    go, wait = tmp_path / "go", tmp_path / "wait"
    wait.write_text(f"#!/bin/sh\nuntil test -e {go}; do sleep 0.05; done\n{script}\n:\n")
    wait.chmod(0o755)
    window.type(f"{program(tmp_path, 'emulator', COOKED)} open {wait} & true")
    # At its prompt, bash has the terminal in raw mode itself.
    until(lambda: is_raw(window.tty), "the next prompt")
    go.touch()
    data, _ = until(lambda: answer.exists() and answer.read_text(), "the answer").splitlines()
    assert json.loads(data)["error"]["code"] == "no_identity"
    assert is_raw(window.tty)


@pytest.mark.parametrize("raw", ["its terminal", "its input"])
def test_program_that_reads_no_keys_is_not_inside_the_window(terminal: Open, tmp_path: Path, raw: str) -> None:
    window, other = terminal(), terminal()
    script, answer = ask(tmp_path)
    # Another program of the job may have set the terminal so; `pty.spawn` sets the input so.
    lines = ["tty.setraw(0)"] if raw == "its terminal" else []
    source = os.devnull if raw == "its terminal" else other.tty
    lines += [f"os.dup2(os.open({source!r}, os.O_RDWR | os.O_NOCTTY), 0)"]
    window.type(f"{program(tmp_path, 'emulator', *lines)} open {script}")
    data, _ = until(lambda: answer.exists() and answer.read_text(), "the answer").splitlines()
    assert json.loads(data)["error"]["code"] == "no_identity"


def is_raw(tty: str) -> bool:
    """Whether a terminal passes on each key and shows none."""
    descriptor = os.open(tty, os.O_RDONLY | os.O_NOCTTY)
    try:
        return not termios.tcgetattr(descriptor)[3] & (termios.ICANON | termios.ECHO)
    finally:
        os.close(descriptor)


# -- shells of other kinds --------------------------------------------------------------------------------------------

OTHER_SHELLS = ["ksh93", "lksh", "mksh", "yash", "busybox sh", "busybox ash", "bsd-csh -f", "tcsh -f", "zsh-static -f"]


def session_in(window: Terminal, directory: Path) -> dict[str, Any]:
    """Return the session of a window whose shell need not know the language of `run`."""
    script, answer = ask(directory)
    patience = count()

    def answered() -> str:
        if next(patience) % 100 == 0:
            window.type(str(script))
        return answer.read_text() if answer.exists() else ""

    data = json.loads(until(answered, "the answer").splitlines()[0])
    assert isinstance(data["data"], dict), data
    return data["data"]


@pytest.mark.faults
@pytest.mark.parametrize("command", [pytest.param(each, marks=needs(each.split()[0])) for each in OTHER_SHELLS])
def test_shell_of_other_kind_is_terminals_session(stack: ExitStack, tmp_path: Path, command: str) -> None:
    window = Terminal(tmp_path, command.split())
    stack.callback(window.close)
    data = session_in(window, tmp_path)
    assert (data["pid"], data["tty"]) == (window.pid, window.tty)


def test_xonsh_is_terminals_session(stack: ExitStack, tmp_path: Path) -> None:
    xonsh = tmp_path / "xonsh"
    xonsh.write_text("import os\nwhile True:\n    os.spawnvp(os.P_WAIT, *[(words := input('$ ').split())[0], words])\n")
    window = Terminal(tmp_path, (sys.executable, "-u", str(xonsh), "--no-rc"))
    stack.callback(window.close)
    data = session_in(window, tmp_path)
    assert (data["pid"], data["anchor"]["program"]) == (window.pid, "xonsh")


# -- a terminal program ends the window -------------------------------------------------------------------------------

EMULATOR = f"import os, pty, sys, tty; {COOKED}; pty.spawn(sys.argv[1:])"


def emulator(*argv: str) -> str:
    """Return a command that opens a new terminal, like a terminal emulator, and forwards keys to it."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(EMULATOR)} {shlex.join(argv)}"


def test_terminal_emulator_is_a_session_of_its_own(terminal: Open) -> None:
    window = terminal()
    outer = window.run()
    own = window.enter(emulator(*SHELLS["bash"]))
    inner = window.run()
    assert (inner.data["pid"], inner.data["tty"]) == (own, window.run("tty").out.strip())
    assert inner.data["tty"] != window.tty
    assert inner.session != outer.session


@needs_script
def test_terminal_emulator_running_a_relay_is_own_session(terminal: Open) -> None:
    window = terminal()
    outer = window.run()
    own = window.enter(emulator("script", "-q", "/dev/null", "-c", shlex.join(SHELLS["bash"])))
    inner = window.run()
    assert inner.data["pid"] == own
    assert inner.session != outer.session


def test_emulator_below_hooked_shell_is_own_session(terminal: Open) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)}")
    assert window.run().data["pid"] == window.pid
    own = window.enter(emulator(*SHELLS["bash"]))
    inner = window.run()
    assert inner.data["pid"] == own
    assert inner.winners == ["session: derived from the anchor", "anchor: terminal"]


def test_setsid_in_emulator_does_not_find_outer_terminal(terminal: Open) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)}")
    window.enter(emulator(*SHELLS["bash"]))
    assert window.run(f"setsid -w {WHOAMI}").code == 5


@pytest.mark.faults
@needs("tmux")
def test_two_panes_are_two_sessions(tmux: Tmux) -> None:
    first, second = tmux.pane(), tmux.pane()
    answers = first.run(), second.run()
    assert [answer.data["tty"] for answer in answers] == [first.tty, second.tty]
    assert answers[0].session != answers[1].session
    assert first.run().data == answers[0].data


INHERITED = ["CLAUDE_SESSIONS_SHELL", "CLAUDE_SESSIONS_ANCHOR", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID"]


def variables_of(pid: int, tty: str, kind: str) -> dict[str, str]:
    """Return variables of a session whose process is `pid`."""
    return {
        "CLAUDE_SESSIONS_SHELL": {"CLAUDE_SESSIONS_SHELL": f"{tty}:{pid}:{process.read(pid).start}"},
        "CLAUDE_SESSIONS_ANCHOR": {"CLAUDE_SESSIONS_SESSION_ID": "first", "CLAUDE_SESSIONS_ANCHOR": anchor_of(pid)},
        "CLAUDE_CODE_SESSION_ID": {"CLAUDE_CODE_SESSION_ID": "8a1c66ff-0000-4000-8000-000000000001"},
        "CLAUDE_PID": {"CLAUDE_PID": str(pid), "CLAUDE_CODE_SESSION_ID": "8a1c66ff-0000-4000-8000-000000000001"},
    }[kind]


@pytest.mark.faults
@needs("tmux")
@pytest.mark.parametrize("kind", INHERITED)
def test_pane_with_inherited_environment_is_own_session(tmux: Tmux, kind: str) -> None:
    first = tmux.pane()
    alone = first.run()
    inherited = variables_of(alone.data["pid"], first.tty, kind)
    second = tmux.pane(inherited)
    name = next(iter(inherited))
    assert second.run(f"echo ${name}").out.strip() == inherited[name]
    answer = second.run()
    assert answer.session != alone.session
    assert (answer.data["pid"], answer.data["tty"]) == (int(second.run("echo $$").out), second.tty)
    assert answer.winners == ["session: derived from the anchor", "anchor: terminal"]


@needs("tmux")
def test_pane_of_tmux_started_in_hooked_shell_is_own_session(terminal: Open, tmux: Tmux) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)} CLAUDE_CODE_SESSION_ID=inherited")
    assert window.run(f"{shlex.join(tmux.command)} new-session -d {shlex.quote(shlex.join(SHELLS['bash']))}").code == 0
    pane = tmux.pane()
    assert pane.run("echo $CLAUDE_CODE_SESSION_ID").out.strip() == "inherited"
    assert pane.run().data["pid"] == int(pane.run("echo $$").out)


# -- the shell hook, and ids in the environment -----------------------------------------------------------------------


@pytest.mark.faults
def test_hooked_shell_is_its_terminals_session(terminal: Open) -> None:
    window = terminal()
    plain = window.run()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)}")
    hooked = window.run()
    assert hooked.session == plain.session
    assert hooked.winners == ["session: derived from the anchor", "anchor: CLAUDE_SESSIONS_SHELL"]


def test_hook_variable_without_start_counts(terminal: Open) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={window.tty}:{window.pid}:")
    assert window.run().winners[-1] == "anchor: CLAUDE_SESSIONS_SHELL"


@pytest.mark.faults
@needs_setsid
def test_hooked_ancestor_identifies_command_without_terminal(terminal: Open) -> None:
    window = terminal()
    session = window.run().session
    assert window.run(f"setsid -w {WHOAMI}").code == 5
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)}")
    answer = window.run(f"setsid -w sh -c '{WHOAMI}; true'")
    assert (answer.session, answer.data["tty"], answer.data["pid"]) == (session, window.tty, window.pid)


@pytest.mark.faults
@needs_setsid
def test_hook_variable_without_matching_ancestor_is_ignored(terminal: Open) -> None:
    window = terminal()
    long = "9" * 10_000
    for value in ("nonsense", "::", ":x:", "/dev/pts/0:1:1", long, f"/dev/pts/0:{long}:1", "a:²:3"):
        with_variable = given(window, CLAUDE_SESSIONS_SHELL=value)
        assert window.run(f"{with_variable} setsid -w {WHOAMI}").code == 5, value[:20]
        assert window.run(f"{with_variable} {WHOAMI}").data["pid"] == window.pid, value[:20]


@needs_setsid
def test_hook_variable_with_reused_pid_is_ignored(terminal: Open) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window, start='12345')}")
    assert window.run(f"setsid -w {WHOAMI}").code == 5


@pytest.mark.faults
@needs_setsid
def test_session_id_identifies_command_without_terminal(terminal: Open) -> None:
    window = terminal()
    for name in ("CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"):
        answer = window.run(f"{name}=by-name setsid -w {WHOAMI}")
        assert (answer.session, answer.data["anchor"], answer.data["tty"]) == ("by-name", None, None)
    answer = window.run(f"setsid -w {WHOAMI} --session by-option")
    assert (answer.session, answer.data["pid"]) == ("by-option", None)


@pytest.mark.faults
def test_session_option_overrides_both_variables(terminal: Open) -> None:
    window = terminal(more={"CLAUDE_SESSIONS_SESSION_ID": "own", "CLAUDE_CODE_SESSION_ID": "agents"})
    assert window.run().session == "own"
    assert window.run(f"{WHOAMI} --session given").session == "given"
    assert window.run(f"env CLAUDE_SESSIONS_SESSION_ID= {WHOAMI}").session.startswith("session_")


def test_session_id_set_by_user_counts_in_every_terminal(terminal: Open) -> None:
    window = terminal(more={"CLAUDE_SESSIONS_SESSION_ID": "mine"})
    answer = window.run()
    assert (answer.session, answer.data["pid"], answer.data["tty"]) == ("mine", window.pid, window.tty)


@pytest.mark.faults
def test_exported_id_counts_only_below_its_process(terminal: Open) -> None:
    window, other = terminal(), terminal()
    exports = f"export CLAUDE_SESSIONS_SESSION_ID=run-1 CLAUDE_SESSIONS_ANCHOR={shlex.quote(anchor_of(window.pid))}"
    window.type(exports)
    other.type(exports)
    assert window.run().session == "run-1"
    assert window.run().winners == ["session: CLAUDE_SESSIONS_SESSION_ID", "anchor: CLAUDE_SESSIONS_ANCHOR"]
    assert other.run().data["pid"] == other.pid
    assert other.run().winners[0] == "session: derived from the anchor"


def test_exported_id_from_another_namespace_counts(terminal: Open) -> None:
    elsewhere = "pid:[1] 17 12345"
    window = terminal(more={"CLAUDE_SESSIONS_SESSION_ID": "outer", "CLAUDE_SESSIONS_ANCHOR": elsewhere})
    answer = window.run()
    assert (answer.session, answer.data["id_from"]) == ("outer", "exported")
    # Another process must not stand in for the one that cannot be seen.
    assert [answer.data[name] for name in ("anchor", "pid", "tty")] == [None, None, None]
    assert window.run(f"{WHOAMI} --pid $$").data["pid"] == window.pid


@needs_setsid
def test_agent_with_id_of_other_namespace_has_no_anchor(agent: Callable[..., Agent]) -> None:
    exported = {"CLAUDE_SESSIONS_SESSION_ID": "outer", "CLAUDE_SESSIONS_ANCHOR": "pid:[1] 17 12345"}
    answer = agent(more={**exported, "CLAUDE_CODE_SESSION_ID": AGENT_ID}).run()
    assert (answer.session, answer.data["anchor"]) == ("outer", None)
    whys = {rule["rule"]: rule["why"] for rule in answer.data["rules"]}
    reason = "does not count: CLAUDE_SESSIONS_ANCHOR names a process of another pid namespace"
    assert whys["anchor: claude process"] == whys["anchor: CLAUDE_PID"] == reason


@pytest.mark.faults
def test_malformed_exported_anchor_does_not_count(terminal: Open) -> None:
    window = terminal()
    for value in ("nonsense", "a b", "pid:[1] x 5", "pid:[1] 5 ", " 5 5", "9" * 10_000):
        with_variables = given(window, CLAUDE_SESSIONS_SESSION_ID="outer", CLAUDE_SESSIONS_ANCHOR=value)
        answer = window.run(f"{with_variables} {WHOAMI}")
        assert answer.winners[0] == "session: derived from the anchor", value[:20]
        [why] = [rule["why"] for rule in answer.data["rules"] if rule["rule"] == "session: CLAUDE_SESSIONS_SESSION_ID"]
        assert why == "does not count: CLAUDE_SESSIONS_ANCHOR is malformed", value[:20]


# -- agents -----------------------------------------------------------------------------------------------------------

AGENT_ID = "8a1c66ff-1111-4000-8000-000000000001"
INNER_ID = "8a1c66ff-2222-4000-8000-000000000002"


@pytest.mark.faults
@needs_setsid
def test_command_of_agent_is_the_agents_session(agent: Callable[..., Agent]) -> None:
    claude = agent(more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    answer = claude.run()
    assert answer.session == AGENT_ID
    assert (answer.data["pid"], answer.data["tty"], answer.data["anchor"]["program"]) == (claude.pid, None, "claude")
    assert answer.winners == ["session: CLAUDE_CODE_SESSION_ID", "anchor: claude process"]
    assert claude.run().data == answer.data
    assert claude.run(f"sh -c 'sh -c \"{WHOAMI}; true\"; true'").data == answer.data


@pytest.mark.faults
@needs_setsid
def test_agent_without_id_is_one_session(agent: Callable[..., Agent]) -> None:
    first, second = agent(), agent()
    assert re.fullmatch(rf"session_[0-9a-f]{{8}}_notty_{first.pid}", first.run().session)
    assert first.run().session == first.run().session != second.run().session


@pytest.mark.faults
@needs_setsid
@pytest.mark.parametrize(
    ("name", "flags"), [("node", []), ("node", ["--norc", "--noprofile"]), ("bun", []), ("nodejs", [])]
)
def test_agent_run_by_interpreter_is_found_by_its_script(
    agent: Callable[..., Agent], tmp_path: Path, name: str, flags: list[str]
) -> None:
    script = tmp_path / "node_modules/@anthropic-ai/claude-code/cli.js"
    script.parent.mkdir(parents=True)
    script.write_text(START_AGENT)
    node = agent(name, *flags, str(script), name=name, more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    assert (node.run().session, node.run().data["pid"]) == (AGENT_ID, node.pid)


@needs_setsid
@needs("node")
def test_agent_under_real_node_is_found(stack: ExitStack, tmp_path: Path) -> None:
    script = tmp_path / "node_modules/@anthropic-ai/claude-code/cli.js"
    script.parent.mkdir(parents=True)
    command = f"setsid -w sh -c {shlex.quote(WHOAMI + '; true')}"
    script.write_text(
        "const { execSync } = require('child_process');\n"
        "process.stdin.on('data', () => process.stdout.write(execSync(process.argv[2])));\n"
    )
    node = subprocess.Popen(
        ["node", "--no-warnings", str(script), command],
        env=environment(tmp_path, {"CLAUDE_CODE_SESSION_ID": AGENT_ID}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with node:
        assert node.stdin and node.stdout
        node.stdin.write("go\n")
        node.stdin.flush()
        data = json.loads(node.stdout.readline())["data"]
        node.kill()
    assert (data["session_id"], data["pid"]) == (AGENT_ID, node.pid)


AGENT_NAMES = {
    "npm's executable": ("claude.exe", "claude.exe"),
    "a title": ("helper", "claude bg-spare"),
    "a title with a path": ("helper", "claude --add-dir /bin/node"),
    "an installed version": ("claude/versions/2.1.3", "{path}"),
    "an installed version by another name": ("claude/versions/2.1.3", "agent"),
}


@pytest.mark.faults
@needs_setsid
@pytest.mark.parametrize("case", [*AGENT_NAMES])
def test_agent_of_other_name_is_found(agent: Callable[..., Agent], tmp_path: Path, case: str) -> None:
    name, called = AGENT_NAMES[case]
    found = agent(called.format(path=tmp_path / name), name=name, more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    answer = found.run()
    assert (answer.session, answer.data["pid"]) == (AGENT_ID, found.pid)
    assert answer.winners[-1] == "anchor: claude process"


@needs_setsid
def test_agent_in_terminal_has_that_terminal(terminal: Open, agent: Callable[..., Agent]) -> None:
    window = terminal()
    outer = window.run().session
    claude = agent(on=window, more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    answer = claude.run()
    assert (answer.session, answer.data["pid"], answer.data["tty"]) == (AGENT_ID, claude.pid, window.tty)
    claude.close()
    assert window.run().session == outer


@needs_setsid
def test_agent_in_hooked_terminal_is_own_session(terminal: Open, agent: Callable[..., Agent]) -> None:
    window = terminal()
    window.type(f"export CLAUDE_SESSIONS_SHELL={hook_of(window)}")
    claude = agent(on=window)
    assert claude.run().data["pid"] == claude.pid


@needs_setsid
def test_agent_inside_agent_is_own_session(agent: Callable[..., Agent]) -> None:
    outer = agent(more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    inner = agent(on=outer, more={"CLAUDE_CODE_SESSION_ID": INNER_ID})
    answer = inner.run()
    assert (answer.session, answer.data["pid"]) == (INNER_ID, inner.pid)
    assert answer.winners == ["session: CLAUDE_CODE_SESSION_ID", "anchor: claude process"]


@needs_setsid
def test_agent_under_run_of_agent_acts_as_runs_session(agent: Callable[..., Agent]) -> None:
    outer = agent(more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    exported = {"CLAUDE_SESSIONS_SESSION_ID": AGENT_ID, "CLAUDE_SESSIONS_ANCHOR": anchor_of(outer.pid)}
    inner = agent(on=outer, more={**exported, "CLAUDE_CODE_SESSION_ID": INNER_ID})
    answer = inner.run()
    assert (answer.session, answer.data["pid"]) == (AGENT_ID, outer.pid)
    assert answer.winners == ["session: CLAUDE_SESSIONS_SESSION_ID", "anchor: CLAUDE_SESSIONS_ANCHOR"]


@needs_setsid
def test_agent_under_run_in_terminal_acts_as_runs_session(terminal: Open, agent: Callable[..., Agent]) -> None:
    window = terminal()
    exported = {"CLAUDE_SESSIONS_SESSION_ID": "run-1", "CLAUDE_SESSIONS_ANCHOR": anchor_of(window.pid)}
    claude = agent(on=window, more={**exported, "CLAUDE_CODE_SESSION_ID": AGENT_ID})
    answer = claude.run(f"env CLAUDE_PID={claude.pid} {WHOAMI}")
    assert (answer.session, answer.data["pid"], answer.data["id_from"]) == ("run-1", window.pid, "exported")


@needs_setsid
def test_claude_pid_identifies_agent_of_another_name(agent: Callable[..., Agent]) -> None:
    other = agent(name="assistant")
    assert other.run().code == 5
    answer = other.run(f"env CLAUDE_PID={other.pid} {WHOAMI}")
    assert (answer.data["pid"], answer.data["anchor"]["program"]) == (other.pid, "assistant")
    assert answer.winners[-1] == "anchor: CLAUDE_PID"


@pytest.mark.faults
@needs_setsid
def test_claude_pid_of_no_ancestor_is_ignored(agent: Callable[..., Agent]) -> None:
    claude = agent(more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    for value in ("1x", "-1", "0", "9" * 10_000, "²", " ", "4194305"):
        assert claude.run(f"{given(claude, CLAUDE_PID=value)} {WHOAMI}").data["pid"] == claude.pid, value[:20]


def test_agent_id_left_in_terminal_does_not_count(terminal: Open) -> None:
    window = terminal(more={"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    answer = window.run()
    assert answer.session.startswith("session_")
    [why] = [rule["why"] for rule in answer.data["rules"] if rule["rule"] == "session: CLAUDE_CODE_SESSION_ID"]
    assert why == f"does not count in {window.tty}, which is not below a claude process"


# -- no session -------------------------------------------------------------------------------------------------------

NO_SESSION = (
    "claude-sessions: no session: no id is given, no claude process is above this command, and it has no terminal"
    " (name it with --session ID or CLAUDE_SESSIONS_SESSION_ID; every rule: claude-sessions whoami --explain)\n"
)


def orphan(command: str, directory: Path) -> Answer:
    """Run a command like a child of cron: without a terminal, an environment or a known parent."""
    out, err, code = (directory / name for name in ("out", "err", "code"))
    text = f"({command} >{out} 2>{err}; echo $? >{code}) &"
    subprocess.run(["sh", "-c", text], env={}, cwd="/", start_new_session=True, stdin=subprocess.DEVNULL, check=True)
    until(lambda: code.exists() and code.read_text().endswith("\n"), command)
    return Answer(int(code.read_text()), out.read_text(), err.read_text())


def test_command_under_cron_reports_no_session(tmp_path: Path) -> None:
    answer = orphan(f"{CLI} whoami", tmp_path)
    assert (answer.code, answer.out, answer.err) == (5, "", NO_SESSION)


def test_claim_without_identity_fails_before_connecting(tmp_path: Path) -> None:
    answer = orphan(f"{CLI} claim SD-1 --dsn host={tmp_path}/missing", tmp_path)
    assert (answer.code, answer.out, answer.err) == (5, "", NO_SESSION.replace("whoami", "whoami --dsn DSN"))


def test_explain_shows_every_rule_if_no_session_is_found(tmp_path: Path) -> None:
    explained = orphan(f"{CLI} whoami --explain", tmp_path)
    assert (explained.code, explained.err) == (5, NO_SESSION)
    (tmp_path / "code").unlink()
    answer = json.loads(orphan(f"{CLI} whoami --json --explain", tmp_path).out)
    assert (answer["ok"], answer["error"]["code"]) == (False, "no_identity")
    assert answer["data"]["session_id"] is answer["data"]["pid"] is answer["data"]["tty"] is None
    for rule in answer["data"]["rules"]:
        assert not rule["used"]
        assert rule["why"]
        assert re.search(rf"^-\s+{re.escape(rule['rule'])}\s+\({re.escape(rule['why'])}\)$", explained.out, re.M)


def test_terminal_without_shell_is_reported(stack: ExitStack, tmp_path: Path) -> None:
    out = tmp_path / "printed"
    text = f"{CLI} whoami 2>{out}; echo done; read line"
    window = Terminal(tmp_path, ("bash", "-c", text), {"CLAUDE_CODE_SESSION_ID": AGENT_ID})
    stack.callback(window.close)
    until(lambda: "done" in window.seen(), "the answer")
    assert out.read_text() == NO_SESSION.replace(
        "no id is given", f"CLAUDE_CODE_SESSION_ID does not count in {window.tty}, which is not below a claude process"
    ).replace("it has no terminal", f"no interactive shell runs in {window.tty}")


@needs_setsid
def test_exported_id_of_unrelated_process_is_reported(terminal: Open) -> None:
    window, other = terminal(), terminal()
    variables = f"CLAUDE_SESSIONS_SESSION_ID=run-1 CLAUDE_SESSIONS_ANCHOR={shlex.quote(anchor_of(other.pid))}"
    answer = window.run(f"env {variables} setsid -w {CLI} whoami")
    reason = "CLAUDE_SESSIONS_SESSION_ID belongs to a process that is not above this command"
    assert (answer.code, answer.err) == (5, NO_SESSION.replace("no id is given", reason))


def test_job_whose_shell_is_gone_has_no_session(terminal: Open, tmp_path: Path) -> None:
    code, go = tmp_path / "late", tmp_path / "go"
    window = terminal()
    waiting = f"until test -e {go}; do :; done; {WHOAMI} >/dev/null 2>&1; echo $? >{code}"
    window.type(f"setsid sh -c {shlex.quote(waiting)} & disown")
    window.run("true")
    window.close()
    go.touch()
    assert until(lambda: code.exists() and code.read_text(), "the job's end").strip() == "5"


# -- explain ----------------------------------------------------------------------------------------------------------


def test_whoami_prints_identity_and_rules(run: Run) -> None:
    data = data_of(run("whoami", "--json"), "whoami")
    identity = {"session_id", "id_from", "anchor", "pid", "tty", "hostname", "codebase", "rules"}
    assert set(data) == identity | {"session", "lost", "twin", "others", "database"}
    assert data["database"]["error"] is None
    assert (data["session_id"], data["id_from"]) == ("a", "environment")
    assert all(set(rule) >= {"rule", "value", "used"} for rule in data["rules"])
    anonymous = data_of(run("whoami", "--json", session=None), "whoami", 5)
    assert anonymous["code"] == "no_identity"


@pytest.mark.faults
def test_whoami_shows_claim_and_loss(run: Run) -> None:
    assert "holds:     nothing: it is not registered" in run("whoami").stdout
    run("claim", "SD-1")
    assert re.search(r"holds: +SD-1 for \d+s, fence \d+\n", run("whoami").stdout)
    run("claim", "SD-1", "--force", "--reason", "urgent", session="b")
    assert re.search(r"lost: +SD-1 to b under fence .*urgent", run("whoami").stdout)


def test_whoami_names_database_and_rule(run: Run, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        info = connection.info
        name = f"{info.dbname} at {info.host}:{info.port}"
    assert f"database:  {name}, from CLAUDE_SESSIONS_DSN\n" in run("whoami").stdout
    asked = data_of(run("whoami", "--json", "--dsn", dsn), "whoami")["database"]
    assert asked == {"name": name, "source": "--dsn", "error": None}


def test_whoami_without_database_names_the_reason(cli: Cli) -> None:
    done = cli("whoami", "--session", "a", "--dsn", "host=/nowhere-at-all dbname=x")
    assert done.returncode == 0
    assert "session:   a\n" in done.stdout
    assert "not asked: cannot connect to the database from --dsn" in done.stdout
    done = cli("whoami", "--session", "a")
    assert "not asked: the private server in" in done.stdout


@pytest.mark.faults
def test_explain_shows_rules_values_and_the_winner(terminal: Open) -> None:
    window = terminal()
    data = window.run().data
    explained = window.run(f"{CLI} whoami --explain")
    assert (explained.code, explained.err) == (0, "")
    names = [rule["rule"] for rule in data["rules"]]
    assert names == [
        "session: --session",
        "session: CLAUDE_SESSIONS_SESSION_ID",
        "session: CLAUDE_CODE_SESSION_ID",
        "session: derived from the anchor",
        "anchor: --pid",
        "anchor: CLAUDE_SESSIONS_ANCHOR",
        "anchor: CLAUDE_PID",
        "anchor: claude process",
        "anchor: CLAUDE_SESSIONS_SHELL",
        "anchor: terminal",
    ]
    for rule in data["rules"]:
        shown = rule["value"] or f"({rule['why']})"
        mark = "yes" if rule["used"] else "-"
        assert re.search(rf"^{mark}\s+{re.escape(rule['rule'])}\s+{re.escape(shown)}$", explained.out, re.M)
    short = window.run(f"{CLI} whoami").out
    for value in (data["session_id"], data["tty"], data["hostname"], data["codebase"]):
        assert value in short
        assert value in explained.out


# -- the options --pid and --tty, as the shell hook gives them --------------------------------------------------------


@needs_setsid
def test_pid_and_tty_options_identify_background_process(terminal: Open) -> None:
    window = terminal()
    there = window.run()
    answer = window.run(f"setsid -w {WHOAMI} --pid $$ --tty $(tty)")
    assert (answer.session, answer.data["pid"], answer.data["tty"]) == (there.session, window.pid, window.tty)
    assert answer.winners == ["session: derived from the anchor", "anchor: --pid"]


def test_tty_option_overrides_the_anchors_terminal(terminal: Open) -> None:
    assert terminal().run(f"{WHOAMI} --tty /dev/ttys003").data["tty"] == "/dev/ttys003"


# -- missing directories ----------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_deleted_directory_has_no_codebase(terminal: Open, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    window = terminal(cwd=gone)
    session = window.run().session
    gone.rmdir()
    answer = window.run()
    assert (answer.session, answer.data["codebase"]) == (session, None)
    assert window.run(f"{CLI} whoami").code == 0
    assert os.path.lexists(gone) is False
