"""Who starts the private server: a foreground command; a timer after a reboot, not after `db stop`; never a hook."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from commands.answers import data_of
from conftest import Cli

from claude_sessions_cli import as_text
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from claude_sessions_cli.removal import SERVER, Removal
from embedded.control import kill_all, newest, start

# What a hooked shell and an agent run, with the options of hook.bash and hook.sh.
HOOKS = [
    ["heartbeat", "--register", "--quiet", "--within", "20", "--session", "a"],
    ["release", "--end", "--quiet", "--within", "20", "--session", "a"],
    ["hook", "SessionStart"],
    ["hook", "SessionEnd", "--background"],
    ["hook", "PostToolUse", "--background"],
    ["hook", "statusLine", "--background"],
    ["prompt"],
]


def is_running() -> bool:
    return embedded.status().running


@pytest.mark.parametrize("argv", HOOKS, ids=lambda argv: " ".join(argv[:2]))
def test_hook_creates_no_private_server(home: Path, cli: Cli, argv: list[str]) -> None:
    given = '{"session_id": "a", "reason": "exit", "source": "startup"}'
    env = {"CLAUDE_PID": str(os.getpid()), "CLAUDE_CODE_SESSION_ID": "a"}
    done = cli(*argv, env=env, stdin=None, input=given)
    assert done.returncode in (0, 6) and done.stdout == ""
    assert not home.parent.exists()


def test_stopped_server_stays_stopped_until_a_command(made: Path, cli: Cli) -> None:
    start()
    assert cli("db", "stop").stdout == "stopped\n"
    for argv in (*HOOKS[:2], ["upkeep"], ["db", "status"], ["whoami", "--session", "a"]):
        cli(*argv)
        assert not is_running(), argv
    assert "no, by db stop" in cli("db", "status").stdout
    assert data_of(cli("db", "status", "--json"), "db status")["stopped"] is True
    assert cli("list").returncode == 0
    assert is_running() and not (made / "stopped").exists()


@pytest.mark.faults
def test_uninstall_reports_server_as_stopped(made: Path, cli: Cli) -> None:
    start()
    assert f"would stop the server in {made}" in cli("uninstall", "--dry-run").stdout.splitlines()
    assert is_running()
    assert as_text.removals_text([Removal(SERVER, str(made))], dry_run=False) == [f"stopped the server in {made}"]


def test_timer_starts_killed_server_and_creates_none(made: Path, cli: Cli) -> None:
    dsn, pid = start()
    kill_all(dsn, pid)
    assert cli(*HOOKS[0]).returncode == 6
    assert not is_running()
    done = cli("upkeep")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert is_running()
    missing = made.parent / "missing"
    assert cli("upkeep", env={"CLAUDE_SESSIONS_DATA_DIR": str(missing)}).returncode == 0
    assert not missing.exists()


@pytest.mark.faults
def test_stop_that_fails_leaves_no_mark(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "STOP_SECONDS", 0.0)
        patch.setattr(embedded, "_listener", lambda paths: None)
        with pytest.raises(Unreachable, match="still held"):
            embedded.stop()
    assert not (made / "stopped").exists()


@pytest.mark.faults
def test_dsn_of_stopped_server_says_so(made: Path, cli: Cli) -> None:
    done = cli("db", "dsn")
    assert (done.returncode, done.stdout) == (0, f"{embedded.dsn()}\n")
    assert "the private server is not running (start it: claude-sessions db start)" in done.stderr
    assert data_of(cli("db", "dsn", "--json"), "db dsn")["running"] is False
    assert cli("db", "dsn", "--quiet").stderr == ""
    start()
    assert cli("db", "dsn").stderr == ""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("env", "source", "line"),
    [
        ({}, "no rule", "in use: +yes"),
        ({"CLAUDE_SESSIONS_DSN": "host=x"}, "CLAUDE_SESSIONS_DSN", "in use: +no: .* of CLAUDE_SESSIONS_DSN"),
        ({"PGHOST": "x"}, "libpq's environment", "in use: +no: .* of libpq's environment"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "1s"}, None, "in use: +no: stale_after"),
    ],
)
def test_status_shows_whether_the_server_is_used_and_why(
    home: Path, cli: Cli, env: dict[str, str], source: str | None, line: str
) -> None:
    data = data_of(cli("db", "status", "--json", env=env), "db status")
    assert (data["in_use"], data["source"]) == (not env, source)
    assert (data["problem"] is None) == (source is not None)
    assert re.search(line, cli("db", "status", env=env).stdout)


@pytest.mark.faults
def test_db_start_works_with_another_database_configured(made: Path, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": "host=x"}
    done = data_of(cli("db", "start", "--json", env=env), "db start")
    assert (done["running"], done["in_use"], done["version"]) == (True, False, newest())
