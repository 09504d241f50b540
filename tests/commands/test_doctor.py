"""The command `doctor`: each check on a line, with what mends it."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Table, make_caller, needs_open_checkout
from terminal import bare, on_terminal
from wire import Fault, Wire

from claude_sessions_cli import cli as program
from claude_sessions_cli import surroundings
from claude_sessions_cli.as_text import MARKS
from claude_sessions_cli.embedded import cluster, server
from claude_sessions_cli.operations.doctor import Finding, Verdict
from claude_sessions_cli.settings import Settings
from claude_sessions_cli.text import width_of
from claude_sessions_cli.timers import upkeep_log
from commands.answers import Inside, apply_schema, data_of, execute, failed


def _findings(done: Any, code: int = 0) -> dict[str, dict[str, Any]]:
    data = data_of(done, "doctor", code)
    return {found["check"]: found for found in data.get("data", data)["findings"]}


def test_healthy_database_exits_0(full_table: Table, cli: Cli) -> None:
    done = cli("doctor", env={"CLAUDE_SESSIONS_DSN": full_table.dsn})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "OK       connection: from CLAUDE_SESSIONS_DSN"
    assert not any(line.startswith("FAILURE") for line in lines)


def test_failed_check_exits_7_after_all_are_made(fresh_database: Callable[..., str], inside: Inside) -> None:
    dsn = apply_schema(fresh_database())
    execute(dsn, "DROP INDEX idx_claude_sessions_sd")
    env = {"CLAUDE_SESSIONS_DSN": dsn}
    done = inside("doctor", env=env)
    assert done.returncode == 7
    assert done.stderr == "claude-sessions: 1 check failed (mend it as shown)\n"
    assert "FAILURE  schema: 001_claude_sessions.sql: index idx_claude_sessions_sd is missing" in done.stdout
    assert "         mend: claude-sessions schema apply" in done.stdout
    assert "timer: " in done.stdout
    assert _findings(inside("doctor", "--json", env=env), 7)["schema"]
    for command in (["doctor"], ["schema", "check"]):
        assert "mend: claude-sessions schema apply --dsn DSN\n" in inside(*command, "--dsn", dsn).stdout
    assert inside("schema", "apply", env=env).returncode == 0
    assert inside("doctor", env=env).returncode == 0


def test_unreachable_database_leaves_the_other_checks(cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": "host=127.0.0.1 port=1"}
    done = cli("doctor", env=env)
    assert done.returncode == 6
    assert done.stdout.startswith("FAILURE  connection: cannot connect to the database from CLAUDE_SESSIONS_DSN")
    assert "timer: " in done.stdout and "agent hooks: " in done.stdout
    assert done.stderr.startswith("claude-sessions: cannot connect") and done.stderr.count("\n") == 1
    assert _findings(cli("doctor", "--json", env=env), 6)["connection"]["verdict"] == "failure"


def test_server_that_goes_away_is_a_failure(full_table: Table, inside: Inside) -> None:
    with Wire(full_table.dsn) as wire:
        wire.arm(Fault("cut before", 1))
        found = _findings(inside("doctor", "--json", env={"CLAUDE_SESSIONS_DSN": wire.dsn}), 7)
    assert found["server"]["verdict"] == "failure"
    assert found["schema"]["verdict"] == "skipped" and found["timer"]


def test_timer_that_failed_or_stopped_is_a_warning(
    full_table: Table, inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "_timers", lambda environ: ["cron"])
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path)}

    def timer() -> str:
        return str(_findings(inside("doctor", "--json", env=env))["timer"]["text"])

    assert timer() == "cron: it has not run yet"
    upkeep_log.record_run(tmp_path, "no route")
    assert timer() == "cron: its last run failed: no route"
    upkeep_log.record_run(tmp_path, None)
    assert timer().startswith("cron, last ran ")
    (tmp_path / "upkeep.json").write_text(json.dumps({"at": "2026-01-01T00:00:00+00:00", "error": None}))
    assert timer().startswith("cron: it last ran ")


def test_malformed_settings_leave_the_other_checks(inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": "host=127.0.0.1 port=1", "CLAUDE_SESSIONS_STALE_AFTER": "60s"}
    done = inside("doctor", env=env)
    assert done.returncode == 2
    settings = "FAILURE  settings: stale_after (60s) is shorter than three heartbeats (60s each)"
    assert done.stdout.splitlines()[0] == settings
    assert "timer: " in done.stdout and "connection: " not in done.stdout
    assert _findings(inside("doctor", "--json", env=env), 2)["settings"]["verdict"] == "failure"


def test_refused_state_directory_is_a_warning(full_table: Table, inside: Inside, tmp_path: Path) -> None:
    open_to_all = tmp_path / "state"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_STATE_DIR": str(open_to_all)}
    found = _findings(inside("doctor", "--json", env=env))["state"]
    assert found["verdict"] == "warning" and found["text"].startswith(f"{open_to_all} is not used: ")
    assert inside("status", env=env).returncode == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory that this process may read and not write, with a configuration."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.toml").write_text('dsn = "host=127.0.0.1 port=1"')
        (Path(directory) / "config.toml").chmod(0o644)
        Path(directory).chmod(0o555)
        # Root may write it.
        root = os.geteuid() == 0
        if root:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            yield Path(directory)
        finally:
            if root:
                os.seteuid(0)


@needs_open_checkout
@pytest.mark.parametrize(
    ("below", "reason"),
    [
        ("config.toml/state", "Not a directory"),
        pytest.param("", "Permission denied", marks=pytest.mark.faults),
        pytest.param("missing/state", "Permission denied", marks=pytest.mark.faults),
        pytest.param("/proc/missing", "No such file or directory", marks=pytest.mark.faults),
    ],
)
def test_unusable_state_directory_is_reported(inside: Inside, place: Path, below: str, reason: str) -> None:
    state = place / below
    env = {
        "CLAUDE_SESSIONS_CONFIG": str(place / "config.toml"),
        "CLAUDE_SESSIONS_STATE_DIR": str(state),
        "HOME": str(place),
    }
    refused = failed(inside("upkeep", env=env), 2, f"cannot use {state}: {reason} ")
    found = _findings(inside("doctor", "--json", env=env), 6)["state"]
    assert found["verdict"] == "warning"
    assert refused == f"claude-sessions: {found['text']} ({found['mend']})"
    shown = inside("status", env=env).stdout
    assert f"cannotuse{state}:{reason}".replace(" ", "") in "".join(shown.split())
    assert data_of(inside("status", "--json", env=env), "status", 6)["data"]["state_error"] == found["text"]
    for kind in ("cron", "systemd" if sys.platform == "linux" else "launchd"):
        for option in ((), ("--dry-run",)):
            assert failed(inside("install", kind, *option, env=env), 2, "cannot use") == refused


def test_private_server_is_named_with_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = datetime.now(timezone.utc) - timedelta(days=2, minutes=1)
    state = server.Status(True, False, 1, tmp_path, tmp_path, tmp_path, "16", began)
    monkeypatch.setattr(server, "status", lambda: state)
    who, used = make_caller("a").identity, make_caller("a").settings

    def found(settings: Settings | None, *installed: str) -> Finding | None:
        monkeypatch.setattr(cluster, "installed", lambda: dict.fromkeys(installed, tmp_path))
        findings = surroundings.diagnose(os.environ, who, settings)
        return next((one for one in findings if one.check == "private server"), None)

    text = f"Postgres 16 in {tmp_path}, up for 2d0h"
    assert found(used, "16") == Finding("private server", Verdict.OK, text)
    elsewhere = used._replace(dsn="service=work")
    assert found(elsewhere, "16") == Finding("private server", Verdict.OK, f"{text}; not used here")
    upgrade = "claude-sessions db upgrade"
    assert found(used, "16", "18") == Finding(
        "private server", Verdict.WARNING, f"{text}; Postgres 18 is installed", upgrade
    )
    state = replace(state, running=False)
    assert found(used, "16") == Finding(
        "private server", Verdict.WARNING, f"none runs in {tmp_path}", "claude-sessions db start"
    )
    assert found(elsewhere, "16") is None


def test_agent_hooks_are_found(full_table: Table, inside: Inside, tmp_path: Path) -> None:
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_CONFIG_DIR": str(tmp_path)}
    assert inside("install", "claude", env=env).returncode == 0
    found = _findings(inside("doctor", "--json", env=env))["agent hooks"]
    assert found["text"].startswith(f"in {tmp_path / 'settings.json'}, ")


def test_disabled_hooks_are_a_warning(full_table: Table, inside: Inside, tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    (project / ".claude").mkdir(parents=True)
    env = {
        "CLAUDE_SESSIONS_DSN": full_table.dsn,
        "CLAUDE_CONFIG_DIR": str(home),
        "CLAUDE_PROJECT_DIR": str(project),
    }
    assert inside("install", "claude", env=env).returncode == 0
    # A setting of the project turns off the hooks of the user.
    shared, own = project / ".claude" / "settings.json", project / ".claude" / "settings.local.json"
    shared.write_text('{"disableAllHooks": true}')
    found = _findings(inside("doctor", "--json", env=env))["agent hooks"]
    assert (found["verdict"], found["mend"]) == ("warning", f"remove disableAllHooks from {shared}")
    assert found["text"].endswith(f"; off: {shared} sets disableAllHooks")
    assert "setsdisableAllHooks" in "".join(inside("status", env=env).stdout.split())
    assert data_of(inside("status", "--json", env=env), "status")["hooks_disabled_in"] == str(shared)
    own.write_text('{"disableAllHooks": false}')
    assert _findings(inside("doctor", "--json", env=env))["agent hooks"]["verdict"] == "ok"


def test_each_mending_command_exists(full_table: Table, seed_dsn: str, inside: Inside) -> None:
    commands = []
    for dsn in (full_table.dsn, seed_dsn):
        findings = data_of(inside("doctor", "--json", env={"CLAUDE_SESSIONS_DSN": dsn}), "doctor")["findings"]
        commands += [found["mend"] for found in findings if (found["mend"] or "").startswith("claude-sessions ")]
    assert commands
    for command in commands:
        name = shlex.split(command)[1]
        assert name in program.COMMANDS, command


@pytest.mark.parametrize(
    "columns", [40, *(pytest.param(columns, marks=pytest.mark.faults) for columns in (60, 80, 120, 200))]
)
def test_lines_fit_a_terminal_whole_words(dsn: str, columns: int) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    lines = bare(on_terminal("doctor", env=env, columns=columns))
    assert max(map(width_of, lines)) <= columns
    assert {line[:9].strip() for line in lines} <= {"", *MARKS.values()}
