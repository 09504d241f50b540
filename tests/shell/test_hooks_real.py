"""The shell integration with the real program: on a database, and on databases and disks that fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
from conftest import Cli, Table, make_caller
from poll import PATIENCE_S, until
from requirements import cross, each_shell, each_shell_at_length, needs_proc
from run_bench import force, is_alive
from terminal import CLI, WHOAMI

from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.operations.claim import claim
from shell.hooks import (
    Calls,
    Open,
    Window,
    close_terminal,
    make_due,
    nested_line,
    rows,
    send_hangup,
    state_of,
    type_exit,
)

# -- with the real program --------------------------------------------------------------------------------------------


def await_first_beat(states: Path, opened: Window) -> None:
    """Wait until the background heartbeat has written the prompt's file."""
    until(state_of(states, opened).exists, "the file of the terminal")


def shows(opened: Window, pattern: str) -> bool:
    make_due(opened)
    opened.do("true")
    return re.fullmatch(pattern, opened.ask("$CLAUDE_SESSIONS_PROMPT")) is not None


@each_shell_at_length
def test_terminal_lifecycle_on_a_real_database(real: Open, full_table: Table, states: Path, name: str) -> None:
    dsn = full_table.dsn
    opened = real(name, dsn)
    await_first_beat(states, opened)
    session = opened.run(WHOAMI).session
    assert rows(dsn) == [(session, None, "idle", opened.pid)]

    assert opened.run(f"{CLI} claim SD-AUTH-001").code == 0
    assert re.fullmatch(r"SD-AUTH-001 \d+s", opened.ask("$CLAUDE_SESSIONS_PROMPT"))
    assert re.fullmatch(r"SD-AUTH-001 \d+s\n", opened.run(f"{CLI} prompt").out)
    assert rows(dsn) == [(session, "SD-AUTH-001", "active", opened.pid)]

    force(full_table, "SD-AUTH-001")
    until(lambda: shows(opened, "LOST SD-AUTH-001"), "the loss in the prompt")
    assert opened.run(f"{CLI} prompt").out == "LOST SD-AUTH-001\n"

    for shown in ("LOST SD-AUTH-001", ""):
        # It takes two: the answer of the first may be lost.
        assert opened.run(f"{CLI} release").code == 4
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == shown
    opened.type("exit")
    opened.wait()
    assert [row[2] for row in rows(dsn) if row[0] == session] == ["released"]


@cross(
    "ending",
    [type_exit, send_hangup, close_terminal],
    [("bash", type_exit), ("zsh", close_terminal), ("fish", send_hangup)],
)
def test_shell_exit_ends_its_session(
    real: Open, dsn: str, states: Path, name: str, ending: Callable[[Window], None]
) -> None:
    opened = real(name, dsn)
    await_first_beat(states, opened)
    assert opened.run(f"{CLI} claim SD-1").code == 0
    assert list(states.iterdir())
    ending(opened)
    opened.wait()
    [(_, sd_id, status, _)] = rows(dsn)
    assert (sd_id, status) == (None, "released")
    assert list(states.iterdir()) == []
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT metadata->'claude_sessions_cli'->'tombstone' FROM claude_sessions"
        ).fetchone()
    assert found in ((None,), ("null",)), "its own end is no loss"


@pytest.mark.faults
@each_shell
def test_run_keeps_the_claim_of_its_ended_shell(
    real: Open, full_table: Table, states: Path, name: str, tmp_path: Path
) -> None:
    ready, over = tmp_path / "ready", tmp_path / "over"
    work = f"touch {ready}; while [ ! -e {over} ]; do sleep 0.05; done"
    opened = real(name, full_table.dsn)
    await_first_beat(states, opened)
    assert opened.run(f"{CLI} claim SD-1").code == 0
    opened.type(f"nohup {CLI} run SD-1 -- sh -c '{work}' >/dev/null 2>&1 &")
    until(ready.exists, "the command runs")
    assert opened.run(f"{CLI} release").code == 3
    if name != "bash":
        opened.run("disown")
    opened.type("exit")
    until(lambda: not is_alive(opened.pid), "the end of the shell")
    with pytest.raises(HeldByAnother):
        claim(full_table.database, make_caller("rival"), "SD-1")
    over.touch()
    opened.wait()
    until(lambda: {row[2] for row in rows(full_table.dsn) if row[0] != "rival"} == {"released"}, "the command ended")
    assert claim(full_table.database, make_caller("rival"), "SD-1").outcome == "claimed"


@pytest.mark.faults
@each_shell_at_length
def test_command_that_finds_a_loss_updates_the_prompt(real: Open, full_table: Table, states: Path, name: str) -> None:
    opened = real(name, full_table.dsn)
    await_first_beat(states, opened)
    for command in ("check", "park 10m", "unpark", "heartbeat"):
        opened.run(f"{CLI} release")
        assert opened.run(f"{CLI} claim SD-1 --force --reason again").code == 0
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT").startswith("SD-1 ")
        force(full_table)
        assert opened.run(f"{CLI} {command}").code == 4
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "LOST SD-1", command


