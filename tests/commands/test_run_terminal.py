"""`run` in a window: keys, jobs and pipelines in bash and zsh are as without it, and so is the terminal afterwards."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import termios
from pathlib import Path

import pytest
from poll import until
from run_bench import (
    FAST,
    IGNORE_TERM,
    PROGRAM,
    RUN,
    WAIT,
    Bench,
    JobWindow,
    elsewhere,
    force,
    is_alive,
    only_linux,
    read_pid,
    state,
    try_claim,
    words,
)

from claude_sessions_cli import process

pytestmark = only_linux
CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"
# The kernel stops the group of a background process that reads the terminal: here between the command's end and the
# moment when the wrapper takes the terminal back, which is too short a time to hit from outside.
ASKS_AT_THE_END = """
import os, pathlib, signal, subprocess, sys, time
from claude_sessions_cli import guardian, renewal, supervisor

reader = subprocess.Popen(["sleep", "600"])

def state():
    return pathlib.Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()[0]

class Runner(supervisor._Runner):
    def _reap(self):
        status = super()._reap()
        if status is not None:
            os.killpg(0, signal.SIGTTIN)
            while state() != "T":
                time.sleep(0.01)
        return status

keep_alive = renewal.KeepAlive(lambda: 900.0, 60.0, renewal.TrustWindow(renewal.uptime(), 900.0))
code = Runner(["true"], os.environ, keep_alive, guardian.Guardian(1), print, None, None).run().code
deadline = time.monotonic() + 2
while state() == "T" and time.monotonic() < deadline:
    time.sleep(0.01)
pathlib.Path(sys.argv[1]).write_text("stopped\\n" if state() == "T" else "goes on\\n")
reader.kill()
sys.exit(code)
"""
# The second with the long tests: it matters little.
both_shells = pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=pytest.mark.faults)])


def command(text: str, *files: Path) -> str:
    """Return a shell command as it is typed."""
    return shlex.join(words(text, *files))


def start(window: JobWindow, text: str, ready: Path) -> int:
    """Type a command that writes its pid into a file, and return that pid."""
    window.type(text)
    try:
        return read_pid(ready)
    except AssertionError:
        raise AssertionError(window.seen()) from None


def reads(ready: Path, file: Path, then: str = "") -> str:
    """Return a command that copies a line of its standard input into a file."""
    return command('echo $$ >{0}; read -r line; echo "$line" >{1}; ' + then, ready, file)


def text_of(file: Path) -> str:
    """Return a file's text, once it has a line."""
    return str(until(lambda: file.exists() and file.read_text().endswith("\n") and file.read_text(), f"{file}"))


# Keys


@pytest.mark.faults
@both_shells
@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_BACKSLASH, 131)], ids=["interrupt", "quit"])
def test_key_ends_command_and_returns_terminal_to_shell(bench: Bench, shell: str, key: str, code: int) -> None:
    window, ready = bench.window(shell), bench.file()
    window.type("ulimit -c 0")
    child = start(window, f"{RUN} SD-1 -- {command(WAIT, ready)}", ready)
    until(lambda: window.foreground == child, "the command has the terminal")
    assert bench.holder()["pid"] == process.read(child).ppid
    window.press(key)
    assert window.answers() == str(code)
    assert not is_alive(child)
    bench.assert_ended(reason="failed")


