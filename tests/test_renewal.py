"""The trust window of a renewal and the start of the next one, at chosen times and without a database."""

from __future__ import annotations

import _thread
import sys
import threading
from pathlib import Path

import pytest
from poll import PATIENCE_S, until

from claude_sessions_cli.errors import NotHeld, SessionsError, Unreachable
from claude_sessions_cli.renewal import HANGING_LIMIT, RETRY_S, KeepAlive, TrustWindow
from claude_sessions_cli.times import uptime


class Renewal:
    """A renewal with a chosen outcome; if it hangs, its calls wait for `resume`."""

    def __init__(self, outcome: float | Exception, *, hangs: bool = False) -> None:
        self.outcome = outcome
        self.calls = 0
        self._gate = threading.Event()
        if not hangs:
            self._gate.set()

    def resume(self) -> None:
        self._gate.set()

    def __call__(self) -> float:
        self.calls += 1
        outcome = self.outcome
        assert self._gate.wait(PATIENCE_S)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def keeper(renewal: Renewal, *, every: float = 60, stale_after: float = 900, begun: float = 1000) -> KeepAlive:
    return KeepAlive(renewal, every, TrustWindow(begun, stale_after))


@pytest.mark.parametrize(("stale_after", "terminate_at", "kill_at"), [(900, 870, 885), (100, 80, 90), (3, 2.4, 2.7)])
def test_command_is_terminated_and_killed_before_claim_lapses(
    stale_after: float, terminate_at: float, kill_at: float
) -> None:
    trust = TrustWindow(0, stale_after)
    assert trust.terminate_at == pytest.approx(terminate_at)
    assert trust.kill_at(trust.terminate_at) == pytest.approx(kill_at)


def test_late_notice_leaves_less_time_before_kill() -> None:
    trust = TrustWindow(0, 900)
    assert trust.kill_at(100) == 115
    assert trust.kill_at(885) == 892.5
    assert trust.kill_at(5000) == 5000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc/uptime")
def test_uptime_matches_the_kernels() -> None:
    before = uptime()
    assert before - 0.02 <= float(Path("/proc/uptime").read_text().split()[0]) <= uptime()


def test_due_renewal_is_trusted_from_its_start() -> None:
    renewal = Renewal(700.0)
    kept = keeper(renewal)
    kept.turn(1059.9)
    assert renewal.calls == 0
    kept.turn(1060)
    until(lambda: kept.window == TrustWindow(1060, 700), "the renewal is noted")
    assert kept.due == 1120
    kept.turn(1100)
    assert renewal.calls == 1


def test_hanging_renewal_does_not_delay_the_next() -> None:
    renewal = Renewal(900.0, hangs=True)
    kept = keeper(renewal)
    kept.turn(1060)
    until(lambda: renewal.calls == 1, "it begins")
    kept.turn(1060 + 89)
    assert renewal.calls == 1
    kept.turn(1060 + 90)
    until(lambda: renewal.calls == 2, "the second begins")
    renewal.resume()
    until(lambda: kept.window.begun == 1150, "it is noted")


def test_number_of_hanging_renewals_is_bounded() -> None:
    renewal = Renewal(900.0, hangs=True)
    kept = keeper(renewal, every=0.5)
    for now in range(1000, 1901):
        kept.turn(now)
    until(lambda: renewal.calls >= HANGING_LIMIT, "as many as may hang")
    assert renewal.calls <= HANGING_LIMIT + 1
    renewal.resume()


def test_late_renewal_does_not_undo_a_newer_one() -> None:
    renewal, attempts = Renewal(900.0, hangs=True), _thread._count()
    kept = keeper(renewal)
    kept.begin(1060)
    until(lambda: renewal.calls, "it has begun")
    kept.window = TrustWindow(1500, 900)
    renewal.resume()
    until(lambda: _thread._count() <= attempts, "it has ended")
    assert kept.window == TrustWindow(1500, 900)


def test_failed_renewal_is_retried_soon() -> None:
    renewal = Renewal(Unreachable("no answer", "try again"))
    kept = keeper(renewal, begun=0)
    kept.begin(begun := uptime())
    until(lambda: kept.failure, "its failure is noted")
    assert isinstance(kept.failure, Unreachable)
    assert begun + RETRY_S <= kept.due <= uptime() + RETRY_S
    assert kept.window == TrustWindow(0, 900)
    assert kept.lost is None
    renewal.outcome = 900.0
    kept.begin(kept.due)
    until(lambda: kept.failure is None, "its success is noted")


def test_unexpected_exception_counts_as_failed_renewal() -> None:
    kept = keeper(Renewal(ZeroDivisionError("a bug")), begun=0)
    kept.begin(uptime())
    until(lambda: kept.failure, "its failure is noted")
    assert isinstance(kept.failure, SessionsError)
    assert "a bug" in kept.failure.message


def test_lost_term_is_not_renewed_again() -> None:
    renewal = Renewal(NotHeld("lost to b", "claim it again"))
    kept = keeper(renewal)
    kept.begin(1060)
    until(lambda: kept.lost, "its loss is noted")
    kept.turn(5000)
    assert renewal.calls == 1


def test_thread_limit_counts_as_failed_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    kept = keeper(Renewal(900.0), begun=0)
    kept.begin(uptime())
    assert kept.failure
    assert kept.failure.message == "can't start new thread"


def test_short_window_is_renewed_three_times() -> None:
    renewal = Renewal(6.0)
    kept = keeper(renewal, stale_after=3)
    assert kept.due == 1001
    kept.begin(1001)
    until(lambda: kept.window == TrustWindow(1001, 6), "it is noted")
    assert kept.due == 1003
