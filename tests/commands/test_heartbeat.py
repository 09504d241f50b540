"""`heartbeat`, with and without `--here`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.times import fence_of
from commands.answers import SESSION_KEYS, Inside, Run, data_of, failed


def test_here_needs_no_identity(table: Table, sleeper: Sleeper, cli: Cli) -> None:
    child, other = sleeper(), sleeper()
    claim(table.database, make_caller("a", anchor=process.read(child.pid)), "SD-1")
    claim(table.database, make_caller("b", anchor=process.read(other.pid)), "SD-2")
    child.kill()
    child.wait()
    env = {"CLAUDE_SESSIONS_DSN": table.dsn}
    done = cli("heartbeat", "--here", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["command"], answer["ok"]) == ("heartbeat", True)
    assert set(answer["data"]) == {"renewed", "released", "refused"}
    assert answer["data"]["renewed"] == 1
    [released] = answer["data"]["released"]
    assert (released["session_id"], released["status"], released["label"]) == ("a", "released", "ENDED")
    other.kill()
    other.wait()
    assert cli("heartbeat", "--here", env=env).stdout == "renewed 0 sessions\nreleased b SD-2: process gone\n"
    quiet = cli("heartbeat", "--here", "--quiet", env=env)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "option", [["--register"], ["--session", "a"], ["--pid", "1"], ["--tty", "/dev/pts/1"], ["--if-older-than", "30s"]]
)
def test_here_refuses_options_about_one_session(cli: Cli, tmp_path: Path, option: list[str]) -> None:
    done = cli("heartbeat", "--here", *option, env={"CLAUDE_SESSIONS_DSN": f"host={tmp_path}/missing"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--here" in done.stderr


def test_younger_heartbeat_prints_fresh(table: Table, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn}
    assert cli("claim", "SD-1", "--session", "a", env=env).returncode == 0
    done = cli("heartbeat", "--session", "a", "--if-older-than", "10m", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fresh a, holding SD-1\n", "")
    done = cli("heartbeat", "--session", "a", "--if-older-than", "soon", env=env)
    assert done.returncode == 2 and "not a duration" in done.stderr


def test_heartbeat_registers_and_renews(run: Run) -> None:
    assert run("heartbeat").returncode == 4
    data = data_of(run("heartbeat", "--register", "--json"), "heartbeat")
    assert (data["outcome"], data["tombstone"]) == ("registered", None)
    assert set(data["session"]) == SESSION_KEYS
    assert run("heartbeat", "--quiet").stdout == ""
    assert run("heartbeat").stdout == "renewed a\n"


def test_lost_claim_is_reported_in_json(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", session="b")
    lost = data_of(run("heartbeat", "--json"), "heartbeat", 4)
    assert lost["code"] == "not_held"
    assert lost["data"]["outcome"] == "lost"
    assert set(lost["data"]["tombstone"]) >= {"sd_id", "fence", "at", "reason", "by"}
    assert lost["data"]["tombstone"]["by"] == "b"


def test_item_given_by_another_program_is_named(table: Table, inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("claim", "SD-1", env=env).returncode == 0
    table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-9', claimed_at = clock_timestamp()")
    for argv in (
        ["check"],
        ["park", "1m"],
        ["heartbeat"],
        ["check"],
        ["run", "SD-9", "--", "true"],
        ["release", "SD-1"],
    ):
        failed(inside(*argv, env=env), 4, "lost SD-1 .*: cleared by another program; it holds SD-9 now")
    assert inside("claim", "SD-9", env=env).returncode == 0
    assert inside("heartbeat", env=env).stdout == "renewed a, holding SD-9\n"


def test_new_fence_of_another_program_is_named_once(table: Table, inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("claim", "SD-1", env=env).returncode == 0
    table.execute("UPDATE public.claude_sessions SET claimed_at = clock_timestamp()")
    fence = fence_of(table.row("a")["claimed_at"])
    assert inside("heartbeat", env=env).stdout == f"renewed a, holding SD-1 under the new fence {fence}\n"
    assert inside("heartbeat", env=env).stdout == "renewed a, holding SD-1\n"
