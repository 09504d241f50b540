"""`run` without a terminal: the claim around a command, and commands that cannot be run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Table, make_caller
from poll import until
from run_bench import (
    FAST,
    OFTEN,
    PROGRAM,
    RUN,
    WAIT,
    Bench,
    is_alive,
    only_linux,
    read_pid,
    try_claim,
    words,
)

from claude_sessions_cli import process
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release_other
from claude_sessions_cli.times import fence_of
from commands.answers import Inside, failed

# The claim


@pytest.mark.faults
@pytest.mark.parametrize("code", [0, 7])
def test_run_passes_exit_code_and_releases_claim(tmp_path: Path, table: Table, code: int) -> None:
    with Bench(tmp_path, table) as bench:
        done = bench.call("SD-1", "--track", "B", "--", "sh", "-c", f"exit {code}")
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        bench.assert_ended(reason="failed" if code else "completed")


@pytest.mark.faults
@pytest.mark.parametrize(("command", "code"), [("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)])
def test_run_passes_large_and_signal_exit_codes(bench: Bench, command: str, code: int) -> None:
    done = bench.call("SD-1", "--", "sh", "-c", command)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    bench.assert_ended(reason="failed")


def test_command_runs_under_its_own_renewed_session(bench: Bench) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--track", "B", "--", *words(WAIT, ready), env=OFTEN)
    read_pid(ready)
    first = bench.holder()
    assert (first["status"], first["track"], first["pid"], first["tty"]) == ("active", "B", started.pid, None)
    own = first["metadata"]["claude_sessions_cli"]
    assert own["process"]["start"] == own["run"]["start"] == process.read(started.pid).start
    assert own["stale_after"] == 60
    until(lambda: bench.holder()["heartbeat_at"] > first["heartbeat_at"], "a heartbeat")
    assert bench.holder()["claimed_at"] == first["claimed_at"]
    started.terminate()
    assert started.wait(30) == 143
    bench.assert_ended(reason="failed")


def test_program_inside_run_acts_as_its_session(bench: Bench) -> None:
    check = f'{shlex.join(PROGRAM)} check "$CLAUDE_SESSIONS_SD" --fence "$CLAUDE_SESSIONS_FENCE" --json'
    whoami = f"{shlex.join(PROGRAM)} whoami --json"
    done = bench.call("SD-1", "--", "sh", "-c", f"{check} && {whoami} && env")
    assert done.returncode == 0, done.stderr
    checked, who, *variables = done.stdout.splitlines()
    held = json.loads(checked)["data"]["session"]
    exported = dict(line.split("=", 1) for line in variables if line.startswith("CLAUDE_SESSIONS_"))
    assert exported["CLAUDE_SESSIONS_SD"] == held["sd_id"] == "SD-1"
    assert exported["CLAUDE_SESSIONS_SESSION_ID"] == held["session_id"] == json.loads(who)["data"]["session_id"]
    assert exported["CLAUDE_SESSIONS_FENCE"] == str(held["fence"])
    namespace, pid, start = exported["CLAUDE_SESSIONS_ANCHOR"].rsplit(" ", 2)
    recorded = held["metadata"]["claude_sessions_cli"]["process"]
    assert (namespace, int(pid), start) == (recorded["pid_ns"], recorded["pid"], recorded["start"])


def test_agent_inside_run_acts_as_its_session(bench: Bench) -> None:
    claude = bench.directory / "claude"
    shutil.copy(str(shutil.which("bash")), claude)
    inside = f"CLAUDE_CODE_SESSION_ID=agents CLAUDE_PID=$$ {shlex.join(PROGRAM)} whoami --json; true"
    done = bench.call("SD-1", "--", str(claude), "-c", inside)
    who = json.loads(done.stdout)["data"]
    row = bench.assert_ended(reason="completed")
    assert (who["session_id"], who["pid"], who["id_from"]) == (row["session_id"], row["pid"], "exported")


@pytest.mark.faults
@pytest.mark.parametrize("shell", ["/bin/sh -c {0}", "setsid -w /bin/sh -c {0} <&- >&- 2>&-"], ids=["cron", "daemon"])
def test_run_under_cron_or_daemon_is_a_session(bench: Bench, shell: str) -> None:
    answer = bench.file()
    inside = f"{shlex.join(PROGRAM)} whoami --json >{answer}"
    line = f"{RUN} SD-1 --dsn {shlex.quote(bench.table.dsn)} -- sh -c {shlex.quote(inside)}"
    # The variables of a cron job, and the one that this machine needs to find the program.
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    bare = {"HOME": str(bench.directory), "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", **kept}
    done = bench.start_any(
        "env", "-i", *(f"{name}={value}" for name, value in bare.items()), *shlex.split(shell.format(shlex.quote(line)))
    )
    assert done.communicate(timeout=30) == ("", "")
    assert done.returncode == 0
    row = bench.assert_ended(reason="completed")
    assert json.loads(answer.read_text())["data"]["session_id"] == row["session_id"]
    assert row["tty"] is None
    assert row["pid"] is not None


def test_options_reach_program_inside_run(bench: Bench) -> None:
    inside = f'{shlex.join(PROGRAM)} claim "$CLAUDE_SESSIONS_SD" --json'
    options = ["--dsn", bench.table.dsn, "--stale-after", "40m"]
    done = bench.call(
        "SD-1", *options, "--", "sh", "-c", inside, env={"CLAUDE_SESSIONS_DSN": f"host={bench.directory}/missing"}
    )
    assert done.returncode == 0, done.stderr
    claimed = json.loads(done.stdout)["data"]
    assert claimed["outcome"] == "already_yours"
    assert claimed["session"]["metadata"]["claude_sessions_cli"]["stale_after"] == 2400


def test_only_first_double_dash_belongs_to_run(bench: Bench) -> None:
    assert bench.call("SD-1", "--", "printf", "%s,", "-a", "--", "b").stdout == "-a,--,b,"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 3),
        (["--wait", "0.2s"], 3),
        (["--conflict-exit-code", "0"], 0),
        (["--wait", "0.2s", "--conflict-exit-code", "75"], 75),
    ],
    ids=["at once", "after a wait", "chosen code", "chosen code after a wait"],
)
def test_run_of_held_item_exits_with_conflict_code(bench: Bench, options: list[str], code: int) -> None:
    claim(bench.table.database, make_caller("a"), "SD-1")
    before = bench.rows()
    done = bench.call("SD-1", *options, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (code, "")
    assert "SD-1 is held by a" in done.stderr
    assert done.stderr.count("\n") == 1
    assert bench.rows() == before


@pytest.mark.faults
def test_waiting_run_starts_when_item_is_released(bench: Bench) -> None:
    ready = bench.file()
    first = bench.start("SD-1", "--", *words(WAIT, ready))
    read_pid(ready)
    second = bench.start("SD-1", "--wait", "1m", "--", "echo", "ran")
    time.sleep(1)
    assert second.poll() is None
    first.terminate()
    assert second.communicate(timeout=30)[0] == "ran\n"
    assert second.returncode == 0
    assert first.wait(30) == 143


def test_run_renews_and_keeps_the_callers_own_claim(bench: Bench) -> None:
    claim(bench.table.database, make_caller("mine"), "SD-1", track="A")
    before = bench.table.row("mine")
    ready = bench.file()
    mine = {**FAST, "CLAUDE_SESSIONS_SESSION_ID": "mine"}
    started = bench.start("SD-1", "--track", "C", "--", *words(WAIT, ready), env=mine)
    read_pid(ready)
    assert bench.table.own("mine")["run"]["pid"] == started.pid
    begun = bench.table.row("mine")["heartbeat_at"]
    until(lambda: bench.table.row("mine")["heartbeat_at"] > begun, "a heartbeat")
    started.terminate()
    assert started.wait(30) == 143
    [after] = bench.rows()
    assert (after["sd_id"], after["claimed_at"], after["status"]) == ("SD-1", before["claimed_at"], "active")
    assert after["track"] == "C"
    assert "run" not in bench.table.own("mine") or bench.table.own("mine")["run"] is None


@pytest.mark.faults
def test_second_run_of_item_in_one_session_is_refused(bench: Bench) -> None:
    claim(bench.table.database, make_caller("mine"), "SD-1")
    ready, mine = bench.file(), {"CLAUDE_SESSIONS_SESSION_ID": "mine"}
    first = bench.start("SD-1", "--", *words(WAIT, ready), env=mine)
    read_pid(ready)
    before = bench.table.row("mine")
    second = bench.call("SD-1", "--conflict-exit-code", "9", "--", "echo", "ran", env=mine)
    assert (second.returncode, second.stdout) == (9, "")
    hint = "wait for its end; look: claude-sessions list SD-1"
    assert second.stderr == f"claude-sessions: a command is already running under SD-1 in this session ({hint})\n"
    assert bench.table.row("mine") == before
    first.terminate()
    first.wait(30)
    assert bench.call("SD-1", "--", "echo", "ran", env=mine).stdout == "ran\n"


def test_runs_of_other_items_are_own_sessions(bench: Bench) -> None:
    claim(bench.table.database, make_caller("mine"), "SD-1")
    files = [bench.file(), bench.file()]
    mine = {"CLAUDE_SESSIONS_SESSION_ID": "mine"}
    both = [bench.start(f"SD-{n}", "--", *words(WAIT, file), env=mine) for n, file in enumerate(files, 2)]
    for file in files:
        read_pid(file)
    holders = [bench.holder(f"SD-{n}")["session_id"] for n in (1, 2, 3)]
    assert holders[0] == "mine"
    assert len(set(holders)) == 3
    for started in both:
        started.terminate()
        assert started.wait(30) == 143
    assert bench.holder("SD-1")["session_id"] == "mine"


@pytest.mark.faults
@pytest.mark.parametrize(("inner", "code"), [("SD-1", 3), ("SD-2", 0)], ids=["the same item", "another item"])
def test_run_inside_run(bench: Bench, inner: str, code: int) -> None:
    done = bench.call("SD-1", "--", "sh", "-c", f"{RUN} {inner} -- echo ran; echo $?")
    assert done.returncode == 0
    assert done.stdout.split() == (["ran", "0"] if code == 0 else ["3"])
    assert {row["status"] for row in bench.rows()} == {"released"}
    assert len(bench.rows()) == (2 if code == 0 else 1)


def test_named_run_can_be_repeated(bench: Bench) -> None:
    claim(bench.table.database, make_caller("nightly"), "SD-2")
    release_other(bench.table.database, make_caller("b"), "nightly", None, end=True, reason="stuck")
    for _ in range(2):
        done = bench.call("SD-1", "--session", "nightly", "--", "true")
        assert done.returncode == 0
        assert "before this, the session lost SD-2" in done.stderr and "released by b (stuck)" in done.stderr
        assert bench.assert_ended(reason="completed")["session_id"] == "nightly"
    assert "tombstone" not in bench.table.own("nightly")


@pytest.mark.faults
@only_linux
def test_named_run_after_a_killed_one_has_higher_fence(bench: Bench) -> None:
    ready = bench.file()
    started = bench.start("SD-1", "--session", "nightly", "--", *words(WAIT, ready))
    child = read_pid(ready)
    first = bench.holder()["claimed_at"]
    watcher = bench.table.own("nightly")["run"]["guardian"]["pid"]
    started.kill()
    started.wait()
    # The guardian looks once a second, and keeps the item until it has seen the command's end.
    until(lambda: not is_alive(child) and not is_alive(watcher), "the command dies with its wrapper")
    fence = 'echo "$CLAUDE_SESSIONS_FENCE"'
    done = bench.call("SD-1", "--session", "nightly", "--", "sh", "-c", fence)
    assert int(done.stdout) > first.timestamp() * 1e6
    bench.assert_ended(reason="completed")


def test_named_run_refuses_a_living_session(bench: Bench) -> None:
    heartbeat(bench.table.database, make_caller("living", anchor=process.read(os.getpid())), register=True)
    before = bench.table.row("living")
    done = bench.call("SD-1", "--session", "living", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("claude-sessions: session living is open in another process (host ")
    other = bench.call("SD-1", "--session", "living", "--conflict-exit-code", "75", "--", "echo", "ran")
    assert (other.returncode, other.stdout) == (75, "")
    assert bench.table.row("living") == before
    claim(bench.table.database, make_caller("living", anchor=process.read(os.getpid())), "SD-1")
    assert bench.call("SD-1", "--session", "living", "--", "echo", "ran").stdout == "ran\n"
    after = bench.table.row("living")
    assert (after["sd_id"], after["pid"], after["status"]) == ("SD-1", os.getpid(), "active")


@pytest.mark.faults
@pytest.mark.parametrize("change", ["claimed_at = NULL", "status = 'stale'"])
def test_run_repairs_claim_changed_by_another_program(bench: Bench, change: str) -> None:
    claim(bench.table.database, make_caller("mine"), "SD-1")
    bench.table.execute(f"UPDATE public.claude_sessions SET {change}")
    command = ["sh", "-c", 'echo "$CLAUDE_SESSIONS_FENCE"; sleep 1']
    done = bench.call("SD-1", "--", *command, env={**FAST, "CLAUDE_SESSIONS_SESSION_ID": "mine"})
    assert (done.returncode, done.stderr) == (0, "")
    row = bench.holder()
    assert (row["session_id"], row["status"]) == ("mine", "active")
    assert int(done.stdout) == fence_of(row["claimed_at"])


def test_item_with_two_holders_is_not_run(bench: Bench, seed_dsn: str) -> None:
    table, mine = Table(seed_dsn), {"CLAUDE_SESSIONS_SESSION_ID": "mine"}
    with table.stack:
        for name in ("mine", "theirs"):
            heartbeat(table.database, make_caller(name), register=True)
        table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-1', status = 'active', claimed_at = now()")
        done = bench.call("SD-1", "--dsn", seed_dsn, "--", "echo", "ran", env=mine)
        assert (done.returncode, done.stdout) == (3, "")
        assert "SD-1 is held by theirs" in done.stderr


@pytest.mark.parametrize("code", [0, 5])
def test_keep_on_failure_holds_claim_until_it_lapses(bench: Bench, code: int) -> None:
    done = bench.call("SD-1", "--keep-on-failure", "--", "sh", "-c", f"exit {code}", env=OFTEN)
    assert done.returncode == code
    if code == 0:
        assert done.stderr == ""
        bench.assert_ended(reason="completed")
        return
    [row] = bench.rows()
    assert (row["sd_id"], row["status"]) == ("SD-1", "active")
    assert row["session_id"] in done.stderr
    assert done.stderr.count("\n") == 1
    # Other sessions cannot claim it earlier, although this host knows that the command has ended.
    later = make_caller("b", stale_after=3, heartbeat_every=1, now=row["heartbeat_at"] + timedelta(seconds=59.9))
    assert not try_claim(bench.table, later)
    assert try_claim(bench.table, later._replace(now=row["heartbeat_at"] + timedelta(seconds=60.1)))


def test_kept_claim_is_released_by_the_printed_command(bench: Bench) -> None:
    done = bench.call("SD-1", "--keep-on-failure", "--", "false")
    command = done.stderr.partition("give it back: claude-sessions ")[2].split()
    given = bench.start_any(*PROGRAM, *command)
    assert given.wait(30) == 0
    bench.assert_ended()


def test_session_lives_while_command_runs_after_shell_died(
    bench: Bench, sleeper: Callable[[], subprocess.Popen[bytes]]
) -> None:
    shell = sleeper()
    mine = make_caller("mine", anchor=process.read(shell.pid))
    claim(bench.table.database, mine, "SD-1")
    ready = bench.file()
    started = bench.start("SD-1", "--", *words(WAIT, ready), env={"CLAUDE_SESSIONS_SESSION_ID": "mine"})
    read_pid(ready)
    shell.kill()
    shell.wait()
    other = make_caller("b")
    assert not try_claim(bench.table, other)
    assert reap(bench.table.database, other).changed == []
    started.terminate()
    started.wait(30)
    assert try_claim(bench.table, other)


# Commands that cannot be run


def _make(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.faults
@pytest.mark.parametrize(
    ("code", "messages"),
    [
        (2, {(): "Missing argument"}),
        (
            127,
            {
                ("no-such-command",): "cannot run 'no-such-command': no such command",
                ("",): "cannot run '': no such command",
                ("./no-such-file",): "no such command",
                ("./plain/x",): "no such command",
                ("a\x1b[31mb",): r"'a\x1b[31mb'",
                ("x" * 5000,): "no such command",
            },
        ),
        (
            126,
            {
                ("./plain",): "not executable",
                ("plain",): "not executable",
                ("./dangling",): "not executable",
                ("./directory",): "it is a directory",
                ("/",): "it is a directory",
            },
        ),
    ],
    ids=["no command", "missing", "not executable"],
)
def test_unrunnable_command_is_reported_and_claims_nothing(
    bench: Bench, code: int, messages: dict[tuple[str, ...], str]
) -> None:
    _make(bench.directory / "plain", "", 0o644)
    (bench.directory / "directory").mkdir()
    (bench.directory / "dangling").symlink_to("nowhere")
    path = {"PATH": f"{os.environ['PATH']}:{bench.directory}"}
    for command, message in messages.items():
        done = bench.call("SD-1", "--", *command, env=path)
        assert (done.returncode, done.stdout) == (code, ""), command
        assert message in done.stderr, command
        assert done.stderr.count("\n") == 1, command
        assert len(done.stderr) < 200, command
    assert bench.rows() == []


@pytest.mark.parametrize(
    "line",
    [
        *("SD-1", "-- true", "-- env true", "--track A -- env true", "", "SD-1 --", "--", "-- --version true"),
        *("--timeout 0 SD-1 -- true", "--timeout x SD-1 -- true", "--no-such -- true", "-x -- true"),
    ],
)
def test_missing_item_or_command_or_wrong_option_is_usage_error(inside: Inside, full_table: Table, line: str) -> None:
    done = inside("run", *line.split(), env={"CLAUDE_SESSIONS_DSN": full_table.dsn})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert full_table.execute("SELECT FROM public.claude_sessions") == []


@pytest.mark.parametrize("line", ["echo -q hi", "make -j4", "sh -c true", "echo --timeout 5m", "echo --help", "a b -x"])
def test_option_of_command_without_separator_is_refused(inside: Inside, full_table: Table, line: str) -> None:
    for before in ("SD-1", "SD-1 --timeout 5m", "--track=A SD-1 -q"):
        done = inside("run", *before.split(), *line.split(), env={"CLAUDE_SESSIONS_DSN": full_table.dsn})
        error = failed(done, 2, "no -- before the command, which has an option: '-")
        assert "(add it: claude-sessions run SD -- COMMAND)" in error
    assert full_table.execute("SELECT FROM public.claude_sessions") == []


def test_options_of_run_stand_before_its_command(bench: Bench) -> None:
    done = bench.call("SD-1", "--timeout", "5m", "echo", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-\n", "")


def test_refusal_that_is_success_prints_nothing_if_quiet(bench: Bench) -> None:
    claim(bench.table.database, make_caller("a"), "SD-1")
    done = bench.call("SD-1", "-q", "--conflict-exit-code", "0", "--", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = bench.call("SD-1", "-q", "--", "true")
    assert done.returncode == 3
    assert "claude-sessions claim SD-1 --force --reason WHY" in done.stderr
    assert "add --force" not in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize(
    "command", ["exec sleep 600", "exec 2>/dev/null; trap 'exit 0' TERM; while :; do sleep 0.02; done"]
)
def test_command_past_its_time_is_stopped(bench: Bench, command: str) -> None:
    done = bench.call("SD-1", "--timeout", "1s", "--", "sh", "-c", command)
    assert done.returncode == 124
    assert done.stderr == "claude-sessions: the command ran for 1s (raise --timeout); stopping the command\n"
    bench.assert_ended(reason="failed")


def test_json_is_one_object_and_command_writes_to_stderr(bench: Bench) -> None:
    done = bench.call("SD-1", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stderr) == (3, "out\nerr\n")
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["command"], answer["error"]) == (True, "run", None)
    data = answer["data"]
    assert (data["outcome"], data["exit_code"], data["session"]["sd_id"]) == ("failed", 3, "SD-1")
    assert data["fence"] == data["session"]["fence"]
    claim(bench.table.database, make_caller("a"), "SD-1")
    done = bench.call("SD-1", "--json", "--", "echo", "ran")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["error"]["code"]) == (3, False, "held")
    assert answer["error"]["holder"]["session_id"] == "a"


@only_linux
def test_first_process_of_container_collects_orphans(bench: Bench) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a pid namespace")
    # Its parent has ended: the orphan ends as a child of PID 1.
    command = "(sleep 0.1 & echo $! >&3) 3>orphan; while [ -e /proc/$(cat orphan) ]; do sleep 0.02; done; echo gone"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *PROGRAM]
    started = bench.start_any(*inside, "run", "SD-1", "--", "sh", "-c", command)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out, err) == (0, "gone\n", "")


def test_command_that_fails_to_start_releases_claim(bench: Bench) -> None:
    _make(bench.directory / "script", f"#!{bench.directory}/missing\n", 0o755)
    done = bench.call("SD-1", "--keep-on-failure", "--", "./script")
    assert (done.returncode, done.stdout) == (127, "")
    reason = "cannot run './script': No such file or directory"
    assert done.stderr == f"claude-sessions: {reason} (correct its name, its permissions or its #! line)\n"
    bench.assert_ended(reason="failed")


def test_script_without_interpreter_is_run_by_sh(bench: Bench) -> None:
    _make(bench.directory / "script", 'echo "$0 $1"\n', 0o755)
    done = bench.call("SD-1", "--", "./script", "a b")
    assert (done.returncode, done.stdout) == (0, "./script a b\n")


def test_unreachable_database_runs_nothing(bench: Bench) -> None:
    done = bench.call("SD-1", "--", "echo", "ran", env={"CLAUDE_SESSIONS_DSN": f"host={bench.directory}/missing"})
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("\n") == 1
