"""`install cron|systemd|launchd` as whole processes, on a real crontab of nobody else's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from subprocess import Popen

import pytest
from conftest import Cli, Table, make_caller
from crons import Run, private_cron
from runs import PROGRAM

from claude_sessions_cli import crontab, process, rounds, timers
from claude_sessions_cli.operations import sessions

FOREIGN = 'MAILTO=""\n\n# m h  dom mon dow   command\n0 4 * * * echo 50\\% "of it"\t\n'


@pytest.fixture
def in_private_cron(tmp_path: Path) -> Run:
    """Return a function that runs a command where the spool of cron is this test's own."""
    return private_cron(tmp_path)


def _crontab(run: Run) -> str:
    return run("crontab", "-l").stdout


def test_install_adds_one_line_and_remove_restores_crontab(in_private_cron: Run, tmp_path: Path) -> None:
    assert in_private_cron("crontab", "-", input=FOREIGN).returncode == 0
    shown = in_private_cron(*PROGRAM, "install", "cron", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert _crontab(in_private_cron) == FOREIGN
    assert not (tmp_path / ".local").exists()

    done = in_private_cron(*PROGRAM, "install", "cron")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cron: installed\n", "")
    after = _crontab(in_private_cron)
    assert after.startswith(FOREIGN)
    block = after.removeprefix(FOREIGN)
    assert block in shown.stdout
    [line] = [line for line in block.splitlines() if not line.startswith("#")]
    assert line.startswith("* * * * * HOME=") and line.endswith(" upkeep --log >/dev/null 2>&1")
    assert "/upkeep.log\n" in block and str(tmp_path) in line

    again = in_private_cron(*PROGRAM, "install", "cron", "--json")
    assert json.loads(again.stdout)["data"]["outcome"] == "already_installed"
    assert _crontab(in_private_cron) == after

    gone = in_private_cron(*PROGRAM, "install", "cron", "--remove")
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "cron: removed\n", "")
    assert _crontab(in_private_cron) == FOREIGN
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove").stdout == "cron: not installed\n"


def test_remove_leaves_no_crontab_if_there_was_none(in_private_cron: Run) -> None:
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove").stdout == "cron: not installed\n"
    assert in_private_cron(*PROGRAM, "install", "cron", "-q").stdout == ""
    assert crontab.BEGIN in _crontab(in_private_cron)
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove", "--dry-run").returncode == 0
    assert crontab.BEGIN in _crontab(in_private_cron)
    in_private_cron(*PROGRAM, "install", "cron", "--remove")
    assert "no crontab for" in in_private_cron("crontab", "-l").stderr


def test_missing_crontab_program_is_reported(cli: Cli, tmp_path: Path) -> None:
    for options in (["--dry-run"], [], ["--remove"]):
        done = cli("install", "cron", *options, env={"PATH": str(tmp_path)})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1 and "no crontab program" in done.stderr


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'You (me) are not allowed to use this program' >&2; exit 1", "not allowed"),
        ('[ "$1" = -l ] || { cat >/dev/null; echo disk full >&2; exit 1; }', "cannot write the crontab: disk full"),
    ],
    ids=["cannot be read", "cannot be written"],
)
def test_crontab_error_is_quoted_in_one_line(cli: Cli, tmp_path: Path, script: str, said: str) -> None:
    (tmp_path / "crontab").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "crontab").chmod(0o755)
    done = cli("install", "cron", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr


@pytest.mark.parametrize("kind", ["cron", "systemd", "launchd"])
def test_dsn_outside_config_file_is_refused(cli: Cli, tmp_path: Path, kind: str) -> None:
    for argv, env in (
        ([], {"CLAUDE_SESSIONS_DSN": "postgresql://me:s3cret@db/x"}),
        (["--dsn", "postgresql://me:s3cret@db/x"], {}),
    ):
        done = cli("install", kind, *argv, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1 and "config.toml" in done.stderr and "s3cret" not in done.stderr
    assert not (tmp_path / ".config").exists() and not (tmp_path / "Library").exists()


def _tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "place", "names"),
    [
        ("systemd", ".config/systemd/user", {"claude-sessions.service", "claude-sessions.timer"}),
        ("launchd", "Library/LaunchAgents", {"claude-sessions.upkeep.plist"}),
    ],
)
def test_install_writes_only_its_files_and_remove_deletes_them(
    cli: Cli, tmp_path: Path, kind: str, place: str, names: set[str]
) -> None:
    directory = tmp_path / place
    directory.mkdir(parents=True)
    (directory / "other").write_text("mine")
    before = _tree(tmp_path)
    # Without systemctl and launchctl: what this machine runs is none of the test's business.
    env = {"PATH": "/nonexistent"}
    shown = cli("install", kind, "--dry-run", env=env)
    assert shown.returncode == 0 and _tree(tmp_path) == before
    done = cli("install", kind, env=env)
    assert (done.returncode, done.stdout) == (0, f"{kind}: installed\n")
    assert "runs only after: " in done.stderr and done.stderr.count("\n") == 1
    written = _tree(tmp_path)
    assert {Path(name).name for name in written.keys() - before.keys()} == names
    for name in names:
        assert str(directory / name) in shown.stdout
    again = cli("install", kind, "--json", env=env)
    assert json.loads(again.stdout)["data"]["outcome"] == "already_installed"
    assert _tree(tmp_path) == written
    assert cli("install", kind, "--remove", "--dry-run", env=env).returncode == 0
    assert _tree(tmp_path) == written
    assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: removed\n"
    assert _tree(tmp_path) == before
    assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: not installed\n"


