"""`run` whose wrapper is killed: nothing of the command is still running when somebody else can claim its item."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Sleeper, Table, make_caller
from poll import until
from requirements import only_root
from run_bench import (
    IGNORE_TERM,
    PROGRAM,
    RUN,
    WAIT,
    Bench,
    elsewhere,
    is_alive,
    only_linux,
    read_pid,
    state,
    try_claim,
    words,
)

from claude_sessions_cli import guardian, process, supervisor
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import Liveness, ProcessRecord
from claude_sessions_cli.operations import term
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.list import list_sessions
from claude_sessions_cli.renewal import KeepAlive, TrustWindow
from claude_sessions_cli.times import uptime

pytestmark = only_linux
# The guardian gives the command a second between TERM and KILL; silence lapses much later.
SHORT = {"CLAUDE_SESSIONS_STALE_AFTER": "10", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "1"}
BELOW = "sh -c 'sh -c \"echo \\$\\$ >{0}; while :; do sleep 0.02; done\"; true'; true"
SHAPES = {
    "a shell below a shell": BELOW,
    "one that ignores TERM": IGNORE_TERM,
    "a double fork": "( ( sh -c 'echo $$ >{0}; while :; do sleep 0.02; done' & ) & ); sleep 600",
    "a job of a shell with job control": "set -m; sh -c 'echo $$ >{0}; while :; do sleep 0.02; done' & wait",
    "a session below the command": "setsid -w sh -c 'echo $$ >{0}; while :; do sleep 0.02; done'",
    "a stopped one": "sh -c 'echo $$ >{0}; kill -STOP $$; while :; do sleep 0.02; done'",
    "a nested run": f"{RUN} SD-2 -- sh -c 'echo $$ >{{0}}; while :; do sleep 0.02; done'",
}


def kill_and_take(bench: Bench, wrapper: int, *pids: int) -> None:
    """Kill a wrapper, and assert that nobody gets its item before the processes have ended, and somebody then."""
    os.kill(wrapper, signal.SIGKILL)

    def take() -> bool:
        taken = try_claim(bench.table, make_caller("rival"))
        assert not (taken and any(map(is_alive, pids))), "the item is free while its command works"
        return taken

    until(take, "the item is free")


@pytest.mark.faults
@pytest.mark.parametrize(
    "shape",
    [
        shape if shape in ("a shell below a shell", "a nested run") else pytest.param(shape, marks=pytest.mark.faults)
        for shape in SHAPES
    ],
)
def test_killed_wrapper_keeps_item_until_command_is_dead(bench: Bench, shape: str) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", "bash", *words(SHAPES[shape], ready)[1:], env=SHORT)
    pid = read_pid(ready)
    kill_and_take(bench, started.pid, pid)
    if shape == "a nested run":
        assert try_claim(bench.table, make_caller("other"), "SD-2")


def test_killed_wrapper_ends_make(bench: Bench) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    ready = bench.file()
    (bench.directory / "Makefile").write_text(f"all:\n\techo $$$$ >{ready}; while :; do sleep 0.02; done; true\n")
    started = bench.start("SD-1", "--", "make", env=SHORT)
    kill_and_take(bench, started.pid, read_pid(ready))


@pytest.mark.faults
@only_root
def test_killed_wrapper_ends_command_of_another_user(bench: Bench) -> None:
    command = "echo $$; while :; do sleep 0.02; done"
    started = bench.start("SD-1", "--", "su", "nobody", "-s", "/bin/sh", "-c", command, env=SHORT)
    assert started.stdout
    kill_and_take(bench, started.pid, int(started.stdout.readline()))


@only_root
def test_process_of_another_user_keeps_item_and_is_named(table: Table, sleeper: Sleeper) -> None:
    host, member = this_host(), subprocess.Popen(["sleep", "600"], start_new_session=True)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        script = shutil.copy(guardian.SCRIPT, directory)
        watcher = subprocess.Popen(["/bin/sh", script, "1"], stdin=subprocess.PIPE, user=65534, extra_groups=[])
        wrapper = sleeper()
        caller = make_caller("a", anchor=process.read(wrapper.pid))
        claim(table.database, caller, "SD-1")
        dead = ProcessRecord(watcher.pid, "1", host.boot_id, host.pid_ns)
        term.enter(table.database, caller, dead, "SD-1", dead._replace(start=process.read(watcher.pid).start))
        wrapper.kill()
        wrapper.wait()
        assert watcher.stdin
        watcher.stdin.write(b"%d\n" % member.pid)
        watcher.stdin.close()
        until(lambda: str(member.pid) in process.read(watcher.pid).argv, "the guardian ends the group")
        with pytest.raises(HeldByAnother) as refused:
            claim(table.database, make_caller("b"), "SD-1")
        left = f"its run was killed, and process group {member.pid} of the command is still running"
        assert left in refused.value.message
        assert str(refused.value.hint).startswith(f"end that, as its user: kill -KILL -- -{member.pid}; wait for it")
        [seen] = list_sessions(table.database, make_caller("b")).sessions
        assert (seen.liveness, seen.remark) == (
            Liveness.ALIVE,
            f"run was killed, process group {member.pid} is still running",
        )
        member.kill()
        member.wait()
        watcher.wait(30)
        assert try_claim(table, make_caller("b"))


@pytest.mark.faults
@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_claim_is_given_back_without_the_guardian(bench: Bench, fate: signal.Signals) -> None:
    ready = bench.file()
    started = bench.start("--timeout", "1s", "SD-1", "--", *words(WAIT, ready))
    child = read_pid(ready)
    watcher = bench.holder()["metadata"]["claude_sessions_cli"]["run"]["guardian"]["pid"]
    os.kill(watcher, fate)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err.count("\n")) == (124, 1), err
    assert not is_alive(child)
    bench.assert_ended(reason="failed")
    with suppress(ProcessLookupError):
        os.kill(watcher, signal.SIGKILL)


@pytest.mark.faults
@only_root
@pytest.mark.parametrize("is_killed", [False, True], ids=["with its guardian", "without"])
def test_run_names_group_that_it_could_not_end(monkeypatch: pytest.MonkeyPatch, is_killed: bool) -> None:
    monkeypatch.setattr(supervisor, "TIMEOUT_GRACE_S", 0.1)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(guardian, "SCRIPT", shutil.copy(guardian.SCRIPT, directory))
        become_root = shutil.copy(str(shutil.which("setpriv")), directory)
        Path(become_root).chmod(0o4755)
        result, ready = Path(directory, "result"), Path(directory, "ready")
        for file in (result, ready):
            file.touch(0o666)
            file.chmod(0o666)
        command = f"set -m; {become_root} --reuid 0 sh -c 'echo $$ >{ready}; exec sleep 600' & wait"
        pid = os.fork()
        if pid == 0:
            _run_as_nobody(["bash", "-c", command], result, is_killed)
        left = read_pid(ready)
        os.waitpid(pid, 0)
        os.kill(left, signal.SIGKILL)
        assert result.read_text() == f"124 {left}"


def _run_as_nobody(command: list[str], result: Path, is_killed: bool) -> NoReturn:
    try:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        watcher = guardian.Guardian(1)
        if is_killed:
            os.kill(watcher.process.pid, signal.SIGKILL)
        keep_alive = KeepAlive(lambda: 300, 60, TrustWindow(uptime(), 300))
        finished = supervisor.run(command, os.environ, keep_alive, watcher, lambda *_: None, timeout=1)
        result.write_text(f"{finished.code} {finished.left}")
    finally:
        os._exit(0)


@pytest.mark.faults
def test_killed_run_of_shared_claim_allows_no_second(bench: Bench) -> None:
    holder = {"CLAUDE_SESSIONS_SESSION_ID": "holder"}
    assert bench.start_any(*PROGRAM, "claim", "SD-1", env=holder).wait(30) == 0
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(IGNORE_TERM, ready), env={**holder, **SHORT})
    pid = read_pid(ready)
    os.kill(started.pid, signal.SIGKILL)

    def run_again() -> bool:
        before = bench.rows()
        done = bench.call("SD-1", "--", "true", env={**holder, **SHORT})
        assert done.returncode == 0 or bench.rows() == before
        assert done.returncode in (0, 3)
        assert done.returncode == 3 or not is_alive(pid)
        return done.returncode == 0

    until(run_again, "the command may run again")


def test_command_of_unknown_liveness_keeps_the_claim(bench: Bench) -> None:
    ready = bench.file()
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a pid namespace")
    terminal = subprocess.Popen(["sleep", "600"])
    claimed = bench.start_any(*PROGRAM, "claim", "SD-1", "--session", "t", "--pid", str(terminal.pid))
    assert claimed.wait(30) == 0
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *PROGRAM]
    started = bench.start_any(*inside, "run", "--session", "t", "SD-1", "--", *words(WAIT, ready))
    until(ready.exists, "the command runs")
    terminal.kill()
    terminal.wait()
    assert not try_claim(bench.table, make_caller("rival"))
    with pytest.raises(HeldByAnother):
        claim(bench.table.database, make_caller("rival"), "SD-1")
    started.kill()


@pytest.mark.faults
def test_run_continued_after_takeover_does_no_work(bench: Bench) -> None:
    ready, ticks = bench.file(), bench.file()
    command = "echo $$ >{0}; while :; do echo >>{1}; sleep 0.02; done"
    env = {"CLAUDE_SESSIONS_STALE_AFTER": "3", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.3"}
    started = bench.start("SD-1", "--", *words(command, ready, ticks), env=env)
    pid = read_pid(ready)
    os.kill(started.pid, signal.SIGSTOP)
    os.killpg(pid, signal.SIGSTOP)
    until(lambda: try_claim(bench.table, elsewhere("rival")), "silence gives the item away")
    before = ticks.stat().st_size
    os.kill(started.pid, signal.SIGCONT)
    assert started.wait(30) == 4
    # TERM is pending while the command is continued, so that the shell ends without another turn.
    assert ticks.stat().st_size <= before + 1
    assert not is_alive(pid)


@pytest.mark.faults
@pytest.mark.parametrize(
    "shell", ["dash", *(pytest.param(name, marks=pytest.mark.faults) for name in ("bash", "busybox", "yash"))]
)
def test_guardian_ends_the_jobs_of_a_shell(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    ready = tmp_path / "ready"
    jobs = f"set -m; trap '' TERM; sh -c 'echo $$ >{ready}; while :; do sleep 0.02; done' & wait"
    leader = subprocess.Popen(["bash", "-c", jobs], start_new_session=True)
    pid = read_pid(ready)
    # Without a way to its own text, it goes on as it is.
    script = tmp_path / "guardian.sh"
    script.write_text(guardian.SCRIPT.read_text())
    words = [shell, *(["sh"] if shell == "busybox" else []), str(script), "1"]
    watcher = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    until(lambda: state(watcher.pid) == "S", "it waits for its pipe")
    script.unlink()
    try:
        watcher.communicate(b"%d\n" % leader.pid, timeout=30)
        assert watcher.returncode == 0
        assert not is_alive(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        leader.kill()
        leader.wait()


@pytest.mark.faults
def test_thousand_quick_runs_leave_no_process(bench: Bench) -> None:
    others = _guardians()
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda number: bench.call(f"SD-{number % 4}", "--wait", "1m", "--", "true"), range(1000))
        assert {each.returncode for each in done} == {0}
    # Those of other tests end too.
    until(lambda: not _guardians() - others, "all guardians end")


def _guardians() -> set[int]:
    found = (int(entry.name) for entry in process.PROC.iterdir() if entry.name.isdecimal())
    return {pid for pid in found if _is_guardian(pid)}


def _is_guardian(pid: int) -> bool:
    try:
        return "guardian.sh" in " ".join(process.read(pid).argv)
    except ProcessLookupError:
        return False
