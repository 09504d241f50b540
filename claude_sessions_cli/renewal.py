"""The keep-alive of a term, and its trust window: until when the term can be trusted.

A renewal that begins at the time t may be trusted until t + stale_after, because nobody evicts a holder whose last
heartbeat is younger than its recorded `stale_after`. The clock also counts the time that the machine sleeps. The
command is sent TERM a margin before the window ends, so that KILL comes in time too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from claude_sessions_cli import threads
from claude_sessions_cli.errors import REPORT, NotHeld, SessionsError
from claude_sessions_cli.times import uptime

# The part of the window, and its limit in seconds, that is kept for TERM and KILL.
MARGIN_SHARE = 0.2
MARGIN_LIMIT_S = 30.0
# The pause after a failed renewal, and how many renewals may hang in one window.
RETRY_S = 5.0
HANGING_LIMIT = 10


@dataclass(frozen=True, slots=True)
class TrustWindow:
    """When the attempt of a renewal began, and the seconds of silence that the holder's row allows from then."""

    begun: float
    stale_after: float

    @property
    def margin(self) -> float:
        """The seconds kept for stopping the command."""
        return min(MARGIN_LIMIT_S, self.stale_after * MARGIN_SHARE)

    @property
    def terminate_at(self) -> float:
        """When to send the command TERM."""
        return self.begun + self.stale_after - self.margin

    def kill_at(self, terminated_at: float) -> float:
        """Return when to send KILL to a command that was sent TERM at `terminated_at`."""
        last_moment = self.begun + self.stale_after - self.margin / 4
        return min(terminated_at + self.margin / 2, max(terminated_at, last_moment))


class KeepAlive:
    """Renews a term in threads, so that one that hangs delays neither signals nor the next attempt."""

    def __init__(self, renew: Callable[[], float], every: float, window: TrustWindow) -> None:
        """`renew` raises NotHeld if the term is over, and returns the seconds of silence that the row allows."""
        self._renew, self._every = renew, every
        self.window = window
        self.due = window.begun + self._pause()
        self.lost: SessionsError | None = None
        self.failure: SessionsError | None = None

    def turn(self, now: float) -> None:
        """Begin a renewal if one is due."""
        if now >= self.due and self.lost is None:
            self.begin(now)

    def begin(self, now: float) -> None:
        """Begin a renewal without waiting for it."""
        self.due = now + max(self._pause(), self.window.stale_after / HANGING_LIMIT)
        try:
            threads.start(lambda: self._attempt(now))
        except RuntimeError as error:  # too many threads
            self._fail(now, SessionsError(str(error), "end other programs"))

    def _attempt(self, begun: float) -> None:
        try:
            stale_after = self._renew()
        except NotHeld as error:
            self.lost = error
        except SessionsError as error:
            self._fail(begun, error)
        except Exception as error:
            self._fail(begun, SessionsError(f"unforeseen: {type(error).__name__}: {error}", REPORT))
        else:
            # An earlier attempt may end after a later one.
            if begun >= self.window.begun:
                self.window, self.failure = TrustWindow(begun, stale_after), None
                self.due = begun + self._pause()

    def _fail(self, begun: float, error: SessionsError) -> None:
        if begun >= self.window.begun:
            self.due, self.failure = min(self.due, uptime() + min(self._pause(), RETRY_S)), error

    def _pause(self) -> float:
        # The term may have been claimed with another setting than this process uses.
        return min(self._every, self.window.stale_after / 3)