UNREACHABLE = {
    "systemd": "Failed to connect to bus: No medium found",
    "launchd": "Boot-out failed: 5: Input/output error",
}
IDLE = {
    "systemd": "Failed to disable unit: Unit file claude-sessions.timer does not exist.",
    "launchd": "Boot-out failed: 3: No such process",
}


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_remove_reports_failed_stop_and_deletes_links(cli: Cli, tmp_path: Path, kind: str) -> None:
    program = tmp_path / {"systemd": "systemctl", "launchd": "launchctl"}[kind]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    wants = tmp_path / ".config/systemd/user/timers.target.wants"
    for said in (UNREACHABLE, IDLE):
        program.write_text(f"#!/bin/sh\necho '{said[kind]}' >&2\nexit 1\n")
        program.chmod(0o755)
        assert cli("install", kind, env=env).returncode == 0
        if kind == "systemd":
            wants.mkdir(exist_ok=True)
            (wants / "claude-sessions.timer").symlink_to("../claude-sessions.timer")
            (wants / "other.timer").touch()
        done = cli("install", kind, "--remove", env=env)
        assert (done.returncode, done.stdout) == (0, f"{kind}: removed\n")
        if said is UNREACHABLE:
            assert done.stderr.count("\n") == 1 and said[kind] in done.stderr and "ends only after: " in done.stderr
        else:
            assert done.stderr == ""
        if kind == "systemd":
            assert [path.name for path in wants.iterdir()] == ["other.timer"]
            assert [path.name for path in wants.parent.iterdir()] == [wants.name]
        assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: not installed\n"


def test_systemd_and_launchd_are_told(cli: Cli, tmp_path: Path) -> None:
    bin_, told = tmp_path / "bin", tmp_path / "told"
    bin_.mkdir()
    for name in ("systemctl", "launchctl"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{told}\n')
        (bin_ / name).chmod(0o755)
    env = {"PATH": f"{bin_}:/usr/bin:/bin"}
    for kind in ("systemd", "launchd"):
        for options in ([], ["--remove"]):
            done = cli("install", kind, *options, env=env)
            assert (done.returncode, done.stderr) == (0, "")
    plist, agent = tmp_path / f"Library/LaunchAgents/{timers.LABEL}.plist", f"gui/{os.getuid()}"
    assert told.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now claude-sessions.timer",
        "systemctl --user disable --now claude-sessions.timer",
        "systemctl --user daemon-reload",
        f"launchctl bootout {agent}/{timers.LABEL}",
        f"launchctl bootstrap {agent} {plist}",
        f"launchctl bootout {agent}/{timers.LABEL}",
    ]


def test_systemd_accepts_units_with_odd_paths(cli: Cli, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    state = tmp_path / '100% "state" $HOME'
    done = cli("install", "systemd", env={"PATH": "/nonexistent", "CLAUDE_SESSIONS_STATE_DIR": str(state)})
    assert done.returncode == 0
    units = tmp_path / ".config/systemd/user"
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir()))],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert str(units) not in checked.stderr and "claude-sessions" not in checked.stderr
    service = (units / "claude-sessions.service").read_text()
    assert f'"CLAUDE_SESSIONS_STATE_DIR={tmp_path}/100%% \\"state\\" $HOME"' in service