@both_shells
def test_handled_key_does_not_end_the_command(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    text = "trap 'exit 5' INT; echo $$ >{0}; while :; do sleep 0.02; done"
    start(window, f"{RUN} SD-1 -- {command(text, ready)}", ready)
    window.press(CTRL_C)
    assert window.answers() == "5"
    bench.assert_ended(reason="failed")


@both_shells
@pytest.mark.parametrize("wrapped", [True, False], ids=["with run", "without"])
def test_interrupt_ends_the_loop_around_the_command(bench: Bench, shell: str, wrapped: bool) -> None:
    window, ready, log = bench.window(shell), bench.file(), bench.file()
    one = (f"{RUN} SD-1 -- " if wrapped else "") + command("echo again >>{1}; " + WAIT, ready, log)
    start(window, f"for i in 1 2 3; do {one}; done", ready)
    window.press(CTRL_C)
    assert window.answers() == "130"
    assert log.read_text() == "again\n"


@pytest.mark.faults
@pytest.mark.parametrize("wrapped", [True, False], ids=["with run", "without"])
@pytest.mark.parametrize("interpreter", ["sh", "bash"])
def test_interrupt_ends_the_script_around_the_command(bench: Bench, interpreter: str, wrapped: bool) -> None:
    window, ready, log = bench.window("bash"), bench.file(), bench.file()
    one = (f"{RUN} SD-1 -- " if wrapped else "") + command("echo again >>{1}; " + WAIT, ready, log)
    script = bench.directory / "script"
    script.write_text(f"{one}\n{one}\necho here >>{log}\n")
    start(window, f"{interpreter} {script}", ready)
    window.press(CTRL_C)
    assert window.answers() == "130"
    assert log.read_text() == "again\n"


@both_shells
def test_job_is_stopped_backgrounded_and_foregrounded(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    child = start(window, f"{RUN} SD-1 -- {command(WAIT, ready)}", ready)
    wrapper = process.read(child).ppid
    for _ in range(2):
        window.press(CTRL_Z)
        until(lambda: (state(child), state(wrapper)) == ("T", "T"), "both stop")
        window.answers()
        window.type("bg")
        until(lambda: (state(child), state(wrapper)) == ("S", "S"), "both go on")
        window.answers()
        assert window.foreground == window.pid
        window.type("fg")
        until(lambda: window.foreground not in (window.pid, -1), "the job has the terminal")
    window.press(CTRL_Z)
    until(lambda: state(wrapper) == "T", "it stops")
    window.answers()
    window.type("fg")
    until(lambda: window.foreground == child and state(child) == "S", "the command has the terminal")
    window.press(CTRL_C)
    assert window.answers() == "130"
    bench.assert_ended(reason="failed")


@both_shells
def test_self_stopped_command_returns_terminal_to_shell(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    text = "echo $$ >{0}; kill -STOP $$; exit 5"
    child = start(window, f"{RUN} SD-1 -- {command(text, ready)}", ready)
    until(lambda: state(child) == "T" and state(process.read(child).ppid) == "T", "both stop")
    window.answers()
    window.type("fg")
    assert until(lambda: not is_alive(child), "it goes on")
    assert window.answers() == "5"


@both_shells
def test_job_ending_in_background_leaves_terminal_to_shell(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    # Not a loop of commands: some shells cannot be stopped by ^Z while they start one.
    child = start(window, f"{RUN} SD-1 -- {command('echo $$ >{0}; exec sleep 600', ready)}", ready)
    wrapper = process.read(child).ppid
    window.press(CTRL_Z)
    until(lambda: state(wrapper) == "T", "it stops")
    window.type("bg")
    until(lambda: state(wrapper) == "S", "it goes on")
    window.answers()
    os.kill(child, signal.SIGKILL)
    until(lambda: not is_alive(wrapper), "it ends")
    assert window.foreground == window.pid
    window.answers()
    bench.assert_ended(reason="failed")


@both_shells
def test_background_job_stops_when_it_reads_the_terminal(bench: Bench, shell: str) -> None:
    window, ready, read = bench.window(shell), bench.file(), bench.file()
    child = start(window, f"{RUN} SD-1 -- {reads(ready, read, 'exit 5')} &", ready)
    wrapper = process.read(child).ppid
    until(lambda: (state(child), state(wrapper)) == ("T", "T"), "both stop")
    assert window.foreground == window.pid
    window.answers()
    window.type("fg")
    until(lambda: window.foreground == child, "the command has the terminal")
    window.type("typed")
    assert text_of(read) == "typed\n"
    assert window.answers() == "5"
    bench.assert_ended(reason="failed")


@both_shells
def test_closing_the_window_ends_command_and_releases_claim(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    child = start(window, f"{RUN} SD-1 -- {command(WAIT, ready)}", ready)
    wrapper = process.read(child).ppid
    window.close()
    until(lambda: not is_alive(child) and not is_alive(wrapper), "both end")
    bench.assert_ended(reason="failed")


def test_command_in_window_without_shell_is_not_left_stopped(bench: Bench) -> None:
    ready = bench.file()
    # It reports its pid once it is continued: while it is stopped, the wrapper has the terminal.
    text = "kill -TSTP $$; echo ready; echo $$ >{0}; read -r line; exit 5"
    window = bench.window("", argv=[*PROGRAM, "run", "SD-1", "--", *words(text, ready)])
    child = read_pid(ready)
    assert window.foreground == child
    window.press(CTRL_Z)
    window.type("a line")
    assert window.process.wait(30) == 5
    bench.assert_ended(reason="failed")


# Reading and the modes of the terminal


@both_shells
def test_command_reads_terminal_up_to_end_of_input(bench: Bench, shell: str) -> None:
    window, ready, read = bench.window(shell), bench.file(), bench.file()
    start(window, f"{RUN} SD-1 -- {command('echo $$ >{0}; cat >{1}', ready, read)}", ready)
    window.type("one")
    window.type("two")
    until(lambda: read.exists() and read.read_text() == "one\ntwo\n", "lines are read")
    window.press(CTRL_D)
    assert window.answers() == "0"
    bench.assert_ended(reason="completed")


@both_shells
def test_killed_command_does_not_leave_terminal_raw(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell), bench.file()
    text = "echo $$ >{0}; stty raw -echo; exec sleep 600"
    child = start(window, f"{RUN} SD-1 -- {command(text, ready)}", ready)
    until(lambda: not window.modes & termios.ICANON, "the terminal is raw")
    until(lambda: process.read(child).program == "sleep", "the command has set it")
    os.kill(child, signal.SIGKILL)
    assert window.answers() == "137"
    # While the shell's own editor is not in charge.
    after = bench.file()
    window.type(f"stty -a >{after}; echo >>{after}")
    until(lambda: after.exists() and after.read_text().endswith("\n\n"), "modes")
    assert {"icanon", "echo", "isig", "opost"} <= set(after.read_text().replace(";", " ").split())
    bench.assert_ended(reason="failed")


def test_terminal_modes_set_by_command_persist(bench: Bench) -> None:
    window, after = bench.window("bash"), bench.file()
    script = f"{RUN} SD-1 -- stty -onlcr; stty -a >{after}; echo >>{after}; stty onlcr"
    window.type(f"sh -c {shlex.quote(script)}")
    assert "-onlcr" in text_of(after).replace(";", " ").split()


@pytest.mark.faults
@pytest.mark.parametrize("what", ["true", "./broken", "sh -c 'kill -KILL $$'"])
def test_script_reads_terminal_after_the_run(bench: Bench, what: str) -> None:
    (bench.directory / "broken").write_text(f"#!{bench.directory}/missing\n")
    (bench.directory / "broken").chmod(0o755)
    window, read, ready = bench.window("bash"), bench.file(), bench.file()
    window.type(f"sh -c {shlex.quote(f'{RUN} SD-1 -- {what}; echo $$ >{ready}; read -r line; echo $line >{read}')}")
    shell = read_pid(ready)
    assert window.foreground == shell
    window.type("typed")
    assert text_of(read) == "typed\n"
    assert window.answers() == "0"


# Pipelines


@both_shells
def test_pipeline_passes_output_and_ends(bench: Bench, shell: str) -> None:
    window, read = bench.window(shell), bench.file()
    window.type(f"{RUN} SD-1 -- seq 100000 | tail -n 1 >{read}")
    assert text_of(read) == "100000\n"
    assert window.answers() == "0"
    bench.assert_ended(reason="completed")


@both_shells
def test_pager_reads_keys_while_command_writes(bench: Bench, shell: str) -> None:
    if shutil.which("less") is None:
        pytest.skip("less is not installed")
    window = bench.window(shell, {"TERM": "xterm", "LESS": ""})
    window.type(f"{RUN} SD-1 -- seq 1000000 | less")
    until(lambda: "\r\n20\r\n" in window.seen() or "\n20\r" in window.seen(), "the first page")
    window.press(" ")
    until(lambda: "30\r" in window.seen(), "the second page")
    window.press("q")
    window.answers()
    bench.assert_ended(reason="failed")


@pytest.mark.faults
@both_shells
@pytest.mark.parametrize("place", ["{run} | cat", "{run} >/dev/null", "cat /dev/null | {run}"])
def test_keys_reach_a_command_with_redirected_streams(bench: Bench, shell: str, place: str) -> None:
    window, ready = bench.window(shell), bench.file()
    child = start(window, place.format(run=f"{RUN} SD-1 -- {command(WAIT, ready)}"), ready)
    wrapper = process.read(child).ppid
    window.press(CTRL_Z)
    until(lambda: (state(child), state(wrapper)) == ("T", "T"), "both stop")
    window.answers()
    window.type("fg")
    until(lambda: (state(child), state(wrapper)) == ("S", "S"), "both go on")
    window.press(CTRL_C)
    window.answers()
    until(lambda: not is_alive(child), "it ends")
    bench.assert_ended(reason="failed")


@both_shells
def test_pipeline_programs_use_the_terminal_in_turn(bench: Bench, shell: str) -> None:
    window, ready, first, second = bench.window(shell), bench.file(), bench.file(), bench.file()
    asks = command('echo $$ >{0}; read -r line </dev/tty; echo "$line"', ready)
    then = command('read -r line; echo "$line" >{0}; read -r line </dev/tty; echo "$line" >{1}', first, second)
    child = start(window, f"{RUN} SD-1 -- {asks} | {then}", ready)
    until(lambda: window.foreground == child, "the command has the terminal")
    window.type("password")
    assert text_of(first) == "password\n"
    window.type("key")
    assert text_of(second) == "key\n"
    window.answers()
    bench.assert_ended(reason="completed")


def test_reader_stopped_at_command_exit_is_continued(bench: Bench) -> None:
    window, file, program = bench.window("bash"), bench.file(), bench.directory / "program.py"
    program.write_text(ASKS_AT_THE_END)
    window.type(f"{sys.executable} {program} {file}")
    # If it is stopped, the kernel stopped it with the whole group, and the wrapper did not continue it.
    assert text_of(file) == "goes on\n"
    assert window.answers() == "0"


@pytest.mark.faults
@both_shells
def test_pipeline_reader_gets_terminal_while_command_runs(bench: Bench, shell: str) -> None:
    window, ready, first, second = bench.window(shell), bench.file(), bench.file(), bench.file()
    text = 'echo $$ >{0}; read -r line </dev/tty; echo "$line"; exec sleep 600'
    then = command('read -r line; echo "$line" >{0}; read -r line </dev/tty; echo "$line" >{1}', first, second)
    child = start(window, f"{RUN} SD-1 -- {command(text, ready)} | {then}", ready)
    until(lambda: window.foreground == child, "the command has the terminal")
    window.type("password")
    assert text_of(first) == "password\n"
    until(lambda: window.foreground not in (child, window.pid), "the reader has the terminal")
    window.type("key")
    assert text_of(second) == "key\n"
    window.press(CTRL_C)
    window.answers()
    bench.assert_ended(reason="failed")


# The claim in a window


@pytest.mark.faults
@both_shells
def test_item_held_by_terminal_stays_held(bench: Bench, shell: str) -> None:
    window = bench.window(shell)
    program = shlex.join(PROGRAM)
    assert window.run(f"{program} claim SD-1").code == 0
    before = bench.holder()
    assert window.run(f"{RUN} SD-1 -- true").code == 0
    after = bench.holder()
    assert (after["session_id"], after["claimed_at"]) == (before["session_id"], before["claimed_at"])
    assert after["pid"] == window.pid
    assert window.run(f"{RUN} SD-2 -- {program} check SD-2").code == 0
    assert window.run(f"{program} check SD-1").code == 0
    nested = window.run(f"{RUN} SD-1 -- {RUN} SD-1 -- echo ran")
    assert (nested.code, nested.out) == (3, "")
    assert "already" in nested.err


@pytest.mark.faults
@both_shells
def test_two_runs_of_different_items_share_a_terminal(bench: Bench, shell: str) -> None:
    window, files = bench.window(shell), [bench.file(), bench.file()]
    children = [start(window, f"{RUN} SD-{n} -- {command(WAIT, file)} &", file) for n, file in enumerate(files, 1)]
    assert bench.holder("SD-1")["session_id"] != bench.holder("SD-2")["session_id"]
    for child in children:
        os.kill(child, signal.SIGTERM)
    until(lambda: {row["status"] for row in bench.rows()} == {"released"}, "both end")
    window.answers()


@pytest.mark.faults
@both_shells
def test_long_stopped_job_resumes_if_still_held(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell, FAST), bench.file()
    child = start(window, f"{RUN} SD-1 -- {command(WAIT, ready)}", ready)
    window.press(CTRL_Z)
    window.answers()
    stopped = bench.holder()
    until(lambda: lapsed(bench, stopped), "the claim would lapse")
    window.type("fg")
    until(lambda: bench.holder()["heartbeat_at"] > stopped["heartbeat_at"], "a heartbeat")
    until(lambda: window.foreground == child and state(child) == "S", "the command has the terminal")
    assert bench.holder()["claimed_at"] == stopped["claimed_at"]
    window.press(CTRL_C)
    assert window.answers() == "130"


@pytest.mark.faults
@both_shells
def test_stopped_job_that_lost_its_item_does_not_resume(bench: Bench, shell: str) -> None:
    window, ready, log = bench.window(shell, FAST), bench.file(), bench.file()
    text = "trap 'exit 0' TERM; echo $$ >{0}; while :; do echo >>{1}; done"
    child = start(window, f"{RUN} SD-1 -- {command(text, ready, log)}", ready)
    window.press(CTRL_Z)
    window.answers()
    until(lambda: try_claim(bench.table, elsewhere("rival")), "silence gives the item away")
    written = log.stat().st_size
    window.type("fg")
    assert window.answers() == "4"
    assert not is_alive(child)
    # Its last steps before it noticed SIGTERM.
    assert log.stat().st_size <= written + 2
    assert bench.holder()["session_id"] == "rival"


@pytest.mark.faults
@both_shells
def test_command_that_lost_its_claim_restores_the_terminal(bench: Bench, shell: str) -> None:
    window, ready = bench.window(shell, FAST), bench.file()
    child = start(window, f"{RUN} SD-1 -- {command(f'stty raw -echo; {IGNORE_TERM}', ready)}", ready)
    force(bench.table)
    assert window.answers() == "4"
    assert not is_alive(child)
    # Lines are wrapped at words.
    until(lambda: "stopping the command" in " ".join(window.seen().split()), "the reason on the screen")
    after = bench.file()
    window.type(f"stty -a >{after}; echo >>{after}")
    until(lambda: after.exists() and after.read_text().endswith("\n\n"), "modes")
    assert {"icanon", "echo"} <= set(after.read_text().replace(";", " ").split())


def lapsed(bench: Bench, row: dict[str, object]) -> bool:
    """Whether the silence since a row's heartbeat is longer than the claim lasts."""
    silence = "SELECT clock_timestamp() - %s > make_interval(secs => %s) AS over"
    [found] = bench.table.execute(silence, row["heartbeat_at"], float(FAST["CLAUDE_SESSIONS_STALE_AFTER"]))
    return bool(found["over"])
