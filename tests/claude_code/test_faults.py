"""Hooks under a database that fails, and with input that no client writes."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Table, make_caller
from poll import until
from run_bench import PROGRAM, Proxy, only_linux
from terminal import end_all

from claude_code.conftest import Start
from claude_code.fake import Client
from claude_sessions_cli.claude_code import stamp
from claude_sessions_cli.claude_code.entries import hook_command
from claude_sessions_cli.claude_code.events import INPUT_LIMIT
from claude_sessions_cli.operations.claim import claim

pytestmark = only_linux
LIMIT_S = 2.5
EVENTS = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
EDIT: dict[str, Any] = {"tool_name": "Edit", "tool_input": {"file_path": "/x"}}


@contextmanager
def _closed(table: Table) -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"host=127.0.0.1 port={bound.getsockname()[1]}"


@contextmanager
def _refusing(table: Table) -> Iterator[str]:
    yield psycopg.conninfo.make_conninfo(table.dsn, dbname="no_such_database")


@contextmanager
def _hanging(table: Table) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"host=127.0.0.1 port={listener.getsockname()[1]}"


@contextmanager
def _silent(table: Table) -> Iterator[str]:
    proxy = Proxy(table.dsn)
    proxy.stall()
    try:
        yield proxy.dsn
    finally:
        proxy.close()


@contextmanager
def _locked(table: Table) -> Iterator[str]:
    with psycopg.connect(table.dsn) as connection:
        connection.execute("LOCK TABLE public.claude_sessions IN ACCESS EXCLUSIVE MODE")
        yield table.dsn


FAILING = {"closed": _closed, "refusing": _refusing, "hanging": _hanging, "silent": _silent, "locked": _locked}


@pytest.mark.faults
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "closed" else [pytest.mark.faults]) for kind in FAILING]
)
def test_failing_database_costs_little_and_prints_nothing(
    full_table: Table, tmp_path: Path, processes: Start, kind: str
) -> None:
    with FAILING[kind](full_table) as dsn:
        agent = processes(dsn=dsn)
        agent.is_patient = False
        began = time.monotonic()
        assert agent.start().out == ""
        assert time.monotonic() - began < LIMIT_S
        # Of a lost claim, so that the guard asks.
        agent.stamp_path.parent.mkdir(parents=True, exist_ok=True)
        agent.stamp_path.write_text("0 0 lost -\n-\ntold\n")
        for event in EVENTS[1:]:
            began = time.monotonic()
            assert agent.hook(event, **EDIT).out == ""
            assert time.monotonic() - began < LIMIT_S, event
        assert agent.status_line() == ""
        until(lambda: agent.log.count("\n") >= 2, "lines in the log")
        # One that still waits would register once the lock is gone.
        end_all(tmp_path)
    assert full_table.execute("SELECT 1 FROM public.claude_sessions") == []


# -- input ------------------------------------------------------------------------------------------------------------

BAD = {
    "empty": "",
    "not JSON": "secret",
    "2 MiB": json.dumps(
        {"session_id": "conversation", "hook_event_name": "EVENT", "prompt": "secret" * (INPUT_LIMIT // 3)}
    ),
    "no session_id": '{"hook_event_name": "EVENT", "prompt": "secret"}',
    "malformed session_id": '{"hook_event_name": "EVENT", "session_id": "../secret"}',
    "another event": '{"hook_event_name": "Secret", "session_id": "conversation"}',
}


def _rows(table: Table) -> list[dict[str, Any]]:
    return table.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY id")


def _lose(table: Table, agent: Client) -> None:
    """Leave a loss that the next hook would report."""
    agent.start()
    agent.bash("claude-sessions claim SD-1")
    claim(table.database, make_caller("rival"), "SD-1", force_reason="urgent")
    agent.beat()


@pytest.mark.faults
@pytest.mark.parametrize("raw", BAD.values(), ids=list(BAD))
def test_bad_input_changes_nothing_and_is_noted(full_table: Table, client: Start, raw: str) -> None:
    agent = client("conversation")
    _lose(full_table, agent)
    agent.make_due()
    before, kept = _rows(full_table), agent.stamp_path.read_text()
    for number, event in enumerate(EVENTS, 1):
        agent.stamp_path.with_name(f"{agent.stamp_path.name}.lock").unlink(missing_ok=True)
        lines = agent.log.count("\n")
        answer = agent.hook(event, raw=raw.replace("EVENT", event))
        assert answer.out == "", (number, event)
        until(lambda: agent.log.count("\n") > lines, f"a line for {event}")  # noqa: B023
    assert _rows(full_table) == before
    assert agent.stamp_path.read_text() == kept
    assert "ecret" not in agent.log
    assert agent.hook("PostToolUse").context


def test_unknown_event_is_noted(full_table: Table, client: Start) -> None:
    agent = client()
    settings = agent.directory / ".claude/settings.json"
    settings.write_text(settings.read_text().replace("set -- Stop ", "set -- Foo "))
    assert agent.hook("Stop").out == ""
    until(lambda: "no such event" in agent.log, "a line in the log")
    assert _rows(full_table) == []


@pytest.mark.faults
def test_closed_stdout_keeps_the_loss_for_the_next_hook(full_table: Table, processes: Start) -> None:
    agent = processes()
    _lose(full_table, agent)
    settings = agent.directory / ".claude/settings.json"
    text = settings.read_text()
    settings.write_text(text.replace("trap 'exit 0' EXIT", "exec >&-; trap 'exit 0' EXIT"))
    before = _rows(full_table)
    agent.hook("UserPromptSubmit")
    agent.start()
    assert agent.log.count("stdout is closed") == 2 and _rows(full_table) == before
    settings.write_text(text)
    assert "lost SD-1" in agent.hook("UserPromptSubmit").context


def test_terminal_as_input_is_not_read(full_table: Table, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_CODE_SESSION_ID": "a"}
    try:
        for event in ("SessionStart", "Stop"):
            done = subprocess.run(
                ["/bin/sh", "-c", hook_command(event, PROGRAM)],
                stdin=slave,
                env=env,
                capture_output=True,
                timeout=30,
                start_new_session=True,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        log = tmp_path / ".local/state/claude-sessions/hook.log"
        until(lambda: log.exists() and log.read_text().count("stdin is a terminal") == 2, "two lines in the log")
    finally:
        os.close(master)
        os.close(slave)
    assert _rows(full_table) == []


def test_log_is_rotated_and_private(client: Start) -> None:
    agent = client(OTHER="secret")
    log = agent.directory / ".local/state/claude-sessions/hook.log"
    log.parent.mkdir(parents=True)
    log.write_text("x" * (1 << 20) + "\n")
    agent.hook("SessionStart", raw='{"prompt": "secret", "tool_input": "secret"}')
    assert "another event" in log.read_text() and log.read_text().count("\n") == 1
    assert log.stat().st_mode & 0o777 == 0o600 and "secret" not in log.read_text()
    assert log.with_name("hook.log.1").stat().st_size > 1 << 20


def test_log_names_a_wrong_variable_and_not_its_value(client: Start) -> None:
    agent = client(CLAUDE_SESSIONS_SESSION_ID="a secret", CLAUDE_SESSIONS_STALE_AFTER="secret")
    assert agent.start().out == ""
    assert "CLAUDE_SESSIONS_SESSION_ID is not a session id" in agent.log and "secret" not in agent.log


def test_state_directory_that_cannot_be_written_costs_nothing(full_table: Table, client: Start) -> None:
    agent = client(CLAUDE_SESSIONS_STATE_DIR="/proc/nowhere")
    assert "It holds no work item." in agent.start().context
    for event in EVENTS[1:]:
        assert agent.hook(event, **EDIT).out == ""
    assert len(_rows(full_table)) == 1


@pytest.mark.parametrize("name", ["", "lock", "run", "loss", "keep"])
def test_pipe_in_place_of_a_file_never_hangs(full_table: Table, client: Start, name: str) -> None:
    agent = client()
    agent.start()
    path = stamp.beside(agent.stamp_path, name) if name else agent.stamp_path
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for event in ("UserPromptSubmit", "PostToolUse"):
        assert agent.hook(event, **EDIT).out == ""
    assert agent.status_line() == ""


def test_state_directory_of_strangers_is_never_used(full_table: Table, client: Start, tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    agent = client(CLAUDE_SESSIONS_STATE_DIR=str(place))
    for event in EVENTS:
        agent.hook(event, **EDIT)
    assert [found for found in place.rglob("*") if found.is_file() and not found.name.endswith(".lock")] == []


@pytest.mark.faults
def test_pipe_in_place_of_the_keep_file_is_replaced(full_table: Table, processes: Start) -> None:
    agent = processes()
    agent.start()
    agent.beat()
    keep = stamp.beside(agent.stamp_path, "keep")
    os.mkfifo(keep)
    agent.hook("Notification", notification_type="permission_prompt")
    until(keep.is_file, "the shell that beats")
    keep.unlink()
