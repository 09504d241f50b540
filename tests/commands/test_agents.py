"""Agents as whole processes: one id in two of them, one of them with two ids, and callers that have no process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Sleeper, Table, dsn_of
from requirements import needs
from run_bench import PROGRAM, only_linux
from terminal import environment

# Runs the commands that it reads, as the tool calls of an agent.
AGENT = """
import json, subprocess, sys
for line in sys.stdin:
    call = json.loads(line)
    done = subprocess.run(call["argv"], env=call["env"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


class Agent:
    """A process named `claude`, without a terminal, that runs commands below it."""

    def __init__(self, directory: Path, dsn: str, prefix: Sequence[str] = ()) -> None:
        self._env = environment(directory, {"CLAUDE_SESSIONS_DSN": dsn})
        named = [*prefix, "bash", "-c", 'exec -a claude "$0" -c "$1"', sys.executable, AGENT]
        self._process = subprocess.Popen(
            named, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._env, start_new_session=True
        )

    def run(self, *argv: str, session: str = "conversation") -> tuple[int, str, str]:
        """Run a command of the tool in a conversation; return its exit code and output."""
        env = {**self._env, "CLAUDE_CODE_SESSION_ID": session}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"argv": [*PROGRAM, *argv], "env": env}) + "\n")
        self._process.stdin.flush()
        code, out, err = json.loads(self._process.stdout.readline())
        return code, out, err

    def end(self) -> None:
        """End it, as a closed window does."""
        self._process.kill()
        self._process.communicate()


Start = Callable[..., Agent]


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@pytest.fixture
def agent(table: Table, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts an agent."""
    with ExitStack() as stack:

        def start(*prefix: str) -> Agent:
            made = Agent(tmp_path, table.dsn, prefix)
            stack.callback(made.end)
            return made

        yield start


def _holder(table: Table) -> list[Any]:
    return table.execute("SELECT session_id, pid, status FROM public.claude_sessions WHERE sd_id = 'SD-1'")


@only_linux
@pytest.mark.faults
@pytest.mark.parametrize("place", ["same namespace", "another namespace"])
def test_resumed_conversation_never_takes_the_claim(table: Table, agent: Start, cli: Cli, place: str) -> None:
    prefix: list[str] = []
    if place == "another namespace":
        if os.geteuid() != 0 or not shutil.which("unshare"):
            pytest.skip("another pid namespace needs root and unshare")
        prefix = ["unshare", "--pid", "--fork", "--mount-proc"]
    first, second = agent(), agent(*prefix)
    assert first.run("claim", "SD-1")[0] == 0
    before = _holder(table)
    for argv, code in [
        (["claim", "SD-1"], 3),
        (["heartbeat"], 3),
        (["heartbeat", "--register"], 3),
        (["check", "SD-1"], 4),
        (["park", "20m"], 3),
        (["release"], 3),
        (["release", "--end"], 3),
        (["run", "SD-1", "--", "echo", "ran"], 3),
        (["run", "SD-2", "--session", "conversation", "--", "echo", "ran"], 3),
    ]:
        found = second.run(*argv)
        assert (found[0], found[1]) == (code, ""), (argv, found)
        assert "is open in another process (host" in found[2], argv
    assert "twin" in second.run("whoami", "--json")[1]
    assert json.loads(second.run("whoami", "--json")[1])["data"]["twin"] is True
    second.end()
    assert cli("reap", "--dsn", table.dsn).stdout == ""
    assert _holder(table) == before
    assert first.run("heartbeat")[:2] == (0, "renewed conversation, holding SD-1\n")
    assert first.run("check", "SD-1")[0] == 0


@pytest.mark.faults
@only_linux
def test_resumed_conversation_takes_over_from_the_dead(table: Table, agent: Start) -> None:
    first, second = agent(), agent()
    fence = json.loads(first.run("claim", "SD-1", "--json")[1])["data"]["fence"]
    first.end()
    code, out, err = second.run("claim", "SD-1", "--json")
    data = json.loads(out)["data"]
    assert (code, data["outcome"], err) == (0, "moved", "")
    assert data["fence"] > fence
    assert second.run("check", "SD-1", "--fence", str(fence))[0] == 4


@pytest.mark.faults
@only_linux
def test_cleared_conversation_keeps_its_claim(table: Table, agent: Start) -> None:
    claude = agent()
    assert claude.run("claim", "SD-1", session="before")[0] == 0
    code, out, _ = claude.run("claim", "SD-1", "--json", session="after")
    data = json.loads(out)["data"]
    assert (code, data["outcome"], data["from"]) == (0, "continued", "before")
    assert [row["session_id"] for row in _holder(table)] == ["after"]
    assert claude.run("check", "SD-1", session="before")[0] == 0, "a command that began before the change"
    assert claude.run("heartbeat", session="before")[1] == "renewed after, holding SD-1\n"
    ran = claude.run("run", "SD-1", "--", *PROGRAM, "check", "SD-1", session="last")
    assert ran[0] == 0 and ran[1].startswith("SD-1 is yours"), ran
    assert [row["session_id"] for row in _holder(table)] == ["last"]


@needs("setsid")
def test_job_without_terminal_acts_by_its_id(table: Table, cli: Cli) -> None:
    for argv in (["claim", "SD-1"], ["heartbeat"], ["check", "SD-1"], ["release"]):
        done = subprocess.run(
            ["setsid", "--wait", *PROGRAM, *argv, "--session", "ci-42"],
            env={**os.environ, "CLAUDE_SESSIONS_DSN": table.dsn},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), argv


def test_heartbeat_from_cron_keeps_the_process(table: Table, cli: Cli, sleeper: Sleeper) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    pid = sleeper().pid
    assert cli("claim", "SD-1", "--pid", str(pid), env=env).returncode == 0
    before = table.own("a")["process"]
    assert cli("heartbeat", env=env).stdout == "renewed a, holding SD-1\n"
    assert (table.row("a")["pid"], table.own("a")["process"]) == (pid, before)


def test_list_here_goes_by_the_boot(table: Table, cli: Cli, sleeper: Sleeper) -> None:
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert cli("claim", "SD-1", "--pid", str(sleeper().pid), env=env).returncode == 0
    table.execute("UPDATE public.claude_sessions SET hostname = 'before-the-vpn'")
    assert "SD-1" in cli("list", "--here", env=env).stdout
    table.execute(
        "UPDATE public.claude_sessions"
        " SET metadata = jsonb_set(metadata, '{claude_sessions_cli,process,boot_id}', '\"another\"')"
    )
    assert "SD-1" not in cli("list", "--here", env=env).stdout
