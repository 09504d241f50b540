"""Claims that wait: the first free item, notifications, and outages of the database."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import Table, make_caller

from claude_sessions_cli.errors import HeldByAnother, Unreachable
from claude_sessions_cli.operations import wait
from claude_sessions_cli.operations.claim import ClaimResult, claim
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.operations.wait import claim_any


def _claim_any(table: Table, session: str, *items: str) -> ClaimResult:
    caller = make_caller(session)
    return claim_any(table.database, caller, items, lambda item: claim(table.database, caller, item))


def test_any_takes_first_free_item(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    assert _claim_any(table, "b", "SD-1", "SD-2", "SD-3").session.session.sd_id == "SD-2"
    again = _claim_any(table, "b", "SD-3", "SD-1", "SD-2")
    assert (again.outcome, again.session.session.sd_id) == ("already_yours", "SD-2")
    with pytest.raises(HeldByAnother, match="SD-2 is held by b"):
        _claim_any(table, "c", "SD-2", "SD-1")


def _wait(table: Table, session: str, seconds: float, *items: str) -> ClaimResult:
    caller, database = make_caller(session), table.another()
    return wait.wait(
        database,
        lambda: claim_any(database, caller, items, lambda item: claim(database, caller, item)),
        items,
        time.monotonic() + seconds,
        lambda left, refusal: None,
    )


def test_waiter_gets_item_when_released(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    timer = threading.Timer(0.3, lambda: release(table.another(), make_caller("a")))
    timer.start()
    try:
        assert _wait(table, "b", 20, "SD-1").outcome == "claimed"
    finally:
        timer.join()


def test_notification_ends_pause(full_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.wait.POLL_S", (60.0, 60.0))
    claim(full_table.database, make_caller("a"), "SD-1")
    timer = threading.Timer(0.3, lambda: release(full_table.another(), make_caller("a")))
    timer.start()
    try:
        assert _wait(full_table, "b", 30, "SD-0", "SD-1").session.session.sd_id == "SD-0"
        assert _wait(full_table, "c", 30, "SD-1").session.session.sd_id == "SD-1"
    finally:
        timer.join()


def test_timed_out_wait_leaves_no_row(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    begun = time.monotonic()
    with pytest.raises(HeldByAnother, match="gave up waiting: SD-1 is held by a"):
        _wait(table, "b", 0.2, "SD-1")
    assert time.monotonic() - begun >= 0.2
    assert table.execute("SELECT session_id FROM public.claude_sessions WHERE session_id = 'b'") == []


@pytest.mark.parametrize("moment", ["between attempts", "in an attempt"])
def test_wait_survives_outage_of_database(table: Table, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.wait.POLL_S", (0.1, 0.2))
    claim(table.database, make_caller("a"), "SD-1")
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
        return claim(database, caller, "SD-1")

    def progress(left: float, refusal: HeldByAnother | None) -> None:
        if attempts == 1 and moment == "between attempts":
            table.execute(cut)
        if attempts >= 3:
            release(table.another(), make_caller("a"))

    assert wait.wait(database, attempt, ["SD-1"], time.monotonic() + 60, progress).outcome == "claimed"


@pytest.mark.faults
def test_wait_fails_if_outage_outlasts_it(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    database, attempts = table.another(), 0

    def attempt() -> ClaimResult:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            raise Unreachable("the database went away", "try again")
        return claim(database, make_caller("b"), "SD-1")

    monkeypatch.setattr("claude_sessions_cli.operations.wait.POLL_S", (0.01, 0.02))
    with pytest.raises(Unreachable, match="went away"):
        wait.wait(database, attempt, ["SD-1"], time.monotonic() + 1.5, lambda left, refusal: None)
    assert attempts > 2
    with pytest.raises(Unreachable):
        wait.wait(database, attempt, ["SD-1"], time.monotonic() + 60, lambda left, refusal: None)
