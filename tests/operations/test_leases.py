"""Proving a claim, parking it, waiting for it, and keeping one very term."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError, Unreachable, UsageError
from claude_sessions_cli.model import ClaimResult, ProcessRecord
from claude_sessions_cli.operations import leases, sessions
from claude_sessions_cli.operations import reap as reaping
from claude_sessions_cli.operations import run as terms
from claude_sessions_cli.operations import wait as waiting
from claude_sessions_cli.times import fence_of


def _fence(result: ClaimResult) -> int:
    assert result.session.session.fence is not None
    return result.session.session.fence


def test_check_knows_the_holder_and_the_fence(table: Table) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    assert leases.check(table.database, make_caller("a"), "SD-1", fence=fence).session.fence == fence
    assert leases.check(table.database, make_caller("a")).session.sd_id == "SD-1"
    with pytest.raises(NotHeld, match="fence 7 is not current"):
        leases.check(table.database, make_caller("a"), "SD-1", fence=7)
    with pytest.raises(NotHeld, match="does not hold SD-2"):
        leases.check(table.database, make_caller("a"), "SD-2")
    with pytest.raises(NotHeld, match="not registered"):
        leases.check(table.database, make_caller("b"), "SD-1")
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before


def test_check_tells_of_a_loss(table: Table) -> None:
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    sessions.claim(table.database, make_caller("b", now=at(16)), "SD-1")
    with pytest.raises(NotHeld, match=r"lost SD-1 to b .*: silent"):
        leases.check(table.database, make_caller("a"), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1 to b"):
        leases.check(table.database, make_caller("a"))


def test_a_released_row_with_an_old_claim_holds_nothing(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(NotHeld, match="does not hold"):
        leases.check(table.database, make_caller("a"), "SD-1")


def test_a_park_keeps_the_claim_and_is_a_heartbeat(table: Table) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    parked = leases.park(table.database, make_caller("a", now=at(10)), 40 * 60)
    assert parked.session.fence == fence
    assert table.row("a")["heartbeat_at"] == at(10)
    with pytest.raises(HeldByAnother):
        sessions.claim(table.database, make_caller("b", now=at(49)), "SD-1")
    assert reaping.reap(table.database, make_caller(None, now=at(49))).changed == []
    assert sessions.claim(table.database, make_caller("b", now=at(51)), "SD-1").outcome == "took_over"


def test_unpark_takes_the_silence_back(table: Table) -> None:
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    leases.park(table.database, make_caller("a", now=NOON), 40 * 60)
    leases.unpark(table.database, make_caller("a", now=at(1)))
    assert sessions.claim(table.database, make_caller("b", now=at(17)), "SD-1").outcome == "took_over"


def test_a_heartbeat_leaves_a_park_alone(table: Table) -> None:
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    leases.park(table.database, make_caller("a", now=NOON), 30 * 60)
    sessions.heartbeat(table.database, make_caller("a", now=at(1)))
    with pytest.raises(HeldByAnother):
        sessions.claim(table.database, make_caller("b", now=at(29)), "SD-1")


def test_a_park_ends_with_the_claim(table: Table) -> None:
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    leases.park(table.database, make_caller("a", now=NOON), 40 * 60)
    sessions.release(table.database, make_caller("a", now=NOON))
    assert "parked_until" not in table.own("a")


def test_there_is_nothing_to_park_without_a_claim(table: Table) -> None:
    with pytest.raises(NotHeld, match="nothing to park"):
        leases.park(table.database, make_caller("a"), 60)
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    with pytest.raises(UsageError, match="at most 45m"):
        leases.park(table.database, make_caller("a"), 45 * 60 + 1)
    sessions.claim(table.database, make_caller("b", now=at(16)), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1"):
        leases.park(table.database, make_caller("a"), 60)


def _claim_any(table: Table, who: str, *items: str) -> ClaimResult:
    caller = make_caller(who)
    return waiting.claim_any(table.database, caller, items, lambda item: sessions.claim(table.database, caller, item))


def test_any_takes_the_first_free_item(table: Table) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    assert _claim_any(table, "b", "SD-1", "SD-2", "SD-3").session.session.sd_id == "SD-2"
    again = _claim_any(table, "b", "SD-3", "SD-1", "SD-2")
    assert (again.outcome, again.session.session.sd_id) == ("already_yours", "SD-2")
    with pytest.raises(HeldByAnother, match="SD-2 is held by b"):
        _claim_any(table, "c", "SD-2", "SD-1")


def _wait(table: Table, who: str, seconds: float, *items: str) -> ClaimResult:
    caller, database = make_caller(who), table.another()
    return waiting.wait(
        database,
        lambda: waiting.claim_any(database, caller, items, lambda item: sessions.claim(database, caller, item)),
        items,
        seconds,
        lambda left, refusal: None,
    )


def test_a_waiter_gets_the_item_when_it_is_free(table: Table) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    timer = threading.Timer(0.3, lambda: sessions.release(table.another(), make_caller("a")))
    timer.start()
    try:
        assert _wait(table, "b", 20, "SD-1").outcome == "claimed"
    finally:
        timer.join()


def test_a_notification_ends_the_pause(full_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", (60.0, 60.0))
    sessions.claim(full_table.database, make_caller("a"), "SD-1")
    timer = threading.Timer(0.3, lambda: sessions.release(full_table.another(), make_caller("a")))
    timer.start()
    try:
        assert _wait(full_table, "b", 30, "SD-0", "SD-1").session.session.sd_id == "SD-0"
        assert _wait(full_table, "c", 30, "SD-1").session.session.sd_id == "SD-1"
    finally:
        timer.join()


def test_waiting_in_vain_leaves_nothing_behind(table: Table) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    begun = time.monotonic()
    with pytest.raises(HeldByAnother, match="waited in vain: SD-1 is held by a"):
        _wait(table, "b", 0.2, "SD-1")
    assert time.monotonic() - begun >= 0.2
    assert table.execute("SELECT session_id FROM public.claude_sessions WHERE session_id = 'b'") == []


@pytest.mark.parametrize("moment", ["between attempts", "in an attempt"])
def test_a_database_that_goes_away_is_waited_for_too(
    table: Table, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", (0.1, 0.2))
    sessions.claim(table.database, make_caller("a"), "SD-1")
    database, caller, attempts = table.another(), make_caller("b"), 0
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'claude-sessions' AND datname = current_database()"
    )

    def attempt() -> ClaimResult:
        nonlocal attempts
        attempts += 1
        if attempts == 2 and moment == "in an attempt":
            table.execute(cut)
        return sessions.claim(database, caller, "SD-1")

    def progress(left: float, refusal: HeldByAnother) -> None:
        if attempts == 1 and moment == "between attempts":
            table.execute(cut)
        if attempts >= 3:
            sessions.release(table.another(), make_caller("a"))

    assert waiting.wait(database, attempt, ["SD-1"], 60, progress).outcome == "claimed"


def test_a_database_that_does_not_come_back_in_time_is_told(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    database, attempts = table.another(), 0

    def attempt() -> ClaimResult:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            raise Unreachable("the database went away")
        return sessions.claim(database, make_caller("b"), "SD-1")

    monkeypatch.setattr(waiting, "POLL_S", (0.01, 0.02))
    with pytest.raises(Unreachable, match="went away"):
        waiting.wait(database, attempt, ["SD-1"], 1.5, lambda left, refusal: None)
    assert attempts > 2
    with pytest.raises(Unreachable):
        waiting.wait(database, attempt, ["SD-1"], 60, lambda left, refusal: None)


def test_a_term_is_renewed_by_its_fence_alone(table: Table) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    before = table.row("a")
    terms.renew(table.database, make_caller("a", now=at(1)), "SD-1", fence)
    assert table.row("a") == {**before, "heartbeat_at": at(1)}
    with pytest.raises(NotHeld, match="is not current"):
        terms.renew(table.database, make_caller("a", now=at(2)), "SD-1", fence + 1)
    with pytest.raises(NotHeld, match="does not hold SD-2"):
        terms.renew(table.database, make_caller("a", now=at(2)), "SD-2", fence)
    assert table.row("a")["heartbeat_at"] == at(1)
    sessions.claim(table.database, make_caller("b", now=at(17)), "SD-1")
    with pytest.raises(NotHeld, match="lost SD-1 to b"):
        terms.renew(table.database, make_caller("a", now=at(18)), "SD-1", fence)


def test_an_ended_session_renews_no_term(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(SessionsError):
        terms.renew(table.database, make_caller("a", now=at(1)), "SD-1", 1767268800000000)
    assert table.row("a")["heartbeat_at"] == NOON


def test_a_term_that_is_over_is_not_released(table: Table) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    sessions.release(table.database, make_caller("a", now=NOON))
    second = _fence(sessions.claim(table.database, make_caller("a", now=at(1)), "SD-1"))
    terms.release(table.database, make_caller("a", now=at(2)), "SD-1", fence, reason="completed")
    assert table.row("a")["sd_id"] == "SD-1"
    terms.release(table.database, make_caller("a", now=at(2)), "SD-1", second, reason="completed")
    assert (table.row("a")["sd_id"], table.row("a")["status"]) == (None, "released")


RUNNER = ProcessRecord(1, "1", "another boot", "pid:[1]")


def test_one_command_runs_under_a_claim(table: Table) -> None:
    host, itself = process.this_host(), process.read(1)
    runner, later = ProcessRecord(itself.pid, itself.start, host.boot_id, host.pid_ns), process.read(os.getpid()).start
    fence = _fence(sessions.claim(table.database, make_caller("a"), "SD-1"))
    terms.enter(table.database, make_caller("a"), runner)
    with pytest.raises(HeldByAnother, match="a command runs under SD-1"):
        terms.enter(table.database, make_caller("a"), runner)
    terms.leave(table.database, make_caller("a"), replace(runner, start=later), "SD-1", fence)
    with pytest.raises(HeldByAnother):
        terms.enter(table.database, make_caller("a"), runner)
    terms.leave(table.database, make_caller("a"), runner, "SD-1", fence)
    terms.enter(table.database, make_caller("a"), replace(runner, start=later))
    terms.enter(table.database, make_caller("a"), replace(runner, boot_id="an earlier boot"))
    # What it cannot read says nothing.
    terms.enter(table.database, make_caller("a"), replace(runner, start="at noon"))
    with pytest.raises(HeldByAnother):
        terms.enter(table.database, make_caller("a"), runner)
    assert table.row("a")["sd_id"] == "SD-1"


@pytest.mark.parametrize("nonsense", [{"pid": "x", "start": "1"}, {"pid": 1}, "a word", None])
def test_what_another_program_wrote_for_a_command_is_none(table: Table, nonsense: object) -> None:
    sessions.claim(table.database, make_caller("a"), "SD-1")
    host = process.this_host()
    if isinstance(nonsense, dict):
        nonsense = {"boot_id": host.boot_id, "pid_ns": host.pid_ns, **nonsense}
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,run}', %s::jsonb)",
        json.dumps(nonsense),
    )
    terms.enter(table.database, make_caller("a"), RUNNER)


def test_a_run_makes_others_respect_the_term_that_it_trusts(table: Table) -> None:
    table.insert("a", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=NOON)
    terms.enter(table.database, make_caller("a", now=NOON, stale_after=1800), RUNNER)
    with pytest.raises(HeldByAnother):
        sessions.claim(table.database, make_caller("b", now=at(29), stale_after=300), "SD-1")
    terms.enter(table.database, make_caller("a", now=NOON, stale_after=300), RUNNER)
    assert table.own("a")["stale_after"] == 1800, "a shorter one takes nothing from a term that was begun"


Ending = Callable[[Table, int], None]


def _leave(table: Table, fence: int) -> None:
    terms.leave(table.database, make_caller("a", now=at(2)), RUNNER, "SD-1", fence)


def _outlive(table: Table, fence: int) -> None:
    terms.outlive_process(table.database, make_caller("a", now=at(2)), "SD-1", fence)


def _release(table: Table, fence: int) -> None:
    terms.release(table.database, make_caller("a", now=at(2)), "SD-1", fence, reason="completed")


each_ending = pytest.mark.parametrize("end", [_leave, _outlive, _release])


@each_ending
def test_a_run_that_lost_its_term_is_told_so_at_its_end(table: Table, end: Ending) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    sessions.claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    with pytest.raises(NotHeld, match=r"lost SD-1 to b under fence .*urgent"):
        end(table, fence)
    assert table.row("a")["status"] == ("idle" if end is _leave else "released")
    assert table.row("b")["sd_id"] == "SD-1"


@each_ending
def test_a_run_that_lost_its_term_to_another_program_is_told_so_at_its_end(table: Table, end: Ending) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    table.execute("UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL")
    table.insert("theirs", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
    with pytest.raises(NotHeld, match=f"held by theirs under the later fence {fence_of(at(1))}"):
        end(table, fence)


@each_ending
def test_a_run_whose_session_was_deleted_is_told_so_at_its_end(table: Table, end: Ending) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    table.execute("DELETE FROM public.claude_sessions")
    with pytest.raises(NotHeld, match="session a was deleted"):
        end(table, fence)


@each_ending
def test_a_run_whose_session_gave_its_claim_back_ends_in_peace(table: Table, end: Ending) -> None:
    fence = _fence(sessions.claim(table.database, make_caller("a", now=NOON), "SD-1"))
    sessions.release(table.database, make_caller("a", now=at(1)))
    end(table, fence)
    assert table.row("a")["sd_id"] is None


def test_of_two_whom_another_program_gave_an_item_the_later_holds_it(seed_dsn: str) -> None:
    table = Table(seed_dsn)
    with table.stack:
        for name, minutes in (("first", 1.0), ("last", 2.0), ("none", None), ("over", 9.0)):
            status, claimed = "released" if name == "over" else "active", at(minutes) if minutes else None
            table.insert(name, sd_id="SD-1", status=status, claimed_at=claimed, heartbeat_at=at(2))
        table.insert("elsewhere", sd_id="SD-2", status="active", claimed_at=at(9), heartbeat_at=at(2))
        assert leases.check(table.database, make_caller("last", now=at(3)), "SD-1").session.fence == fence_of(at(2))
        for name in ("first", "none"):
            with pytest.raises(NotHeld, match=f"held by last under the later fence {fence_of(at(2))}"):
                leases.check(table.database, make_caller(name, now=at(3)), "SD-1")
        table.execute("UPDATE public.claude_sessions SET claimed_at = %s WHERE session_id = 'first'", at(2))
        with pytest.raises(NotHeld, match="held by last"):
            leases.check(table.database, make_caller("first", now=at(3)), "SD-1")
        assert leases.check(table.database, make_caller("last", now=at(3)), "SD-1")


def test_a_stale_row_with_a_claim_goes_through_a_heartbeat_or_a_claim(table: Table) -> None:
    table.insert("a", sd_id="SD-1", status="stale", claimed_at=NOON, heartbeat_at=NOON)
    says = "found silent, and SD-1 may be another's by now"
    with pytest.raises(NotHeld, match=says):
        leases.check(table.database, make_caller("a", now=at(1)), "SD-1")
    with pytest.raises(NotHeld, match=says):
        leases.park(table.database, make_caller("a", now=at(1)), 60)
    with pytest.raises(NotHeld, match=says):
        terms.enter(table.database, make_caller("a", now=at(1)), RUNNER)
    sessions.heartbeat(table.database, make_caller("a", now=at(1)))
    assert leases.park(table.database, make_caller("a", now=at(1)), 60).session.sd_id == "SD-1"


def test_a_loss_stands_though_another_program_gives_the_item_back(table: Table) -> None:
    sessions.claim(table.database, make_caller("a", now=NOON), "SD-1")
    sessions.claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    sessions.release(table.database, make_caller("b", now=at(2)))
    given = "UPDATE public.claude_sessions SET sd_id = 'SD-1', claimed_at = %s WHERE session_id = 'a'"
    table.execute(given, at(3))
    for item in ("SD-1", None):
        with pytest.raises(NotHeld, match="lost SD-1 to b"):
            leases.check(table.database, make_caller("a", now=at(4)), item)
    sessions.claim(table.database, make_caller("a", now=at(5)), "SD-1")
    assert leases.check(table.database, make_caller("a", now=at(6)), "SD-1")