# -- what the timers run -----------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory."""
    return tmp_path / "state"


def _upkeep(cli: Cli, state: Path, dsn: str | None) -> subprocess.CompletedProcess[str]:
    return cli("upkeep", env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DSN": dsn})


def test_upkeep_renews_living_and_reaps_dead_and_silent(
    full_table: Table, sleeper: Callable[[], Popen[bytes]], cli: Cli, state: Path
) -> None:
    living, dying = sleeper(), sleeper()
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    for name, pid in (("lives", living.pid), ("dies", dying.pid)):
        caller = make_caller(name, anchor=process.read(pid), now=noon)
        sessions.claim(full_table.database, caller, f"SD-{name}")
    full_table.insert("silent", status="active", sd_id="SD-silent", heartbeat_at=noon)
    dying.kill()
    dying.wait()
    done = _upkeep(cli, state, full_table.dsn)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [text.split(" (")[0] for _, text in lines] == [
        "released dies: process gone",
        "stale silent SD-silent: silent",
    ]
    assert all(datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ") for at, _ in lines)
    assert full_table.row("lives")["heartbeat_at"] > noon
    run = rounds.last_run(state)
    assert run is not None and run.error is None
    quiet = _upkeep(cli, state, full_table.dsn)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_upkeep_prints_failure_with_time_and_records_it(cli: Cli, state: Path) -> None:
    done = _upkeep(cli, state, "host=/nonexistent")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("\n") == 1 and "Z cannot connect to the database" in done.stderr
    run = rounds.last_run(state)
    assert run is not None and run.error is not None and "cannot connect" in run.error


def test_upkeep_never_starts_the_private_server(cli: Cli, state: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = cli("upkeep", env={"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_DATA_DIR": str(data)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not data.exists()
    assert rounds.last_run(state) is not None


def test_upkeep_exits_if_another_run_is_active(cli: Cli, state: Path) -> None:
    with rounds.only_one(state) as first:
        assert first
        done = _upkeep(cli, state, "host=/nonexistent")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert rounds.last_run(state) is None


def test_upkeep_rotates_its_log(cli: Cli, state: Path) -> None:
    state.mkdir()
    (state / "upkeep.log").write_bytes(b"x" * (rounds.LOG_LIMIT + 1))
    _upkeep(cli, state, "host=/nonexistent")
    assert not (state / "upkeep.log").exists()
    assert (state / "upkeep.log.1").stat().st_size == rounds.LOG_LIMIT + 1


def test_cron_line_recreates_directory_and_log(state: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('dsn = "host=/nonexistent"')
    variables = {"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_CONFIG": str(config)}

    def run(*words: str) -> None:
        line = timers.cron_line(timers.Job((*words, "upkeep"), variables, state)).removeprefix("* * * * * ")
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
        # Whatever a job says is sent by mail, each minute.
        assert (done.stdout, done.stderr) == ("", "")

    run(*PROGRAM)
    run(*PROGRAM)
    log = state / "upkeep.log"
    assert [" cannot connect to the database" in line for line in log.read_text().splitlines()] == [True, True]
    assert log.stat().st_mode & 0o777 == 0o600
    before = _tree(tmp_path)
    run("/nonexistent/claude-sessions")
    assert _tree(tmp_path) == before
    # A log that cannot be written keeps nobody from being kept.
    log.unlink()
    log.mkdir()
    (state / "upkeep.json").unlink()
    run(*PROGRAM)
    assert rounds.last_run(state) is not None


def test_upkeep_is_hidden_in_help(cli: Cli) -> None:
    shown = cli("--help").stdout
    assert "upkeep" not in shown and " install " in shown


def test_upkeep_gives_up_on_hanging_server(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        code = (
            "import sys; from claude_sessions_cli.commands import upkeep; upkeep.PATIENCE_S = 1;"
            " from claude_sessions_cli import cli; sys.argv = ['claude-sessions', 'upkeep']; cli.main()"
        )
        state.mkdir()
        (state / "upkeep.log").write_bytes(b"x" * (rounds.LOG_LIMIT + 1))
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
    assert not (state / "upkeep.log").exists(), "nor does a run that gives up let the log grow"
    run = rounds.last_run(state)
    assert run is not None and run.error is not None
