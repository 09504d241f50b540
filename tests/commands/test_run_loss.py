"""`run` without a terminal: its command is dead before the item can be claimed; and its cost."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import make_caller
from poll import until
from run_bench import (
    FAST,
    IGNORE_TERM,
    LAPSE_S,
    OFTEN,
    ROOMY,
    WAIT,
    Bench,
    Proxy,
    elsewhere,
    force,
    is_alive,
    only_linux,
    read_pid,
    try_claim,
    words,
)
from terminal import CLI

from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release

# The other faults take longer.
FAULTS = ["refuse", *(pytest.param(fault, marks=pytest.mark.faults) for fault in ("hang", "stall"))]


@pytest.mark.faults
def test_forced_takeover_stops_the_whole_group(bench: Bench) -> None:
    files = [bench.file() for _ in range(3)]
    inner = "exec 2>/dev/null; trap 'echo got it >{2}; exit' TERM; echo $$ >{1}; while :; do sleep 0.02; done"
    command = f"sh -c {shlex.quote(inner)} & echo $$ >{{0}}; wait"
    started = bench.start("SD-1", "--", *words(command, *files), env=OFTEN)
    leader, other = (read_pid(file) for file in files[:2])
    assert leader != other
    force(bench.table)
    _, err = started.communicate(timeout=30)
    assert started.returncode == 4
    assert err.startswith("claude-sessions: this session lost SD-1 to thief")
    assert err.endswith("; stopping the command\n")
    assert err.count("\n") == 1
    assert files[2].read_text() == "got it\n"
    assert not is_alive(leader)
    until(lambda: not is_alive(other), "the end of the member, which is not the wrapper's child")
    statuses = {row["session_id"]: (row["status"], row["sd_id"]) for row in bench.rows()}
    assert statuses.pop("thief") == ("active", "SD-1")
    assert list(statuses.values()) == [("released", None)]


@pytest.mark.faults
def test_group_ignoring_sigterm_is_killed(bench: Bench) -> None:
    ready, other = bench.file(), bench.file()
    command = "trap '' TERM; sh -c 'echo $$ >{1}; sleep 600' & " + IGNORE_TERM
    started = bench.start("SD-1", "--", *words(command, ready, other), env=FAST)
    leader, member = read_pid(ready), read_pid(other)
    force(bench.table)
    assert started.wait(30) == 4
    assert not is_alive(leader)
    until(lambda: not is_alive(member), "the end of the member, which is not the wrapper's child")


@pytest.mark.faults
def test_member_ignoring_sigterm_is_killed_after_leader_exits(bench: Bench) -> None:
    ready, other = bench.file(), bench.file()
    deaf = "trap '' TERM; echo $$ >\"$1\"; while :; do sleep 0.05; done"
    command = f"sh -c {shlex.quote(deaf)} deaf {{1}} & echo $$ >{{0}}; wait"
    started = bench.start("SD-1", "--", *words(command, ready, other), env=FAST)
    leader, member = read_pid(ready), read_pid(other)
    force(bench.table)
    assert started.wait(30) == 4
    assert not is_alive(leader)
    until(lambda: not is_alive(member), "it is killed")


@pytest.mark.faults
def test_group_has_time_to_clean_up_after_leader_exits(bench: Bench) -> None:
    files = [bench.file(), bench.file()]
    tidy = "trap 'sleep 0.2; echo tidy >{1}; exit' TERM; echo $$ >{0}; while :; do sleep 0.02; done"
    command = f"sh -c {shlex.quote(tidy)} & wait"
    started = bench.start("SD-1", "--", *words(command, *files), env=OFTEN)
    read_pid(files[0])
    force(bench.table)
    assert started.wait(30) == 4
    assert files[1].read_text() == "tidy\n"


@pytest.mark.faults
@only_linux
def test_jobs_and_sessions_below_the_command_are_stopped(bench: Bench) -> None:
    files = [bench.file(), bench.file(), bench.file()]
    ignorer = "trap \\'\\' TERM; echo $$ >{2}; while :; do sleep 0.05; done"
    command = f"set -m; setsid -w sh -c 'echo $$ >{{1}}; exec sleep 600' & sh -c $'{ignorer}' & {WAIT}"
    started = bench.start("SD-1", "--", "bash", *words(command, *files)[1:], env=FAST)
    pids = [read_pid(file) for file in files]
    assert len({os.getpgid(pid) for pid in pids}) == 3
    force(bench.table)
    assert started.wait(30) == 4
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.faults
@only_linux
def test_process_without_a_parent_in_the_command_is_not_stopped(bench: Bench) -> None:
    files = [bench.file(), bench.file()]
    command = f"(setsid sh -c 'echo $$ >{{1}}; exec sleep 600' &) ; {WAIT}"
    started = bench.start("SD-1", "--", *words(command, *files), env=FAST)
    child, away = read_pid(files[0]), read_pid(files[1])
    force(bench.table)
    assert started.wait(30) == 4
    assert not is_alive(child)
    assert is_alive(away)
    os.kill(away, signal.SIGKILL)
    until(lambda: not is_alive(away), "it ends")


@pytest.mark.faults
@pytest.mark.parametrize("options", [[], ["--keep-on-failure"]], ids=["", "keep"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_claim_lost_before_command_exit_is_reported(bench: Bench, shared: bool, options: list[str]) -> None:
    ready, go = bench.file(), bench.file()
    if shared:
        claim(bench.table.database, make_caller("mine"), "SD-1")
    env = {"CLAUDE_SESSIONS_SESSION_ID": "mine"} if shared else {}
    # Long before the next renewal.
    command = words("echo $$ >{0}; until test -e {1}; do sleep 0.02; done; exit 7", ready, go)
    started = bench.start("SD-1", *options, "--", *command, env=env)
    read_pid(ready)
    force(bench.table)
    go.touch()
    _, err = started.communicate(timeout=30)
    assert started.returncode == 4
    lost = (
        r"the claim was lost before the command ended: this session lost SD-1 to thief .*urgent\)"
        r" \(see by whom: claude-sessions history SD-1\)\n"
    )
    assert re.fullmatch(f"claude-sessions: {lost}", err)
    rows = {row["session_id"]: (row["status"], row["sd_id"]) for row in bench.rows()}
    assert rows.pop("thief") == ("active", "SD-1")
    assert list(rows.values()) == [("idle" if shared else "released", None)]
    # The prompt file of the wrapper's process goes with it.
    assert list(bench.directory.rglob("terminals/*")) == []


def test_command_may_release_its_own_claim(bench: Bench) -> None:
    done = bench.call("SD-1", "--", "sh", "-c", f"{CLI} release --quiet && exit 7")
    assert (done.returncode, done.stderr) == (7, "")
    assert {row["status"] for row in bench.rows()} == {"released"}


@pytest.mark.faults
def test_later_term_of_the_session_stops_its_command(bench: Bench) -> None:
    claim(bench.table.database, make_caller("mine"), "SD-1")
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(WAIT, ready), env={**FAST, "CLAUDE_SESSIONS_SESSION_ID": "mine"})
    read_pid(ready)
    with pytest.raises(HeldByAnother):
        release(bench.table.database, make_caller("mine"))
    bench.table.execute("UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL, status = 'idle'")
    # The second claim is another term, with another fence.
    claim(bench.table.database, make_caller("mine"), "SD-1")
    assert started.wait(30) == 4
    assert bench.table.row("mine")["sd_id"] == "SD-1"
    assert bench.table.own("mine").get("run") is None


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_command_is_dead_before_item_can_be_claimed(bench: Bench, proxy: Proxy, fault: str) -> None:
    ready = bench.file()
    # A tenth of the window separates its end from the rival's turn.
    started = bench.start("SD-1", "--", *words(IGNORE_TERM, ready), env={**ROOMY, "CLAUDE_SESSIONS_DSN": proxy.dsn})
    child = read_pid(ready)
    getattr(proxy, fault)()
    rival = elsewhere("rival")
    until(lambda: try_claim(bench.table, rival), "silence gives the item away")
    assert not is_alive(child)
    _, err = started.communicate(timeout=30)
    assert started.returncode == 4
    assert "the claim could not be renewed in time" in err
    assert "the claim was not given back" in err
    assert err.count("\n") == 2


@pytest.mark.faults
def test_longer_window_of_the_holders_row_is_used(bench: Bench, proxy: Proxy) -> None:
    claim(bench.table.database, make_caller("mine", stale_after=900), "SD-1")
    ready = bench.file()
    mine = {**FAST, "CLAUDE_SESSIONS_DSN": proxy.dsn, "CLAUDE_SESSIONS_SESSION_ID": "mine"}
    started = bench.start("SD-1", "--", *words(WAIT, ready), env=mine)
    child = read_pid(ready)
    proxy.refuse()
    time.sleep(4)
    assert is_alive(child)
    proxy.listen()
    before = bench.table.row("mine")["heartbeat_at"]
    until(lambda: bench.table.row("mine")["heartbeat_at"] > before, "a heartbeat")
    started.terminate()
    assert started.wait(30) == 143


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["refuse", "stall", pytest.param("hang", marks=pytest.mark.faults)])
def test_database_back_in_time_keeps_the_command(bench: Bench, proxy: Proxy, fault: str) -> None:
    longer = {"CLAUDE_SESSIONS_STALE_AFTER": "8", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.3"}
    ready, go = bench.file(), bench.file()
    command = "echo $$ >{0}; while ! [ -e {1} ]; do sleep 0.02; done; exit 5"
    variables = {**longer, "CLAUDE_SESSIONS_DSN": proxy.dsn}
    started = bench.start("SD-1", "--", *words(command, ready, go), env=variables)
    read_pid(ready)
    getattr(proxy, fault)()
    # Longer than a few heartbeats.
    time.sleep(0.7)
    proxy.listen() if fault == "refuse" else proxy.resume()
    before = bench.holder()["heartbeat_at"]
    until(lambda: bench.holder()["heartbeat_at"] > before, "a heartbeat")
    go.touch()
    assert started.communicate(timeout=30)[1] == ""
    assert started.returncode == 5
    bench.assert_ended(reason="failed")


@pytest.mark.faults
def test_one_hanging_connection_does_not_stop_renewal(bench: Bench, proxy: Proxy) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(WAIT, ready), env={**ROOMY, "CLAUDE_SESSIONS_DSN": proxy.dsn})
    read_pid(ready)
    first = bench.holder()["heartbeat_at"]
    proxy.hang_next = 1
    until(lambda: (bench.holder()["heartbeat_at"] - first).total_seconds() > LAPSE_S + 1, "heartbeats go on")
    started.terminate()
    assert started.wait(30) == 143
    bench.assert_ended(reason="failed")


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_hanging_database_delays_neither_signals_nor_exit(bench: Bench, proxy: Proxy, fault: str) -> None:
    longer = {"CLAUDE_SESSIONS_STALE_AFTER": "60", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.2"}
    ready, trapped = bench.file(), bench.file()
    command = "exec 2>/dev/null; trap 'echo >{1}; exit 6' TERM; echo $$ >{0}; while :; do sleep 0.02; done"
    variables = {**longer, "CLAUDE_SESSIONS_DSN": proxy.dsn}
    started = bench.start("SD-1", "--", *words(command, ready, trapped), env=variables)
    read_pid(ready)
    getattr(proxy, fault)()
    accepted = proxy.accepted
    until(lambda: proxy.accepted > accepted, "a renewal hangs")
    begun = time.monotonic()
    started.terminate()
    until(trapped.exists, "the command gets the signal")
    assert time.monotonic() - begun < 3
    _, err = started.communicate(timeout=30)
    assert time.monotonic() - begun < 15
    assert started.returncode == 6
    assert err.startswith("claude-sessions: the claim was not given back: ")
    assert err.count("\n") == 1
    # The process is gone, so that the claim need not lapse by silence.
    assert try_claim(bench.table, make_caller("b"))


@pytest.mark.faults
def test_blocked_stderr_does_not_save_the_command(bench: Bench) -> None:
    ready = bench.file()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    command = words(IGNORE_TERM, ready)
    started = bench.start("SD-1", "--", *command, env=FAST, stderr=writer, stdout=subprocess.DEVNULL)
    child = read_pid(ready)
    force(bench.table)
    assert started.wait(30) == 4
    assert not is_alive(child)
    os.close(reader)
    os.close(writer)


@pytest.mark.faults
@only_linux
def test_wrapper_stopped_past_takeover_kills_command_at_once(bench: Bench) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(IGNORE_TERM, ready), env=FAST)
    child = read_pid(ready)
    os.kill(started.pid, signal.SIGSTOP)
    until(lambda: try_claim(bench.table, elsewhere("rival")), "silence gives the item away")
    begun = time.monotonic()
    os.kill(started.pid, signal.SIGCONT)
    until(lambda: not is_alive(child), "the command ends")
    assert time.monotonic() - begun < 3
    assert started.wait(30) == 4
    assert bench.holder()["session_id"] == "rival"


# Cost


@pytest.mark.faults
@only_linux
def test_idle_run_costs_little_cpu(bench: Bench) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(WAIT, ready))
    read_pid(ready)

    def spent() -> tuple[float, int]:
        fields = (Path("/proc") / str(started.pid) / "stat").read_text().rpartition(")")[2].split()
        status = (Path("/proc") / str(started.pid) / "status").read_text()
        switches = status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(switches)

    time.sleep(0.5)
    cpu, switches = spent()
    time.sleep(5)
    later_cpu, later_switches = spent()
    assert later_cpu - cpu <= 0.05
    assert later_switches - switches <= 8
    started.terminate()
    started.wait(30)


@pytest.mark.faults
@only_linux
def test_long_run_does_not_grow(bench: Bench, proxy: Proxy) -> None:
    ready = bench.file()
    often = {"CLAUDE_SESSIONS_STALE_AFTER": "10m", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.01"}
    started = bench.start("SD-1", "--", *words(WAIT, ready), env={**often, "CLAUDE_SESSIONS_DSN": proxy.dsn})
    read_pid(ready)

    def wake() -> None:
        # By a signal, sooner than once a second.
        started.send_signal(signal.SIGWINCH)
        time.sleep(0.015)

    def resident() -> int:
        text = (Path("/proc") / str(started.pid) / "statm").read_text()
        return int(text.split()[1]) * resource.getpagesize()

    def after_renewals(number: int) -> int:
        wanted = proxy.accepted + number
        while proxy.accepted < wanted:
            wake()
        return resident()

    def after_failures(number: int) -> int:
        for _ in range(number):
            wake()
        return resident()

    settled = after_renewals(60)
    assert after_renewals(150) - settled < 1_000_000
    proxy.refuse()
    settled = after_failures(100)
    assert after_failures(400) - settled < 2_000_000
    started.terminate()
    started.wait(30)
