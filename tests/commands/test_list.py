"""`list`: plain lines, limits and watching."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import Cli
from terminal import bare, on_terminal

from claude_sessions_cli.text import width_of
from commands.answers import SESSION_KEYS, Run, data_of, execute


def test_list_in_a_pipe_is_plain_lines(run: Run) -> None:
    done = run("list", session=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "claude-sessions: no sessions\n")
    run("claim", "SD-1")
    header, line = run("list").stdout.splitlines()
    assert header.split()[:4] == ["STATE", "SD", "TRACK", "SESSION"]
    assert line.split()[:4] == ["YOURS", "SD-1", "-", "a"]
    data = data_of(run("list", "--json"), "list")
    assert data["total"] == 1
    assert [set(session) for session in data["sessions"]] == [SESSION_KEYS]
    done = run("list", "SD-2", "SD-1", "SD-3")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "claude-sessions: SD-2 is free\nclaude-sessions: SD-3 is free\n"
    assert run("list", "SD-2", "--track", "A").stderr == "claude-sessions: no sessions\n"
    assert run("list", "--mine", session=None).returncode == 5


def test_list_counts_sessions_beyond_limit(run: Run) -> None:
    for session in ("a", "b", "c"):
        run("claim", f"SD-{session}", session=session)
    done = run("list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "claude-sessions: 2 more\n"


def test_columns_are_chosen_and_wrong_ones_refused(run: Run) -> None:
    run("claim", "SD-1")
    lines = run("list", "--columns", "sd,SESSION,fence").stdout.splitlines()
    assert lines[0].split() == ["SD", "SESSION", "FENCE"]
    assert lines[1].split()[:2] == ["SD-1", "a"]
    assert run("list", "--columns", "sd", "--columns", "SESSION,fence").stdout.splitlines() == lines
    for option in ("--columns", "--sort"):
        done = run("list", option, "-hots" if option == "--sort" else "hots")
        assert done.returncode == 2 and "did you mean host?" in done.stderr
    for options in (("--json", "--jsonl"), ("--columns", "sd", "--json"), ("--columns", "sd", "--jsonl")):
        done = run("list", *options)
        assert done.returncode == 2 and "cannot be combined" in done.stdout + done.stderr


def test_jsonl_prints_a_session_on_each_line(run: Run) -> None:
    for session in ("a", "b"):
        run("claim", f"SD-{session}", session=session)
    lines = [json.loads(line) for line in run("list", "--jsonl").stdout.splitlines()]
    assert [(line["session_id"], set(line)) for line in lines] == [("a", SESSION_KEYS), ("b", SESSION_KEYS)]


@pytest.mark.parametrize(
    "more", [{}, *(pytest.param(more, marks=pytest.mark.faults) for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}))]
)
def test_terminal_gets_a_footer_and_plain_lines_on_request(run: Run, dsn: str, more: dict[str, str]) -> None:
    for session in ("a", "b", "c"):
        run("claim", f"SD-{session}", session=session)
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a", **more}
    shown = on_terminal("list", "--limit", "2", env=env, columns=300)
    # A dumb terminal has 80 columns, which cut the footer.
    assert "1 YOURS, 2 LIVE (" in shown and ("from CLAUDE_SESSIONS_DSN)" in shown or "…" in shown)
    assert shown.endswith("claude-sessions: 1 more\n")
    assert ("32mYOURS" in shown) == (not more)
    plain = on_terminal("list", "--plain", env=env)
    assert "\x1b[" not in plain and "1 YOURS" not in plain and len(plain.splitlines()) == 4


@pytest.mark.parametrize(
    "columns", [60, *(pytest.param(columns, marks=pytest.mark.faults) for columns in (40, 80, 120, 200))]
)
def test_rows_and_footer_fit_their_terminal(run: Run, dsn: str, columns: int) -> None:
    run("claim", "SD-AUTH-001", "--track", "A", "--note", "wide \u6f22\u5b57 and right-to-left \u05d0\u05d1")
    run("claim", "SD-2", session="4f9c2a7e-1b2c-4d3e-8f90-123456789abc")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a", "NO_COLOR": "1"}
    lines = bare(on_terminal("list", env=env, columns=columns))
    assert len(lines) == 4
    assert max(map(width_of, lines)) <= columns
    assert lines[1].split()[:2] == ["YOURS", "SD-AUTH-001"]
    if columns > 40:
        whole = bare(on_terminal("list", "--wide", env=env, columns=columns))
        assert "4f9c2a7e-1b2c-4d3e-8f90-123456789abc" in whole[2]


def test_watch_survives_the_end_of_its_connection(dsn: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn}
    command = [sys.executable, "-m", "claude_sessions_cli", "list", "--watch", "--interval", "0.05s", "--json"]
    with subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        assert json.loads(watching.stdout.readline())["ok"]
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'claude-sessions'"
        execute(dsn, f"{ended} AND datname = current_database()")
        execute(dsn, "INSERT INTO claude_sessions (session_id) VALUES ('after')")
        assert any(json.loads(line)["data"]["total"] == 1 for line in watching.stdout)
        watching.stdout.close()
        assert watching.wait(timeout=30) == 0


def test_watch_prints_changes_until_reader_closes(cli: Cli, dsn: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    command = [sys.executable, "-m", "claude_sessions_cli", "list", "--watch", "--interval", "0.05s", "--json"]
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["data"]["total"] == 0
        cli("claim", "SD-1", env=env)
        assert any(json.loads(line)["data"]["total"] == 1 for line in watching.stdout)
        watching.stdout.close()
        assert watching.wait(timeout=30) == 0
