"""The term of a run: renewed, entered, left, outlived and released by its fence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from clock import NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import ProcessRecord
from claude_sessions_cli.operations import term
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.times import fence_of, uptime
from operations.claims import RUNNER, fence_of_claim


def test_term_is_renewed_only_by_its_fence(table: Table) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    before = table.row("a")
    term.renew(table.database, make_caller("a", now=at(1)), "SD-1", fence)
    assert table.row("a") == {**before, "heartbeat_at": at(1)}
    with pytest.raises(NotHeld, match="is not current"):
        term.renew(table.database, make_caller("a", now=at(2)), "SD-1", fence + 1)
    with pytest.raises(NotHeld, match="does not hold SD-2"):
        term.renew(table.database, make_caller("a", now=at(2)), "SD-2", fence)
    assert table.row("a")["heartbeat_at"] == at(1)
    claim(table.database, make_caller("b", now=at(17)), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1 to b"):
        term.renew(table.database, make_caller("a", now=at(18)), "SD-1", fence)


def test_ended_session_cannot_renew_term(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(SessionsError):
        term.renew(table.database, make_caller("a", now=at(1)), "SD-1", 1767268800000000)
    assert table.row("a")["heartbeat_at"] == NOON


def test_release_of_past_term_changes_nothing(table: Table) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    release(table.database, make_caller("a", now=NOON))
    second = fence_of_claim(claim(table.database, make_caller("a", now=at(1)), "SD-1"))
    term.release(table.database, make_caller("a", now=at(2)), "SD-1", fence, reason="completed")
    assert table.row("a")["sd_id"] == "SD-1"
    term.release(table.database, make_caller("a", now=at(2)), "SD-1", second, reason="completed")
    assert (table.row("a")["sd_id"], table.row("a")["status"]) == (None, "released")


def test_second_command_under_claim_is_refused(table: Table) -> None:
    host, itself = this_host(), process.read(1)
    runner, later = ProcessRecord(itself.pid, itself.start, host.boot_id, host.pid_ns), process.read(os.getpid()).start
    fence = fence_of_claim(claim(table.database, make_caller("a"), "SD-1"))
    term.enter(table.database, make_caller("a"), runner, "SD-1")
    with pytest.raises(HeldByAnother, match="a command is already running under SD-1"):
        term.enter(table.database, make_caller("a"), runner, "SD-1")
    term.leave(table.database, make_caller("a"), runner._replace(start=later), "SD-1", fence)
    with pytest.raises(HeldByAnother):
        term.enter(table.database, make_caller("a"), runner, "SD-1")
    term.leave(table.database, make_caller("a"), runner, "SD-1", fence)
    term.enter(table.database, make_caller("a"), runner._replace(start=later), "SD-1")
    # Nobody here knows whether a command of another boot still runs: it counts until the session lapses.
    unknown = runner._replace(boot_id="another boot")
    term.enter(table.database, make_caller("a"), unknown, "SD-1")
    with pytest.raises(HeldByAnother):
        term.enter(table.database, make_caller("a"), runner, "SD-1")
    term.leave(table.database, make_caller("a"), unknown, "SD-1", fence)
    # A malformed start time is ignored.
    term.enter(table.database, make_caller("a"), runner._replace(start="at noon"), "SD-1")
    with pytest.raises(HeldByAnother):
        term.enter(table.database, make_caller("a"), runner, "SD-1")
    assert table.row("a")["sd_id"] == "SD-1"


def test_command_does_not_enter_under_another_item(table: Table) -> None:
    # As after `claim SD-2 --switch` in another command of the session.
    claim(table.database, make_caller("a"), "SD-2")
    with pytest.raises(NotHeld, match="holds SD-2 now, not SD-1"):
        term.enter(table.database, make_caller("a"), RUNNER, "SD-1")
    assert "run" not in table.own("a")


@pytest.mark.parametrize("nonsense", [{"pid": "x", "start": "1"}, {"pid": 1}, "a word", None])
def test_malformed_command_record_is_ignored(table: Table, nonsense: object) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    host = this_host()
    if isinstance(nonsense, dict):
        nonsense = {"boot_id": host.boot_id, "pid_ns": host.pid_ns, **nonsense}
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,run}', %s::jsonb)",
        json.dumps(nonsense),
    )
    term.enter(table.database, make_caller("a"), RUNNER, "SD-1")


@pytest.mark.parametrize(
    ("machine", "hostname", "age_s", "may_run"),
    [
        ("this", "here", 60, False),
        ("this", "here", -60, True),
        ("this", "renamed", 60, True),
        ("other", "here", 60, True),
        (None, "here", 60, True),
    ],
)
def test_command_of_an_earlier_boot_is_over(
    table: Table, machine: str | None, hostname: str, age_s: float, may_run: bool
) -> None:
    caller = make_caller("a")
    host = this_host()._replace(hostname="here", machine_id="this", pid_ns="pid:[4026531836]")
    booted = caller._replace(identity=caller.identity._replace(host=host))
    claim(table.database, booted, "SD-1")
    earlier = ProcessRecord(1, "1", "earlier", host.pid_ns, machine)
    term.enter(table.database, booted, earlier, "SD-1")
    # A name and a machine id can be copied with an image: a heartbeat since the boot proves another machine.
    table.execute(
        "UPDATE public.claude_sessions SET hostname = %s, heartbeat_at = clock_timestamp() - %s * interval '1 second'",
        hostname,
        max(0, uptime() + age_s),
    )
    if may_run:
        with pytest.raises(HeldByAnother, match="a command is already running under SD-1"):
            term.enter(table.database, booted, RUNNER, "SD-1")
    else:
        term.enter(table.database, booted, RUNNER, "SD-1")


def test_run_extends_recorded_patience(table: Table) -> None:
    table.insert("a", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=NOON)
    term.enter(table.database, make_caller("a", now=NOON, stale_after=1800), RUNNER, "SD-1")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(29), stale_after=300), "SD-1")
    term.leave(table.database, make_caller("a", now=NOON), RUNNER, "SD-1", fence_of(NOON) or 0)
    term.enter(table.database, make_caller("a", now=NOON, stale_after=300), RUNNER, "SD-1")
    assert table.own("a")["stale_after"] == 1800, "a shorter one takes nothing from a term that was begun"


def test_refresh_takes_no_patience_from_a_command(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON, stale_after=1800), "SD-1")
    term.enter(table.database, make_caller("a", now=NOON, stale_after=1800), RUNNER, "SD-1")
    claim(table.database, make_caller("a", now=at(1), stale_after=300), "SD-1")
    assert table.own("a")["stale_after"] == 1800
    term.leave(table.database, make_caller("a", now=at(2)), RUNNER, "SD-1", fence_of(table.row("a")["claimed_at"]) or 0)
    claim(table.database, make_caller("a", now=at(3), stale_after=300), "SD-1")
    assert table.own("a")["stale_after"] == 300


Give = Callable[[Table, Caller], object]
GIVES: dict[str, Give] = {
    "release": lambda table, caller: release(table.database, caller),
    "release --end": lambda table, caller: release(table.database, caller, end=True),
    "claim --switch": lambda table, caller: claim(table.database, caller, "SD-2", switch=True),
}


@pytest.mark.parametrize("give", GIVES)
def test_item_of_a_running_command_is_not_given_back(table: Table, sleeper: Sleeper, give: str) -> None:
    run, host, caller = sleeper(), this_host(), make_caller("a", now=NOON)
    runner = ProcessRecord(run.pid, process.read(run.pid).start, host.boot_id, host.pid_ns)
    fence = fence_of_claim(claim(table.database, caller, "SD-1"))
    term.enter(table.database, caller, runner, "SD-1")
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    with pytest.raises(HeldByAnother, match=rf"a command is running under SD-1 .*pid {run.pid}\)") as refused:
        GIVES[give](table, make_caller("a", now=at(1)))
    assert refused.value.hint == f"wait for its end, or end it: kill {run.pid}"
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before
    inside = caller._replace(identity=caller.identity._replace(run_fence=fence))
    GIVES[give](table, inside)
    assert table.row("a")["sd_id"] == ("SD-2" if give == "claim --switch" else None)


@pytest.mark.parametrize("fate", ["dead", "unknown"])
def test_command_that_is_not_proven_to_run_keeps_nothing(table: Table, sleeper: Sleeper, fate: str) -> None:
    run, host = sleeper(), this_host()
    boot = host.boot_id if fate == "dead" else "another boot"
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    runner = ProcessRecord(run.pid, process.read(run.pid).start, boot, host.pid_ns)
    term.enter(table.database, make_caller("a", now=NOON), runner, "SD-1")
    run.kill()
    run.wait()
    assert release(table.database, make_caller("a", now=at(1))).outcome == "released"


def test_run_gives_the_claim_of_an_ended_shell_back(table: Table, sleeper: Sleeper) -> None:
    shell = sleeper()
    caller = make_caller("a", anchor=process.read(shell.pid))
    fence = fence_of_claim(claim(table.database, caller, "SD-1"))
    term.enter(table.database, caller, RUNNER, "SD-1")
    term.leave(table.database, caller, RUNNER, "SD-1", fence)
    assert table.row("a")["sd_id"] == "SD-1"
    term.enter(table.database, caller, RUNNER, "SD-1")
    shell.kill()
    shell.wait()
    term.leave(table.database, caller, RUNNER, "SD-1", fence)
    assert (table.row("a")["status"], table.row("a")["sd_id"]) == ("released", None)


Ending = Callable[[Table, int], None]


def _leave(table: Table, fence: int) -> None:
    term.leave(table.database, make_caller("a", now=at(2)), RUNNER, "SD-1", fence)


def _outlive(table: Table, fence: int) -> None:
    term.outlive_process(table.database, make_caller("a", now=at(2)), "SD-1", fence)


def _release(table: Table, fence: int) -> None:
    term.release(table.database, make_caller("a", now=at(2)), "SD-1", fence, reason="completed")


each_ending = pytest.mark.parametrize("end", [_leave, _outlive, _release])


@each_ending
def test_run_reports_lost_term_at_end(table: Table, end: Ending) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    with pytest.raises(NotHeld, match=r"lost SD-1 to b under fence .*urgent"):
        end(table, fence)
    assert table.row("a")["status"] == ("idle" if end is _leave else "released")
    assert table.row("b")["sd_id"] == "SD-1"


@each_ending
def test_run_reports_term_lost_to_other_program(table: Table, end: Ending) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    table.execute("UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL")
    table.insert("theirs", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
    with pytest.raises(NotHeld, match=f"lost SD-1 to theirs under fence {fence_of(at(1))}"):
        end(table, fence)


@each_ending
def test_run_reports_deleted_session(table: Table, end: Ending) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    table.execute("DELETE FROM public.claude_sessions")
    with pytest.raises(NotHeld, match="session a was deleted"):
        end(table, fence)


@each_ending
def test_run_ends_quietly_after_own_release(table: Table, end: Ending) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    release(table.database, make_caller("a", now=at(1)))
    end(table, fence)
    assert table.row("a")["sd_id"] is None


@each_ending
def test_rival_of_the_next_item_took_no_earlier_term(table: Table, end: Ending) -> None:
    fence = fence_of_claim(claim(table.database, make_caller("a", now=NOON), "SD-1"))
    claim(table.database, make_caller("a", now=at(1)), "SD-2", switch=True)
    table.insert("theirs", sd_id="SD-2", status="stale", claimed_at=at(2), heartbeat_at=at(2))
    end(table, fence)
    assert table.row("a")["sd_id"] == "SD-2"


def test_new_term_inherits_no_command(table: Table) -> None:
    # A container that was killed leaves a command that nobody can judge; its item must be free for the next one.
    unknown = RUNNER._replace(boot_id="another boot")
    claim(table.database, make_caller("worker", now=NOON), "SD-1")
    term.enter(table.database, make_caller("worker", now=NOON), unknown, "SD-1")
    release(table.database, make_caller("worker", now=at(1)), end=True)
    claim(table.database, make_caller("worker", now=at(2)), "SD-1")
    assert term.enter(table.database, make_caller("worker", now=at(2)), RUNNER, "SD-1")
