"""`list`: plain lines, limits and watching."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from conftest import Cli

from commands.answers import SESSION_KEYS, Run, data_of


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
    assert run("list", "SD-2").stdout == ""
    assert run("list", "--mine", session=None).returncode == 5


def test_list_counts_sessions_beyond_limit(run: Run) -> None:
    for session in ("a", "b", "c"):
        run("claim", f"SD-{session}", session=session)
    done = run("list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "claude-sessions: 2 more\n"


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
