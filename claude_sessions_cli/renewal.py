"""Renew a term, and know until when it can be trusted.

Whoever renews at the moment t may trust the term until t + stale_after, because nobody evicts a holder that beat less
than its recorded `stale_after` ago. t is when the attempt began, read from a clock that also counts the time that the
machine sleeps. What is left after a margin is when TERM is sent, so that KILL comes in time too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from claude_sessions_cli.errors import NotHeld, SessionsError

# Of the window, kept back for TERM to work and for KILL; in seconds at most.
MARGIN_SHARE = 0.2
MARGIN_LIMIT_S = 30.0
# How soon a renewal that failed is tried again, and how many that hang there may be in one window.
RETRY_S = 5.0
HANGING_LIMIT = 10


def uptime() -> float:
    """Return seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    # macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC goes on in sleep.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Trust:
    """A renewal: when its attempt began, and how many seconds of silence the holder's row allows from there."""

    begun: float
    stale_after: float

    @property
    def margin(self) -> float:
        """What is kept back for stopping the command."""
        return min(MARGIN_LIMIT_S, self.stale_after * MARGIN_SHARE)

    @property
    def term_at(self) -> float:
        """When the command has to be told to end."""
        return self.begun + self.stale_after - self.margin

    def kill_at(self, told: float) -> float:
        """Return when a command has to be killed that was told to end at the time `told`."""
        last_moment = self.begun + self.stale_after - self.margin / 4
        return min(told + self.margin / 2, max(told, last_moment))


class Keeper:
    """Renews the term in threads of their own: one that hangs holds up neither signals nor the next attempt."""

    def __init__(self, renew: Callable[[], float], every: float, trust: Trust) -> None:
        """`renew` raises NotHeld where the term is over, and returns the silence in seconds that the row allows."""
        self._renew, self._every = renew, every
        self.trust = trust
        self.due = trust.begun + self._pause()
        self.lost: SessionsError | None = None
        self.failure: SessionsError | None = None

    def turn(self, now: float) -> None:
        """Begin a renewal where one is due."""
        if now >= self.due and self.lost is None:
            self.begin(now)

    def begin(self, now: float) -> None:
        """Begin a renewal, and do not wait for it."""
        self.due = now + max(self._pause(), self.trust.stale_after / HANGING_LIMIT)
        try:
            threading.Thread(target=self._attempt, args=(now,), daemon=True).start()
        except RuntimeError as error:  # there are too many threads
            self._fail(now, SessionsError(str(error)))

    def _attempt(self, begun: float) -> None:
        try:
            stale_after = self._renew()
        except NotHeld as error:
            self.lost = error
        except SessionsError as error:
            self._fail(begun, error)
        except Exception as error:
            self._fail(begun, SessionsError(f"unforeseen: {type(error).__name__}: {error}"))
        else:
            # One that was given up may come in late.
            if begun >= self.trust.begun:
                self.trust, self.failure = Trust(begun, stale_after), None
                self.due = begun + self._pause()

    def _fail(self, begun: float, error: SessionsError) -> None:
        if begun >= self.trust.begun:
            self.due, self.failure = min(self.due, uptime() + min(self._pause(), RETRY_S)), error

    def _pause(self) -> float:
        # The term may have been claimed with another setting than this process has.
        return min(self._every, self.trust.stale_after / 3)