ENDINGS_BY_OTHERS = {
    "force": ["claim", "SD-1", "--force", "--reason", "urgent"],
    "release": ["release", "--session", "{session}", "--reason", "urgent"],
    "end": ["release", "--session", "{session}", "--end", "--reason", "urgent"],
}


@pytest.mark.faults
@cross("how", list(ENDINGS_BY_OTHERS), [("bash", how) for how in ENDINGS_BY_OTHERS])
def test_loss_by_another_is_shown_at_the_next_prompt(
    real: Open, dsn: str, cli: Cli, states: Path, name: str, how: str
) -> None:
    opened = real(name, dsn)
    await_first_beat(states, opened)
    assert opened.run(f"{CLI} claim SD-1").code == 0
    session = opened.run(WHOAMI).session
    words = [word.format(session=session) for word in ENDINGS_BY_OTHERS[how]]
    done = cli(*words, env={"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "thief"})
    assert done.returncode == 0, done.stderr
    opened.do("true")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "LOST SD-1"


@each_shell_at_length
def test_unwritable_prompt_of_the_loser_is_no_error(real: Open, dsn: str, cli: Cli, states: Path, name: str) -> None:
    opened = real(name, dsn)
    await_first_beat(states, opened)
    assert opened.run(f"{CLI} claim SD-1").code == 0
    for path in states.iterdir():
        path.unlink()
        path.mkdir()
    done = cli("claim", "SD-1", "--force", "--reason", "urgent", "--session", "b", env={"CLAUDE_SESSIONS_DSN": dsn})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.faults
@each_shell_at_length
def test_session_option_does_not_change_the_prompt(real: Open, dsn: str, states: Path, name: str) -> None:
    opened = real(name, dsn)
    await_first_beat(states, opened)
    assert opened.run(f"{CLI} claim SD-1").code == 0
    assert opened.run(f"{CLI} claim SD-2 --session another").code == 0
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT").startswith("SD-1 ")
    assert opened.run(f"{CLI} heartbeat --session unknown").code == 4
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT").startswith("SD-1 ")


@each_shell_at_length
def test_shell_under_run_shows_item_and_sends_no_heartbeats(
    real: Open, dsn: str, states: Path, tmp_path: Path, calls: Calls, name: str
) -> None:
    opened = real("bash", dsn)
    await_first_beat(states, opened)
    line = nested_line(opened, tmp_path, calls, name)
    opened.enter(f"{CLI} run SD-RUN -- {line}", name)
    assert opened.run(f"{CLI} check SD-RUN").code == 0
    opened.do("true")
    assert re.fullmatch(r"SD-RUN \d+s", opened.ask("$CLAUDE_SESSIONS_PROMPT"))
    opened.leave("bash")
    assert calls.all() == []
    assert {path.name.partition(".")[0] for path in states.iterdir()} <= {state_of(states, opened).name}
    assert [row[2] for row in rows(dsn)] == ["idle", "released"]


def test_late_heartbeat_does_not_register_a_dead_shell(
    real: Open, dsn: str, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    environ = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SHELL": f"/dev/pts/99:{gone.pid}:123"}
    done = cli("heartbeat", "--register", "--pid", str(gone.pid), "--tty", "/dev/pts/99", env=environ)
    assert done.returncode == 2
    assert rows(dsn) == []


@needs_proc
def test_exit_without_start_time_uses_prompt_file(
    dsn: str, states: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    environ = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_STATE_DIR": str(states.parent)}
    assert cli("claim", "SD-1", env={**environ, "CLAUDE_SESSIONS_SESSION_ID": "of-a-mac"}).returncode == 0
    gone = subprocess.Popen(["true"])
    gone.wait()
    (states / str(gone.pid)).write_text("held 5 SD-1 of-a-mac\n")
    environ["CLAUDE_SESSIONS_SHELL"] = f"/dev/ttys003:{gone.pid}:"
    done = cli("release", "--end", "--pid", str(gone.pid), "--tty", "/dev/ttys003", env=environ)
    assert done.returncode == 0, done.stderr
    assert [row[:3] for row in rows(dsn)] == [("of-a-mac", None, "released")]


# -- databases and disks that fail ------------------------------------------------------------------------------------


@pytest.fixture
def hanging() -> Iterator[str]:
    """Return the DSN of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=x user=x"


@pytest.fixture
def bad_dsns(dsn: str, hanging: str) -> dict[str, str]:
    """Return DSNs that are down, refuse, hang, or are malformed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    return {
        "down": f"host=127.0.0.1 port={free} dbname=x",
        "refuses": psycopg.conninfo.make_conninfo(dsn, dbname="no_such_database"),
        "hangs": hanging,
        "malformed": "postgresql://[",
    }


@pytest.mark.faults
@cross(
    "kind",
    ["down", "refuses", "hangs", "malformed"],
    [("bash", "hangs"), ("zsh", "refuses"), ("zsh", "hangs"), ("fish", "down"), ("fish", "hangs")],
)
def test_failing_database_neither_delays_nor_clutters_prompt(
    real: Open, bad_dsns: dict[str, str], name: str, kind: str
) -> None:
    opened = real(name, bad_dsns[kind])
    for _ in range(3):
        make_due(opened)
        opened.do("true")
    if kind == "hangs":
        assert running_beats(opened), "prompts wait for the database"
    opened.type("exit")
    opened.process.wait(PATIENCE_S)
    for beat in opened.running() if kind == "hangs" else ():
        # It would end after twenty seconds.
        with suppress(ProcessLookupError):
            os.kill(beat, signal.SIGKILL)
    opened.wait()
    assert not re.search("error|cannot|Traceback|refused|claude-sessions:", opened.seen(), re.I)


@needs_proc
@each_shell
def test_call_to_hanging_server_holds_no_shell_descriptors(real: Open, hanging: str, name: str) -> None:
    opened = real(name, hanging, more={"PGCONNECT_TIMEOUT": "600"})
    opened.type("exit")
    opened.process.wait(PATIENCE_S)
    until(opened.pipe_is_closed, "the end of the pipe")
    assert opened.running(), "the pipe was closed only because the calls had ended"


@pytest.mark.faults
@needs_proc
@each_shell
def test_heartbeats_do_not_pile_up_if_server_hangs(real: Open, hanging: str, name: str) -> None:
    opened = real(name, hanging, every=2, more={"PGCONNECT_TIMEOUT": "600"})
    begin = time.monotonic()
    most = 0
    while time.monotonic() < begin + 7:
        opened.do("true")
        most = max(most, len(running_beats(opened)))
    # On a busy machine the last one may still be ending when the next one starts.
    assert 1 <= most <= 2
    opened.type("exit")
    opened.wait()


def running_beats(opened: Window) -> list[int]:
    """Return the heartbeat processes of a window."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"heartbeat" in words and str(opened.pid).encode() in words:
            found.append(int(entry.parent.name))
    return found


@needs_proc
def test_heartbeat_gives_up_on_hanging_server(
    hanging: str, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for command in (["heartbeat", "--register"], ["release", "--end"]):
        begin = time.monotonic()
        environ = {"CLAUDE_SESSIONS_SESSION_ID": "a", "PGCONNECT_TIMEOUT": "600"}
        done = cli(*command, "--within", "0.5s", "--dsn", hanging, env=environ)
        assert (done.returncode, done.stdout, done.stderr) == (6, "", "")
        assert time.monotonic() - begin < 30


@pytest.mark.faults
@cross(
    "kind",
    ["full", "read-only", "missing home"],
    [("bash", "full"), ("zsh", "read-only"), ("fish", "missing home"), ("fish", "full")],
)
def test_unwritable_state_directory_is_ignored(
    stack: ExitStack, real: Open, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o500)
    if kind == "missing home":
        # An ordinary user may not create it; root may.
        monkeypatch.delenv("CLAUDE_SESSIONS_STATE_DIR")
        monkeypatch.setenv("HOME", str(place / "home"))
    else:
        monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(place))
    if kind == "full":
        mount(stack, place, "size=4k,nr_inodes=4")
        (place / "filler").write_bytes(b"x" * 4096)
    elif kind == "read-only" and os.geteuid() == 0:
        mount(stack, place, "ro")
    opened = real(name, dsn)
    until(lambda: rows(dsn), "the terminal's row")
    done = opened.run(f"{CLI} claim SD-1")
    assert (done.code, done.err) == (0, "")
    if kind != "missing home":
        assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == ""
        assert not [path for path in place.rglob("*") if path.is_file() and path.name != "filler"]
    opened.type("exit")
    opened.wait()
    assert [row[2] for row in rows(dsn)] == ["released"]
    assert not re.search("error|cannot|space|read-only|denied", opened.seen(), re.I)


def mount(stack: ExitStack, place: Path, options: str) -> None:
    """Mount a file system in memory, until the end of the test."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)


@each_shell_at_length
def test_hooked_shell_starts_no_private_server(real: Open, tmp_path: Path, name: str) -> None:
    # Without a database: the first prompt, and the exit.
    opened = real(name, "", more={"CLAUDE_SESSIONS_DATA_DIR": str(tmp_path / "data")})
    opened.do("true")
    make_due(opened)
    opened.do("true")
    opened.type("exit")
    opened.wait()
    assert not (tmp_path / "data").exists()
