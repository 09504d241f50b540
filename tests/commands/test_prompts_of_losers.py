"""Whoever ends another session's claim on this host corrects the prompt of its terminal at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Cli, Sleeper, Table, make_caller
from requirements import needs_proc

from claude_sessions_cli import process, prompt
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.process import Process
from commands.answers import Inside

pytestmark = needs_proc

BY_SILENCE = {
    "takeover": ["claim", "SD-1"],
    "takeover after waiting": ["claim", "SD-1", "SD-2", "--any", "--wait", "10s"],
    "run": ["run", "SD-1", "--", "true"],
    "reap": ["reap"],
    "timer": ["upkeep"],
}


@pytest.fixture
def loser(full_table: Table, sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Return the process of a silent terminal that shows its claim; its start, as from `ps`, proves no life."""
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    found = process.read(sleeper().pid)
    anchor = Process(found.pid, found.ppid, "/dev/pts/3", "Tue_Nov_24_12:00:00_2026", zombie=False, name="bash")
    held = claim(full_table.database, make_caller("loser", anchor=anchor), "SD-1").session.session
    full_table.execute("UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at - interval '1 hour'")
    prompt.write(os.environ, anchor, prompt.State.of(held, full_table.database.name))
    return anchor


def shown(anchor: Process) -> str:
    state = prompt.read(os.environ, anchor)
    assert state
    return state.segment(state.since)


@pytest.mark.faults
@pytest.mark.parametrize("how", BY_SILENCE)
def test_loss_to_silence_is_shown_at_once(full_table: Table, loser: Process, cli: Cli, how: str) -> None:
    assert shown(loser) == "SD-1 0s"
    done = cli(*BY_SILENCE[how], env={"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "thief"})
    assert done.returncode == 0, done.stderr
    assert shown(loser) == "LOST SD-1"


def test_dry_run_of_reap_changes_no_prompt(full_table: Table, loser: Process, cli: Cli) -> None:
    assert cli("reap", "--dry-run", env={"CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    assert shown(loser) == "SD-1 0s"


@pytest.mark.parametrize("part", ["boot_id", "pid_ns"])
def test_process_of_another_host_is_not_looked_for(full_table: Table, loser: Process, cli: Cli, part: str) -> None:
    assert this_host().boot_id
    change = json.dumps({**full_table.own("loser")["process"], part: "another"})
    full_table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,process}', %s::jsonb)",
        change,
    )
    assert cli("reap", env={"CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    assert full_table.row("loser")["sd_id"] is None
    assert shown(loser) == "SD-1 0s"


def test_heartbeat_shows_a_claim_that_another_program_cleared(
    full_table: Table, sleeper: Sleeper, inside: Inside
) -> None:
    here = process.read(sleeper().pid)
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "x"}
    beat = ["heartbeat", "--register", "--quiet", "--pid", str(here.pid)]
    assert inside("claim", "SD-1", "--pid", str(here.pid), env=env).returncode == 0
    full_table.execute(
        "UPDATE public.claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'stale'"
    )
    for _ in range(2):
        assert inside(*beat, env=env).returncode == 4
        assert shown(here) == "LOST SD-1"


def test_forced_move_is_shown_at_once(full_table: Table, loser: Process, sleeper: Sleeper, cli: Cli) -> None:
    full_table.execute("UPDATE public.claude_sessions SET heartbeat_at = clock_timestamp()")
    argv = ["claim", "SD-1", "--force", "--reason", "resumed there", "--pid", str(sleeper().pid)]
    done = cli(*argv, env={"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "loser"})
    assert done.stdout.startswith("moved here: SD-1"), done.stderr
    assert shown(loser) == "LOST SD-1"


@pytest.mark.parametrize(("how", "code"), [("forced", 4), ("lapsed", 3)])
def test_heartbeat_shows_that_the_session_moved(
    full_table: Table, sleeper: Sleeper, inside: Inside, how: str, code: int
) -> None:
    here, there, third = (process.read(sleeper().pid) for _ in range(3))
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "x"}
    assert inside("claim", "SD-1", "--pid", str(here.pid), env=env).returncode == 0
    assert shown(here) == "SD-1 0s"
    if how == "lapsed":
        full_table.execute(
            "UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at - interval '1 hour',"
            " metadata = jsonb_set(metadata, '{claude_sessions_cli,process,pid_ns}', '\"pid:[1]\"')"
        )
    reason = "resumed there" if how == "forced" else None
    claim(full_table.database, make_caller("x", anchor=there), "SD-1", force_reason=reason)
    assert inside("heartbeat", "--pid", str(here.pid), env=env).returncode == code
    assert shown(here) == "LOST SD-1"
    assert inside("heartbeat", "--pid", str(third.pid), env=env).returncode == 3
    assert prompt.read(os.environ, third) is None
