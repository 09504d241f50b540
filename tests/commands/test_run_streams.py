"""`run` without a terminal: a command's streams, files and signals are as without the wrapper."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import Any

import pytest
from poll import until
from run_bench import (
    OFTEN,
    PROGRAM,
    RUN,
    WAIT,
    Bench,
    is_alive,
    only_linux,
    read_pid,
    state,
    words,
)


def test_command_reads_and_writes_the_callers_pipes(bench: Bench) -> None:
    started = bench.start("SD-1", "--", "sh", "-c", "tr a-z A-Z; echo oops >&2", stdin=subprocess.PIPE)
    assert started.communicate("hello\n", timeout=30) == ("HELLO\n", "oops\n")


def test_command_inherits_descriptors_of_the_caller(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through the pipe\n")
    os.close(writer)
    read = f"import os; os.write(1, os.read({reader}, 100))"
    done = bench.call("SD-1", "--", sys.executable, "-S", "-c", read, pass_fds=(reader,))
    os.close(reader)
    assert (done.returncode, done.stdout) == (0, "through the pipe\n")


@only_linux
def test_command_inherits_no_descriptors_of_the_wrapper(bench: Bench) -> None:
    done = bench.call("SD-1", "--", "sh", "-c", "ls /proc/$$/fd")
    assert done.stdout.split() == ["0", "1", "2"]


@pytest.mark.faults
@only_linux
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_closed_for_the_command(bench: Bench, closed: str) -> None:
    file = bench.file()
    text = f"import os; fds = os.listdir('/proc/self/fd'); open({str(file)!r}, 'w').write(str(fds))"
    look = shlex.join([sys.executable, "-S", "-c", text])

    def report(command: str) -> str:
        file.unlink(missing_ok=True)
        assert bench.start_any("sh", "-c", f"{command} {closed}").wait(30) == 0
        return file.read_text()

    assert report(f"{RUN} SD-1 -- {look}") == report(look)
    bench.assert_ended(reason="completed")


@pytest.mark.faults
@only_linux
@pytest.mark.parametrize(
    "shell",
    [
        "{0}",
        "trap '' INT; {0}",
        "trap '' HUP QUIT TERM USR1; {0}",
        "trap '' TSTP TTIN TTOU CONT CHLD WINCH; {0}",
        "nohup {0}",
        "{0} & wait",
    ],
)
def test_command_ignores_exactly_the_callers_ignored_signals(bench: Bench, shell: str) -> None:
    look = "grep -E 'Sig(Ign|Blk|Cgt)' /proc/self/status"
    alone = bench.start_any("sh", "-c", shell.format(look)).communicate(timeout=30)[0]
    wrapped = bench.start_any("sh", "-c", shell.format(f"{RUN} SD-1 -- {look}")).communicate(timeout=30)[0]
    assert wrapped.splitlines() == alone.splitlines()
    assert len(wrapped.splitlines()) == 3


FORWARDED: list[Any] = [
    *("INT", "TERM"),
    *(pytest.param(name, marks=pytest.mark.faults) for name in ("HUP", "QUIT", "USR1", "USR2", "WINCH")),
]


@pytest.mark.parametrize("name", FORWARDED)
def test_signals_are_forwarded_to_the_command(bench: Bench, name: str) -> None:
    ready = bench.file()
    command = "trap 'echo got; exit 9' {1}; echo $$ >{0}; while :; do sleep 0.02; done"
    started = bench.start("SD-1", "--", *words(command.replace("{1}", name), ready))
    read_pid(ready)
    started.send_signal(getattr(signal, f"SIG{name}"))
    assert started.communicate(timeout=30)[0] == "got\n"
    assert started.returncode == 9
    bench.assert_ended(reason="failed")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
def test_command_killed_by_signal_sets_exit_code(bench: Bench, name: str) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(f"ulimit -c 0; {WAIT}", ready))
    read_pid(ready)
    number = getattr(signal, f"SIG{name}")
    started.send_signal(number)
    assert started.wait(30) == 128 + number
    bench.assert_ended(reason="failed")


@only_linux
def test_stopped_command_without_terminal_keeps_claim(bench: Bench) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(WAIT, ready), env=OFTEN)
    child = read_pid(ready)
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T", "the command stops")
    stopped = bench.holder()["heartbeat_at"]
    until(lambda: bench.holder()["heartbeat_at"] > stopped, "a heartbeat")
    os.kill(child, signal.SIGCONT)
    started.terminate()
    assert started.wait(30) == 143


@only_linux
def test_stopped_command_without_job_control_is_continued(bench: Bench) -> None:
    ready, continued = bench.file(), bench.file()
    command = "trap 'echo >{1}' CONT; echo $$ >{0}; while :; do sleep 0.02; done"
    started = bench.start("SD-1", "--", *words(command, ready, continued))
    child = read_pid(ready)
    os.kill(child, signal.SIGTSTP)
    until(continued.exists, "the command is continued")
    until(lambda: state(started.pid) != "T", "the wrapper goes on")
    started.terminate()
    assert started.wait(30) == 143


@pytest.mark.faults
def test_slow_reader_does_not_stop_heartbeats(bench: Bench) -> None:
    started = bench.start("SD-1", "--", "yes", env=OFTEN)
    first = bench.holder()["heartbeat_at"]
    # Long after the pipe is full.
    until(lambda: (bench.holder()["heartbeat_at"] - first).total_seconds() > 0.6, "heartbeats go on")
    assert started.stdout
    assert started.stdout.read(200_000) == "y\n" * 100_000
    started.stdout.close()
    assert started.wait(30) == 128 + signal.SIGPIPE


@pytest.mark.faults
def test_instantly_ending_runs_leave_nothing(bench: Bench) -> None:
    started = [bench.start(f"SD-{number}", "--", "true") for number in range(6)]
    assert [one.wait(60) for one in started] == [0] * 6
    assert {(row["status"], row["sd_id"]) for row in bench.rows()} == {("released", None)}


@only_linux
def test_background_process_outlives_the_run(bench: Bench) -> None:
    files = [bench.file(), bench.file()]
    command = "setsid sh -c 'echo $$ >{0}; exec sleep 600' & sh -c 'echo $$ >{1}; exec sleep 600' & sleep 0.5"
    started = bench.start("SD-1", "--", *words(command, *files), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids = [read_pid(file) for file in files]
    assert started.wait(30) == 0
    bench.assert_ended(reason="completed")
    for pid in pids:
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in pids), "they end")


def test_run_works_with_a_thousand_open_files(bench: Bench) -> None:
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096));"
        " [os.dup2(0, number) for number in range(3, 1100)]; os.execv(sys.argv[1], sys.argv[1:])"
    )
    started = bench.start_any(
        sys.executable, "-c", code, *PROGRAM, "run", "SD-1", "--", "sh", "-c", "sleep 0.2; exit 5"
    )
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (5, "")
