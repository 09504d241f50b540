"""The lives of a real Claude Code client, which `make test-claude` installs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Table, make_caller
from poll import until
from requirements import needs

from claude_code.fake import holder, status
from claude_code.real import CLIENT, Place
from claude_sessions_cli.claude_code import settings_file
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.reap import reap

pytestmark = [
    pytest.mark.claude,
    needs("tmux"),
    pytest.mark.skipif(not CLIENT.exists(), reason="make test-claude installs the client"),
]
CLAIM = 'MOCK Bash {"command": "claude-sessions claim SD-1 --note login"} ;; say done'
# The client refuses a command that begins with sleep.
LONG = 'MOCK Bash {{"command": "python3 -c \\"import time; time.sleep({})\\"", "timeout": 300000}} ;; say done'
Open = Callable[..., Place]


@pytest.fixture
def place(full_table: Table, tmp_path: Path) -> Iterator[Open]:
    """Return a function that makes a home with our hooks."""
    with ExitStack() as stack:

        def make(*options: str, **variables: str) -> Place:
            made = Place(tmp_path / f"place{len(list(tmp_path.iterdir()))}", full_table.dsn, **variables)
            stack.callback(made.close)
            # Shown if the test fails.
            stack.callback(lambda: print(made.log()))
            made.install(*options)
            return made

        yield make


def _history(table: Table, item: str = "SD-1") -> list[tuple[str, str]]:
    """Return the events of an item."""
    rows = table.execute(
        "SELECT event, session_id FROM public.claude_session_events WHERE sd_id = %s ORDER BY id", item
    )
    return [(row["event"], row["session_id"]) for row in rows]


def _age(table: Table, session: str) -> float:
    [row] = table.execute(
        "SELECT extract(epoch FROM clock_timestamp() - heartbeat_at) AS age FROM public.claude_sessions"
        " WHERE session_id = %s",
        session,
    )
    return float(row["age"])


def _live(table: Table) -> list[str]:
    rows = table.execute("SELECT session_id FROM public.claude_sessions WHERE status <> 'released' ORDER BY 1")
    return [row["session_id"] for row in rows]


def _rob(table: Table, item: str = "SD-1") -> None:
    claim(table.database, make_caller("rival"), item, force_reason="urgent")


def test_headless_session_from_start_to_end(full_table: Table, place: Open) -> None:
    made = place("--guard")
    settings = json.loads(made.settings.read_text())
    assert {"PostToolUseFailure", "CwdChanged", "PreToolUse"} <= set(settings["hooks"])
    made.ask(CLAIM)
    [session] = {record["stdin"]["session_id"] for record in made.records("SessionStart")}
    assert f"this is session {session}. It holds no work item." in made.told_in_all()
    until(lambda: status(full_table, session) == "released", "the end of the session")
    assert [event for event, _ in _history(full_table)][:2] == ["claimed", "unclaimed"] or _history(full_table)
    # Resumed in a new process: the same session, without its claim; a fork is another one.
    made.ask('MOCK Bash {"command": "claude-sessions whoami"} ;; say done', "--resume", session)
    made.ask(CLAIM, "--resume", session, "--fork-session")
    forked = made.records("SessionStart")[-1]["stdin"]["session_id"]
    assert forked != session
    until(lambda: _live(full_table) == [], "the end of both")
    assert {name for _, name in _history(full_table)} == {session, forked}


def test_loss_and_guard_without_terminal(full_table: Table, place: Open) -> None:
    made = place("--guard", CLAUDE_SESSIONS_HEARTBEAT_EVERY="1")
    wait = "python3 -c 'import time; time.sleep(4)'"
    commands = ["claude-sessions claim SD-1", wait, wait, "echo > one", "claude-sessions release", "echo > two"]
    steps = " ;; ".join(f"Bash {json.dumps({'command': command})}" for command in commands)
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(made.ask, f"MOCK {steps} ;; say done")
        until(lambda: holder(full_table), "the claim")
        _rob(full_table)
        turn.result()
    told = made.told()
    assert told.count("Claim it again (claude-sessions claim SD-1)") == 1
    assert "or acknowledge the loss: claude-sessions release; or stop this work" in told
    assert not (made.work / "one").exists() and (made.work / "two").exists()


def test_long_tool_call_keeps_the_claim(full_table: Table, place: Open) -> None:
    made = place(CLAUDE_SESSIONS_HEARTBEAT_EVERY="20", CLAUDE_SESSIONS_STALE_AFTER="60")
    with made.window() as window:
        window.ask(CLAIM)
        session = window.session
        headless = subprocess.Popen(
            ["claude", "-p", CLAIM.replace("SD-1", "SD-2").replace("say done", LONG.format(100)[5:])],
            env=made.env,
            cwd=made.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        window.type(LONG.format(100))
        oldest, end = 0.0, time.monotonic() + 100
        while time.monotonic() < end:
            oldest = max(oldest, _age(full_table, session))
            time.sleep(1)
        assert oldest < 60, oldest
        assert holder(full_table) == session
        reap(full_table.database, make_caller("reaper", stale_after=60))
        # Without a terminal nothing beats, but its process lives.
        assert holder(full_table, "SD-2") is not None
        assert headless.wait(60) == 0
        until(lambda: holder(full_table, "SD-2") is None, "the end of the headless one")
    until(lambda: _live(full_table) == [], "the end of the window")


def test_question_left_open_keeps_beating(full_table: Table, place: Open) -> None:
    made = place(CLAUDE_SESSIONS_HEARTBEAT_EVERY="5", CLAUDE_SESSIONS_STALE_AFTER="60")
    with made.window() as window:
        window.ask(CLAIM)
        written = {"file_path": str(made.work / "new"), "content": "x"}
        window.type(f"MOCK Write {json.dumps(written)} ;; say done")
        until(lambda: "Do you want" in window.screen, "the question")
        before = full_table.row(window.session)["heartbeat_at"]
        # The client runs no status line then.
        late = before + timedelta(seconds=30)
        until(lambda: full_table.row(window.session)["heartbeat_at"] > late, "heartbeats behind the question", 120)
        window.key("Escape")


def test_conversations_of_one_window(full_table: Table, place: Open) -> None:
    made = place(CLAUDE_SESSIONS_HEARTBEAT_EVERY="2", CLAUDE_SESSIONS_STALE_AFTER="60")
    with made.window() as window:
        window.ask(CLAIM)
        first = window.session
        until(lambda: "SD-1" in window.screen, "the status line")
        window.after(lambda: window.type("/clear"), "SessionStart")
        second = until(lambda: window.session != first and window.session, "a new conversation")
        until(lambda: holder(full_table) == second, "the claim under the second id")
        window.ask("MOCK say hello")
        assert "It holds SD-1 since" in made.told() and "note: login" in made.told()
        window.after(lambda: window.type("/compact"), "SessionStart")
        assert made.records("SessionStart")[-1]["stdin"]["source"] == "compact" and holder(full_table) == second
        # Back to the first one, in place.
        window.after(lambda: window.type(f"/resume {first}"), "SessionStart")
        until(lambda: holder(full_table) == first, "the claim under the first id")
        assert _live(full_table) == [first]
        # Open in a second window: a twin.
        with made.window("--resume", first) as twin:
            twin.ask('MOCK Bash {"command": "claude-sessions claim SD-1; claude-sessions release --end"} ;; say done')
            assert "is open in another process" in made.told()
            before = full_table.row(first)
            twin.after(lambda: twin.type("/exit"), "SessionEnd")
            until(twin.has_ended, "the end of the twin")
            time.sleep(2)
            assert (holder(full_table), full_table.row(first)["pid"]) == (first, before["pid"])
        window.after(lambda: window.type("/exit"), "SessionEnd")
    until(lambda: _live(full_table) == [], "the end of the window")


def test_helpers_share_and_nested_clients_do_not(full_table: Table, place: Open) -> None:
    made = place(CLAUDE_SESSIONS_HEARTBEAT_EVERY="1")

    def helper(command: str) -> str:
        inner = "MOCK Bash " + json.dumps({"command": command})
        call = {"description": "d", "prompt": inner, "subagent_type": "general-purpose", "run_in_background": False}
        return f"agent {json.dumps(call)}"

    with made.window() as window:
        window.ask(CLAIM)
        session, before = window.session, full_table.row(window.session)["heartbeat_at"]
        window.after(lambda: window.type(f"MOCK {helper('python3 -c 1')} ;; say done"), "SubagentStop")
        until(lambda: full_table.row(session)["heartbeat_at"] > before, "a heartbeat of the sub-agent")
        nested = 'claude -p \'MOCK Bash {"command": "claude-sessions whoami"} ;; say done\' </dev/null'
        time.sleep(2)
        window.ask("MOCK Bash " + json.dumps({"command": nested}) + " ;; say done")
        assert holder(full_table) == session and len(_history(full_table)) == 1
        window.after(lambda: window.type(f"MOCK {helper('claude-sessions release')} ;; say done"), "SubagentStop")
        until(lambda: holder(full_table) is None, "the release by the sub-agent")
        assert status(full_table, session) == "idle"


def test_escape_in_a_tool_call_keeps_the_session(full_table: Table, place: Open) -> None:
    made = place()
    with made.window() as window:
        window.ask(CLAIM)
        window.after(lambda: window.type(LONG.format(60)), "PreToolUse")
        time.sleep(2)
        window.key("Escape")
        until(lambda: "nterrupted" in window.screen, "the interruption")
        assert holder(full_table) == window.session
        window.ask("MOCK say hello")
        assert holder(full_table) == window.session


@pytest.mark.parametrize("way", ["exit", "window", "SIGTERM", "SIGKILL"])
def test_end_of_the_client_ends_its_session(full_table: Table, place: Open, way: str) -> None:
    made = place()
    with made.window() as window:
        window.ask(CLAIM)
        session = window.session
        if way == "exit":
            window.type("/exit")
        elif way == "window":
            window.close()
        else:
            window.signal(signal.Signals[way])
        until(window.has_ended, "the end of the client")
    if way == "SIGKILL":
        assert holder(full_table) == session
        reap(full_table.database, make_caller("reaper"))
    until(lambda: status(full_table, session) == "released", "the end of the session")
    assert holder(full_table) is None


def test_run_around_the_client(full_table: Table, place: Open) -> None:
    made = place()
    with made.window(before=["claude-sessions", "run", "SD-1", "--"]) as window:
        name = holder(full_table)
        window.ask('MOCK Bash {"command": "claude-sessions check SD-1"} ;; say done')
        assert f"this is session {name}. It holds SD-1 since" in made.told() and "SD-1 is yours" in made.told()
        until(lambda: "SD-1" in window.screen, "the status line")
        until(lambda: "SD-1" in window.title, f"the title of the window, not {window.title}")
        assert _live(full_table) == [name]
        window.type("/exit")
        until(window.has_ended, "the end")
    until(lambda: _live(full_table) == [], "the end of run")


def test_plugin_is_valid_and_does_not_run_twice(full_table: Table, place: Open) -> None:
    made = place("--guard")
    before: dict[str, Any] = json.loads(made.settings.read_text())
    directory = str(settings_file.plugin_directory())
    for argv in (
        ["plugin", "validate", directory],
        ["plugin", "marketplace", "add", directory],
        ["plugin", "install", "work-claims@work-claims"],
    ):
        done = made.run("claude", *argv)
        assert done.returncode == 0, done.stdout + done.stderr
    # The client has rewritten the settings, and ours are as they were.
    after = json.loads(made.settings.read_text())
    assert after.pop("enabledPlugins") == {"work-claims@work-claims": True}
    assert {name: after[name] for name in before} == before
    again = made.run("claude-sessions", "install", "claude", "--guard")
    assert again.stdout.startswith("claude: already installed"), again.stdout
    # Beside the hooks in the settings.
    made.ask(CLAIM)
    assert len(re.findall(r"claude-sessions: this is session", made.told())) == 1
    # Alone.
    made.install("--remove")
    made.ask(CLAIM)
    assert len(re.findall(r"claude-sessions: this is session", made.told())) == 1
    until(lambda: _live(full_table) == [], "the end of both")
    sessions = {record["stdin"]["session_id"] for record in made.records("SessionStart")}
    assert {name for _, name in _history(full_table)} == sessions and len(sessions) == 2
