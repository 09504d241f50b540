"""The commands as whole processes: exit codes, plain lines, the JSON envelope, and which stream says what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Cli

SESSION_KEYS = {
    *("id", "session_id", "sd_id", "track", "tty", "pid", "hostname", "codebase", "claimed_at", "heartbeat_at"),
    *("status", "metadata", "created_at", "updated_at"),
    *("label", "liveness", "heartbeat_age_s", "claim_age_s", "expires_in_s", "fence"),
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(cli: Cli, dsn: str) -> Run:
    """Return a function that runs a command as the session `who` and checks what holds for every answer."""

    def call(*argv: str, who: str | None = "a") -> subprocess.CompletedProcess[str]:
        done = cli(*argv, env={"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": who})
        assert "Traceback" not in done.stderr
        if "--json" in argv:
            assert done.stderr == ""
        return done

    return call


def _data(done: subprocess.CompletedProcess[str], command: str, code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    envelope = json.loads(done.stdout)
    assert list(envelope) == ["schema_version", "command", "ok", "data", "error"]
    assert (envelope["schema_version"], envelope["command"], envelope["ok"]) == (1, command, code == 0)
    assert (envelope["error"] is None) == (code == 0)
    if envelope["error"]:
        assert list(envelope["error"]) == ["code", "message", "hint", "holder"]
        return {"data": envelope["data"], **envelope["error"]}
    data = envelope["data"]
    assert isinstance(data, dict)
    return data


def test_claim(run: Run) -> None:
    done = run("claim", "SD-1", "--track", "A")
    assert done.returncode == 0
    assert done.stdout.startswith("claimed SD-1 (track A), fence 1")
    assert done.stderr == ""
    data = _data(run("claim", "SD-1", "--json"), "claim")
    assert (data["outcome"], data["evicted"]) == ("already_yours", None)
    assert set(data["session"]) == SESSION_KEYS
    assert data["fence"] == data["session"]["fence"]
    assert data["session"]["claimed_at"].endswith("Z")


def test_a_refused_claim_names_the_holder(run: Run) -> None:
    run("claim", "SD-1")
    done = run("claim", "SD-1", who="b")
    assert (done.returncode, done.stdout) == (3, "")
    assert "SD-1 is held by a (host" in done.stderr
    assert "claude-sessions list SD-1" in done.stderr
    error = _data(run("claim", "SD-1", "--json", who="b"), "claim", 3)
    assert error["code"] == "held"
    assert set(error["holder"]) == SESSION_KEYS
    assert error["holder"]["session_id"] == "a"


def test_force_needs_a_reason(run: Run) -> None:
    run("claim", "SD-1")
    assert run("claim", "SD-1", "--force", who="b").returncode == 2
    assert run("claim", "SD-1", "--reason", "x", who="b").returncode == 2
    done = run("claim", "SD-1", "--force", "--reason", "a is away", who="b")
    assert done.returncode == 0
    assert "took by force SD-1 from a" in done.stdout
    lost = run("heartbeat")
    assert lost.returncode == 4
    fence = re.search(r"fence (\d+)", done.stdout)
    assert fence
    assert f"lost SD-1 to b under fence {fence[1]} at" in lost.stderr
    assert "forced (a is away)" in lost.stderr


def test_a_claim_tells_of_the_loss_before_it(run: Run) -> None:
    for again in ("SD-1", "SD-2"):
        run("claim", "SD-1", "--switch")
        run("claim", "SD-1", "--force", "--reason", "why", who="b")
        run("release", who="b")
        if again == "SD-1":
            told = run("claim", again)
            assert told.returncode == 0
            assert re.search(r"before this, the session lost SD-1 to b under fence \d+ at .*why", told.stderr)
        else:
            tombstone = _data(run("claim", again, "--json"), "claim")["tombstone"]
            assert (tombstone["sd_id"], tombstone["by"], tombstone["note"]) == ("SD-1", "b", "why")
    assert _data(run("claim", "SD-2", "--json"), "claim")["tombstone"] is None


def test_heartbeat(run: Run) -> None:
    assert run("heartbeat").returncode == 4
    data = _data(run("heartbeat", "--register", "--json"), "heartbeat")
    assert (data["outcome"], data["tombstone"]) == ("registered", None)
    assert set(data["session"]) == SESSION_KEYS
    assert run("heartbeat", "--quiet").stdout == ""
    assert run("heartbeat").stdout == "renewed a\n"


def test_a_lost_claim_is_told_in_json_too(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", who="b")
    lost = _data(run("heartbeat", "--json"), "heartbeat", 4)
    assert lost["code"] == "not_held"
    assert lost["data"]["outcome"] == "lost"
    assert set(lost["data"]["tombstone"]) >= {"sd_id", "fence", "at", "reason", "by"}
    assert lost["data"]["tombstone"]["by"] == "b"


def test_release(run: Run) -> None:
    assert run("release").stdout == "nothing held\n"
    run("claim", "SD-1")
    assert run("release", "SD-1", who="b").returncode == 4
    data = _data(run("release", "SD-1", "--json"), "release")
    assert data["outcome"] == "released"
    assert set(data["session"]) == SESSION_KEYS
    assert run("release", "--end").stdout == "ended a\n"


def test_a_loss_is_told_once_by_release(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", who="b")
    assert run("release").returncode == 4
    assert run("release").returncode == 0


def test_a_person_without_a_session_releases_by_prefix(run: Run) -> None:
    run("claim", "SD-1", who="agent-7")
    done = run("release", "--session", "agent", who=None)
    assert (done.returncode, done.stdout) == (0, "released SD-1\n")
    assert run("heartbeat", who="agent-7").returncode == 4


def test_list_in_a_pipe_is_plain_lines(run: Run) -> None:
    done = run("list", who=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "claude-sessions: no sessions\n")
    run("claim", "SD-1")
    header, line = run("list").stdout.splitlines()
    assert header.split()[:4] == ["STATE", "SD", "TRACK", "SESSION"]
    assert line.split()[:4] == ["YOURS", "SD-1", "-", "a"]
    data = _data(run("list", "--json"), "list")
    assert data["total"] == 1
    assert [set(session) for session in data["sessions"]] == [SESSION_KEYS]
    assert run("list", "SD-2").stdout == ""
    assert run("list", "--mine", who=None).returncode == 5


def test_list_says_what_the_limit_left_out(run: Run) -> None:
    for who in ("a", "b", "c"):
        run("claim", f"SD-{who}", who=who)
    done = run("list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "claude-sessions: 2 more\n"


def test_a_watch_shows_changes_until_nobody_reads(cli: Cli, dsn: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    command = [sys.executable, "-m", "claude_sessions_cli", "list", "--watch", "--interval", "0.05s", "--json"]
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["data"]["total"] == 0
        cli("claim", "SD-1", env=env)
        assert any(json.loads(line)["data"]["total"] == 1 for line in watching.stdout)
        watching.stdout.close()
        assert watching.wait(timeout=30) == 0


def test_reap(run: Run, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    child = sleeper()
    run("claim", "SD-1", "--pid", str(child.pid))
    assert run("reap", who=None).stdout == ""
    kept = run("reap", "--explain", who=None).stdout
    assert kept.startswith("kept a SD-1: its process is alive")
    child.kill()
    child.wait()
    assert run("reap", "--dry-run").stdout.startswith("would be released a SD-1: process gone (process dead,")
    data = _data(run("reap", "--json"), "reap")
    assert data["dry_run"] is False
    [changed] = data["changed"]
    assert set(changed) == {"session", "to", "reason", "evidence"}
    assert (changed["to"], changed["reason"]) == ("released", "process gone")
    assert run("reap").stdout == ""


def test_options_may_stand_before_the_command(run: Run, dsn: str) -> None:
    assert _data(run("--json", "--session", "z", "claim", "SD-1"), "claim")["session"]["session_id"] == "z"
    assert run(f"--dsn={dsn}", "-q", "release", "--session", "z").stdout == ""
    assert _data(run("--json", "schema", "check"), "schema check")["differences"] == []


def test_version_and_help(run: Run) -> None:
    from claude_sessions_cli import __version__

    assert run("--version").stdout == f"claude-sessions {__version__}\n"
    for argv in (("--help",), ("claim", "-h"), ("schema", "--help"), ("db", "stop", "--help")):
        done = run(*argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: claude-sessions")
    assert run().returncode == 2


def test_whoami(run: Run) -> None:
    data = _data(run("whoami", "--json"), "whoami")
    assert set(data) == {"session_id", "anchor", "pid", "tty", "hostname", "codebase", "rules"}
    assert data["session_id"] == "a"
    assert all(set(rule) >= {"rule", "value", "used"} for rule in data["rules"])
    nobody = _data(run("whoami", "--json", who=None), "whoami", 5)
    assert nobody["code"] == "no_identity"
