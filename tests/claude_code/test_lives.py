"""The lives of an agent's session, from its start to its end, by hooks alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Table, make_caller
from poll import until
from run_bench import PROGRAM, only_linux

from claude_code.conftest import Start
from claude_code.fake import Answered, holder, install, status
from claude_sessions_cli import process
from claude_sessions_cli.claude_code import stamp
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.reap import reap

pytestmark = only_linux
COUNT_UPDATES = """
CREATE TABLE public.test_updates (n integer);
CREATE FUNCTION public.note_update() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN INSERT INTO public.test_updates VALUES (1); RETURN NULL; END$$;
CREATE TRIGGER note_update AFTER UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.note_update();
"""


def _rob(table: Table, item: str = "SD-1", session: str = "rival") -> None:
    claim(table.database, make_caller(session), item, force_reason="urgent")


@pytest.mark.faults
def test_session_registers_holds_beats_and_ends(full_table: Table, processes: Start) -> None:
    agent = processes()
    answer = agent.start()
    assert f"this is session {agent.session}. It holds no work item." in answer.context
    row = full_table.row(agent.session)
    assert (row["status"], row["pid"], full_table.own(agent.session)["id_from"]) == ("idle", agent.pid, "hook")
    assert agent.bash("claude-sessions claim SD-1 --track A --note 'fix the login'")[0] == 0
    before = full_table.row(agent.session)["heartbeat_at"]
    agent.hook("PostToolUse")
    agent.beat("Stop")
    assert full_table.row(agent.session)["heartbeat_at"] > before
    assert re.fullmatch(r"SD-1 \(A\) \d+s fix the login\n", agent.status_line())
    agent.exit()
    until(lambda: status(full_table, agent.session) == "released", "the end of the session")
    assert holder(full_table) is None and agent.log == ""


def test_cleared_conversation_keeps_its_claim_and_knows_it(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    first = agent.session
    agent.bash("claude-sessions claim SD-1")
    fence = full_table.own(first)["term"]["fence"]
    answer = agent.change("clear")
    assert "It holds SD-1 since" in answer.context and answer.output["sessionTitle"] == "SD-1"
    assert holder(full_table) == agent.session != first
    assert full_table.own(agent.session)["term"]["fence"] > fence
    # Back to the first one, in the same process.
    agent.change("resume", first)
    assert holder(full_table) == first
    assert "continued_as" not in full_table.own(first) or full_table.own(first)["continued_as"] is None


def test_cleared_conversation_without_claim_leaves_one_live_row(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    for _ in range(2):
        agent.change("clear")
    live = full_table.execute("SELECT session_id FROM public.claude_sessions WHERE status <> 'released'")
    assert [row["session_id"] for row in live] == [agent.session]


def test_loss_reaches_the_model_once(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    _rob(full_table)
    # Noticed at the first hook, reported at the second, and not at Stop, where the model would go on.
    assert agent.beat().out == ""
    assert agent.hook("Stop").out == agent.hook("PostToolUse", agent_id="helper").out == ""
    answers = agent.hooks("PostToolUse", times=5)
    assert sorted(answer.output.get("hookEventName", "") for answer in answers) == ["", "", "", "", "PostToolUse"]
    told = next(answer for answer in answers if answer.out)
    assert "lost SD-1 to rival" in told.context and "claude-sessions claim SD-1" in told.context
    agent.beat()
    assert agent.hook("UserPromptSubmit").out == ""
    # No hook marks it: that is for the commands.
    assert full_table.own(agent.session)["tombstone"].get("told") is None
    assert agent.status_line() == "LOST SD-1\n"


def test_guard_denies_until_the_loss_is_acknowledged(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    edit: dict[str, Any] = {"tool_name": "Edit", "tool_input": {"file_path": "/x"}}
    assert agent.hook("PreToolUse", **edit).out == ""
    _rob(full_table)
    agent.beat()
    denied = agent.hook("PreToolUse", **edit).output
    assert denied["permissionDecision"] == "deny" and "claude-sessions release" in denied["permissionDecisionReason"]

    def call(command: str) -> Answered:
        return agent.hook("PreToolUse", tool_name="Bash", tool_input={"command": command})

    assert call("claude-sessions release").out == ""
    # Sub-agents share the claim; and the program may run as a module of an interpreter.
    assert agent.hook("PreToolUse", agent_id="helper", **edit).out
    assert call(f"{sys.executable} -c 'import os'").out and call("claude-sessions release; ls").out
    assert agent.bash("claude-sessions release")[0] == 4
    assert agent.hook("PreToolUse", **edit).out == ""
    assert agent.stamp.standing == "ok"


def test_loss_told_at_the_start_is_not_told_again(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    _rob(full_table)
    assert "lost SD-1 to rival" in agent.start("compact").context
    assert agent.stamp.standing == "lost"
    agent.beat()
    assert agent.hook("PostToolUse").out == ""
    # Of the next loss the model knows nothing.
    agent.bash("claude-sessions claim SD-2")
    _rob(full_table, "SD-2", "another")
    agent.beat()
    assert "lost SD-2" in agent.hook("PostToolUse").context


def test_late_heartbeat_does_not_open_an_ended_session(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.hook("SessionEnd", reason="other")
    until(lambda: status(full_table, agent.session) == "released", "the end of the session")
    agent.make_due()
    agent.hook("Stop")
    time.sleep(0.1)
    assert (status(full_table, agent.session), agent.stamp.at) == ("released", 0)
    assert "It holds no work item." in agent.start("resume").context
    assert status(full_table, agent.session) == "idle"


@pytest.mark.parametrize("registered", [True, False])
def test_late_heartbeat_of_a_dead_client_writes_nothing(full_table: Table, processes: Start, registered: bool) -> None:
    agent = processes()
    if registered:
        agent.start()
        agent.make_due()
    before = full_table.execute("SELECT * FROM public.claude_sessions")
    agent.end()
    given = {"session_id": agent.session, "hook_event_name": "Stop"}
    env = {**agent.env, "CLAUDE_PID": str(agent.pid), "CLAUDE_CODE_SESSION_ID": agent.session}
    done = subprocess.run(
        [*PROGRAM, "hook", "Stop", "--background"], input=json.dumps(given), text=True, env=env, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr, agent.log) == (0, "", "", "")
    assert full_table.execute("SELECT * FROM public.claude_sessions") == before and len(before) == registered


def test_background_is_outside_the_hooks_process_group(processes: Start, tmp_path: Path) -> None:
    agent, program = processes(), tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\nread -r _ _ _ _ group session _ </proc/$$/stat\necho $$ $group $session >{tmp_path}/ids\n"
    )
    program.chmod(0o755)
    install(tmp_path, words=[str(program)])
    for event in ("Stop", "SessionEnd"):
        agent.hook(event)
        pid, group, session = until(
            lambda: (tmp_path / "ids").exists() and (tmp_path / "ids").read_text().split(), event
        )
        assert pid == group == session
        (tmp_path / "ids").unlink()


def test_twin_is_told_and_changes_nothing(full_table: Table, client: Start) -> None:
    first = client()
    first.start()
    first.bash("claude-sessions claim SD-1")
    before = full_table.row(first.session)
    second = client(first.session)
    answer = second.start("resume")
    assert "is open in another process" in answer.context and "sessionTitle" not in answer.output
    assert second.hook("PreToolUse", tool_name="Write").output["permissionDecision"] == "deny"
    second.beat()
    second.exit()
    until(lambda: second.stamp.standing == "ended", "the end of the second")
    assert full_table.row(first.session) == before
    assert first.bash("claude-sessions check SD-1")[0] == 0


def test_resumed_conversation_takes_over_from_the_dead(full_table: Table, client: Start) -> None:
    first = client()
    first.start()
    first.bash("claude-sessions claim SD-1")
    first.end()
    second = client(first.session)
    assert "It holds SD-1 since" in second.start("resume").context
    assert full_table.row(first.session)["pid"] == second.pid


def test_fork_leaves_the_claim_alone(full_table: Table, client: Start) -> None:
    first = client()
    first.start()
    first.bash("claude-sessions claim SD-1 --note 'the login'")
    fork = client()
    answer = fork.start("fork")
    assert "It holds no work item." in answer.context
    assert f"SD-1 ({first.session}, " in answer.context and ": the login)" in answer.context
    fork.exit()
    until(lambda: status(full_table, fork.session) == "released", "the end of the fork")
    assert holder(full_table) == first.session


def test_killed_client_is_reaped(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    agent.end()
    reap(full_table.database, make_caller("reaper"))
    assert (holder(full_table), status(full_table, agent.session)) == (None, "released")


@pytest.mark.faults
def test_question_that_waits_keeps_beating(full_table: Table, processes: Start) -> None:
    agent = processes(CLAUDE_SESSIONS_HEARTBEAT_EVERY="1")
    agent.start()
    agent.hook("Notification", notification_type="permission_prompt")
    keep = agent.stamp_path.with_name(f"{agent.stamp_path.name}.keep")
    until(keep.exists, "the shell that beats")
    shell = int(keep.read_text())
    before = full_table.row(agent.session)["heartbeat_at"]
    until(lambda: full_table.row(agent.session)["heartbeat_at"] > before + timedelta(seconds=3), "heartbeats")
    # A second question needs no second shell; an answer ends it.
    agent.hook("Notification", notification_type="permission_prompt")
    time.sleep(3)
    assert int(keep.read_text()) == shell
    agent.hook("Stop")
    until(lambda: _is_gone(shell), "the end of the shell")
    agent.hook("Notification", notification_type="permission_prompt")
    until(keep.exists, "the shell that beats")
    shell = int(keep.read_text())
    agent.end()
    until(lambda: _is_gone(shell), "the end of the shell with its agent")
    until(lambda: not keep.exists(), "no file is left")


def _is_gone(pid: int) -> bool:
    try:
        return process.read(pid).zombie
    except ProcessLookupError:
        return True


def test_late_end_leaves_a_moved_session(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    other = client(agent.session)
    assert other.bash("claude-sessions claim SD-1 --force --reason moved")[0] == 0
    agent.exit()
    until(lambda: agent.stamp.standing == "ended", "the end of the first")
    assert (holder(full_table), status(full_table, agent.session)) == (agent.session, "active")


@pytest.mark.faults
def test_run_around_the_client_is_one_session(full_table: Table, tmp_path: Path, processes: Start) -> None:
    agent = processes(prefix=[*PROGRAM, "run", "SD-1", "--"])
    name = until(lambda: holder(full_table), "the claim of run")
    answer = agent.start()
    agent.pid = int(agent.bash("echo $CLAUDE_PID")[1])
    assert f"this is session {name}. It holds SD-1 since" in answer.context
    assert [row["session_id"] for row in full_table.execute("SELECT session_id FROM public.claude_sessions")] == [name]
    agent.beat()
    agent.hook("SessionEnd", reason="other")
    until(lambda: agent.stamp.standing == "ended", "the end of the client")
    assert holder(full_table) == name


def test_silent_session_gets_its_item_back(full_table: Table, client: Start) -> None:
    agent = client()
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    full_table.execute("UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at - %s", timedelta(hours=1))
    full_table.execute(
        "UPDATE public.claude_sessions SET metadata = metadata #- '{claude_sessions_cli,process}', pid = NULL"
    )
    reap(full_table.database, make_caller("reaper"))
    assert holder(full_table) is None
    agent.beat()
    assert holder(full_table) == agent.session and not agent.stamp_path.with_name("x.loss").exists()


def test_sessions_without_database_stay_quiet(client: Start, tmp_path: Path) -> None:
    agent = client(dsn=f"host={tmp_path}/none")
    assert agent.start().out == ""
    agent.hook("PostToolUse")
    until(lambda: agent.log.count("cannot connect") == 2, "the attempt in the background")
    assert not agent.stamp.at or agent.stamp.is_fresh(stamp.now())


def test_no_server_is_started(client: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    agent = client(CLAUDE_SESSIONS_DATA_DIR=str(data), CLAUDE_SESSIONS_DSN="")
    assert agent.start().out == ""
    assert not data.exists() and "the private server is not running" in agent.log


def test_context_is_facts_in_a_kilobyte(full_table: Table, client: Start, tmp_path: Path) -> None:
    note = "x\x1b[31m" + "é" * 150
    for number in range(40):
        full_table.insert(
            f"session-{number}\x1b",
            sd_id=f"SD-{number}\u202e\x07" + "y" * 200,
            status="active",
            codebase=tmp_path.name,
            hostname="elsewhere",
            metadata=json.dumps({"claude_sessions_cli": {"note": note}}),
        )
        full_table.execute("UPDATE public.claude_sessions SET claimed_at = now(), heartbeat_at = now()")
    agent = client()
    answer = agent.start()
    assert len(answer.out.encode()) <= 1025 and answer.out.count("\n") == 1
    assert answer.context.replace("\n", "").isprintable()
    assert " more." in answer.context and "claude-sessions claim SD" in answer.context


@pytest.mark.faults
def test_twenty_hooks_at_one_instant_send_one_heartbeat(full_table: Table, processes: Start) -> None:
    agent = processes()
    agent.start()
    full_table.execute(COUNT_UPDATES)
    agent.make_due()
    assert {answer.out for answer in agent.hooks("PostToolUse", times=20)} == {""}
    until(lambda: agent.stamp.at, "a heartbeat")
    time.sleep(0.5)
    assert full_table.execute("SELECT count(*) AS n FROM public.test_updates") == [{"n": 1}]
    full_table.execute("DROP TABLE public.test_updates CASCADE; DROP FUNCTION public.note_update() CASCADE")


def test_uninstalled_program_costs_nothing(processes: Start, tmp_path: Path) -> None:
    agent = processes()
    install(tmp_path, guard=True, words=[str(tmp_path / "gone")])
    for event in ("SessionStart", "PostToolUse", "PreToolUse", "Stop", "SessionEnd"):
        assert agent.hook(event).out == ""
    settings = tmp_path / ".claude/settings.json"
    settings.write_text(settings.read_text().replace("claude_code/hook.sh", "claude_code/moved.sh"))
    for event in ("SessionStart", "PostToolUse", "PreToolUse", "Stop", "SessionEnd"):
        assert agent.hook(event).out == ""
    assert agent.status_line() == ""


def test_hook_can_be_turned_off(full_table: Table, client: Start) -> None:
    agent = client(CLAUDE_SESSIONS_HOOK="0")
    assert agent.start().out == agent.status_line() == ""
    assert full_table.execute("SELECT 1 FROM public.claude_sessions") == []
