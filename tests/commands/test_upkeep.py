"""`upkeep`, which timers run each minute, as a whole process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from subprocess import Popen

import pytest
from conftest import Cli, Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.files import LOG_LIMIT
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.timers import upkeep_log
from commands.answers import Inside


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory."""
    return tmp_path / "state"


def _upkeep(cli: Cli, state: Path, dsn: str | None, *options: str) -> subprocess.CompletedProcess[str]:
    return cli("upkeep", *options, env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DSN": dsn})


def test_upkeep_renews_living_and_reaps_dead_and_silent(
    full_table: Table, sleeper: Callable[[], Popen[bytes]], cli: Cli, state: Path
) -> None:
    living, dying = sleeper(), sleeper()
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    for name, pid in (("lives", living.pid), ("dies", dying.pid)):
        caller = make_caller(name, anchor=process.read(pid), now=noon)
        claim(full_table.database, caller, f"SD-{name}")
    full_table.insert("silent", status="active", sd_id="SD-silent", heartbeat_at=noon)
    dying.kill()
    dying.wait()
    done = _upkeep(cli, state, full_table.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [text.split(" (")[0] for _, text in lines] == [
        "released dies SD-dies: process gone",
        "stale silent SD-silent: silent",
    ]
    assert all(datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ") for at, _ in lines)
    assert full_table.row("lives")["heartbeat_at"] > noon
    run = upkeep_log.last_run(state)
    assert run is not None and run.error is None
    quiet = _upkeep(cli, state, full_table.dsn)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_upkeep_here_judges_no_session_elsewhere(full_table: Table, sleeper: Sleeper, cli: Cli, state: Path) -> None:
    dying = sleeper()
    claim(full_table.database, make_caller("dies", anchor=process.read(dying.pid)), "SD-1")
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    full_table.insert("silent", status="active", sd_id="SD-2", heartbeat_at=noon)
    dying.kill()
    dying.wait()
    done = _upkeep(cli, state, full_table.dsn, "--here")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "released dies SD-1: process gone" in done.stdout
    assert full_table.row("silent")["sd_id"] == "SD-2"


def test_upkeep_goes_on_after_refused_rows(full_table: Table, sleeper: Sleeper, inside: Inside, state: Path) -> None:
    child = sleeper()
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    for name in ("lives", "bad"):
        claim(full_table.database, make_caller(name, anchor=process.read(child.pid), now=noon), f"SD-{name}")
    full_table.insert("silent\nreleased x", status="active", sd_id="SD-s", heartbeat_at=noon)
    full_table.insert("bad-silent", status="active", sd_id="SD-b", heartbeat_at=noon)
    full_table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id !~ 'bad') NOT VALID")
    try:
        done = inside("upkeep", env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DSN": full_table.dsn})
    finally:
        full_table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")
    texts = [[line.split(" ", 1)[1] for line in stream.splitlines()] for stream in (done.stdout, done.stderr)]
    assert done.returncode == 7
    assert [line.partition(" (")[0] for line in texts[0]] == ["stale silent released x SD-s: silent"]
    assert [line.partition(": ")[0] for line in texts[1]] == ["refused bad SD-bad", "refused bad-silent SD-b"]
    assert full_table.row("lives")["heartbeat_at"] > noon
    run = upkeep_log.last_run(state)
    assert run is not None and run.error is not None and run.error.startswith("the table refused a change: ")


def test_upkeep_reaps_although_heartbeats_are_denied(
    full_table: Table, sleeper: Sleeper, inside: Inside, state: Path
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    claim(full_table.database, make_caller("lives", anchor=process.read(sleeper().pid), now=noon), "SD-1")
    full_table.insert("silent", status="active", sd_id="SD-s", heartbeat_at=noon)
    # Renewals alone are refused as a whole.
    full_table.execute(
        "CREATE FUNCTION public.closed() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF current_query() ~ 'AS seen' THEN RAISE 'closed'; END IF; RETURN NULL; END $$"
    )
    full_table.execute(
        "CREATE TRIGGER closed BEFORE UPDATE OF heartbeat_at ON public.claude_sessions EXECUTE FUNCTION public.closed()"
    )
    try:
        done = inside("upkeep", env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DSN": full_table.dsn})
    finally:
        full_table.execute("DROP FUNCTION public.closed CASCADE")
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (8, 1, 1), done
    assert " stale silent SD-s: silent" in done.stdout and done.stderr.endswith(
        "closed (list the triggers: claude-sessions schema check)\n"
    )


def test_upkeep_prints_failure_with_time_and_records_it(cli: Cli, state: Path) -> None:
    done = _upkeep(cli, state, f"host={state}/missing")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("\n") == 1 and "Z cannot connect to the database" in done.stderr
    run = upkeep_log.last_run(state)
    assert run is not None and run.error is not None and "cannot connect" in run.error


def test_upkeep_never_creates_the_private_server(cli: Cli, state: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = cli("upkeep", env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DATA_DIR": str(data)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not data.exists()
    assert upkeep_log.last_run(state) is not None


@pytest.mark.parametrize("planted", ["open directory", "pipe", "link"])
def test_upkeep_refuses_what_strangers_may_have_put_there(cli: Cli, state: Path, planted: str) -> None:
    state.mkdir(mode=0o700)
    lock, precious = state / "upkeep.lock", state / "precious"
    precious.touch()
    if planted == "open directory":
        state.chmod(0o777)
    elif planted == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(precious)
    done = _upkeep(cli, state, f"host={state}/missing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert str(state) in done.stderr
    assert not (state / "upkeep.json").exists()


def test_upkeep_exits_if_another_run_is_active(cli: Cli, state: Path) -> None:
    with upkeep_log.run_lock(state) as first:
        assert first
        done = _upkeep(cli, state, f"host={state}/missing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert upkeep_log.last_run(state) is None


def test_upkeep_rotates_its_log(cli: Cli, state: Path) -> None:
    state.mkdir()
    (state / "upkeep.log").write_bytes(b"x" * (LOG_LIMIT + 1))
    _upkeep(cli, state, f"host={state}/missing")
    assert not (state / "upkeep.log").exists()
    assert (state / "upkeep.log.1").stat().st_size == LOG_LIMIT + 1


def test_upkeep_is_hidden_in_help(cli: Cli) -> None:
    shown = cli("--help").stdout
    assert "upkeep" not in shown and " install " in shown


def test_upkeep_gives_up_on_hanging_server(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        code = (
            "import sys; from claude_sessions_cli.commands import upkeep; upkeep.TIMEOUT_S = 1;"
            " from claude_sessions_cli import cli; sys.argv = ['claude-sessions', 'upkeep']; cli.main()"
        )
        state.mkdir()
        (state / "upkeep.log").write_bytes(b"x" * (LOG_LIMIT + 1))
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "CLAUDE_SESSIONS_STATE_DIR": str(state),
                "CLAUDE_SESSIONS_DSN": f"host=127.0.0.1 port={port} connect_timeout=60",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (6, "")
    assert "has not answered for 1 seconds" in done.stderr
    assert time.monotonic() - begin < 30
    assert not (state / "upkeep.log").exists(), "a run that gives up rotates the log too"
    run = upkeep_log.last_run(state)
    assert run is not None and run.error is not None
