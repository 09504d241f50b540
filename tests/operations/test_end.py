"""The end of an agent's session: only by the process that the row records."""

from __future__ import annotations

import pytest
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.end import end


def _agent(sleeper: Sleeper, session: str = "a") -> Caller:
    caller = make_caller(session, anchor=process.read(sleeper().pid))
    return caller._replace(identity=caller.identity._replace(id_from="hook"))


def test_end_releases_what_the_process_holds(table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    assert end(table.database, caller) is None
    claim(table.database, caller, "SD-1")
    ended = end(table.database, caller)
    assert ended and (ended.status, ended.sd_id) == ("released", None)
    assert table.own("a")["release_reason"] == "the agent ended"
    assert end(table.database, caller) is None


def test_end_leaves_a_row_without_process_or_of_another(table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    table.insert("a", sd_id="SD-1", status="active")
    assert end(table.database, caller) is None and table.row("a")["status"] == "active"
    table.execute("DELETE FROM public.claude_sessions")
    first = sleeper()
    claim(table.database, make_caller("a", anchor=process.read(first.pid)), "SD-1")
    with pytest.raises(HeldByAnother):
        end(table.database, caller)
    # Dead, and not yet moved: that is for the reaper.
    first.kill()
    first.wait()
    assert end(table.database, caller) is None
    assert table.row("a")["sd_id"] == "SD-1"


def test_end_leaves_a_loss_unreported(table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    claim(table.database, caller, "SD-1")
    claim(table.database, make_caller("rival"), "SD-1", force_reason="urgent")
    end(table.database, caller)
    lost = table.own("a")["tombstone"]
    assert (lost["sd_id"], lost.get("told")) == ("SD-1", None)


def test_end_leaves_a_session_whose_command_runs(table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    claim(table.database, caller, "SD-1")
    runner = make_caller("x", anchor=process.read(sleeper().pid)).identity.process_record
    assert runner
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,run}',"
        " jsonb_build_object('pid', %s::int, 'start', %s::text, 'boot_id', %s::text, 'pid_ns', %s::text))",
        *(runner[name] for name in ("pid", "start", "boot_id", "pid_ns")),
    )
    assert end(table.database, caller) is None and table.row("a")["sd_id"] == "SD-1"


def test_end_of_a_new_id_ends_the_earlier_holder_too(table: Table, sleeper: Sleeper) -> None:
    first = _agent(sleeper, "first")
    claim(table.database, first, "SD-1")
    second = first.as_session("second")
    second = second._replace(identity=second.identity._replace(id_from="hook"))
    table.insert("second", status="idle")
    end(table.database, second)
    assert table.row("first")["status"] == "released"
