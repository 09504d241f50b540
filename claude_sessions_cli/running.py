"""Keep a claim while a command runs, and stop the command before anyone else can have the claim.

The trust window: whoever renews at the moment t may be sure of its term until t + stale_after, because nobody evicts a
holder that beat less than `stale_after` ago. t is when the attempt began, read from a clock that also counts the time
that the machine sleeps. What is left of the window after a margin is when TERM is sent, so that KILL comes in time too.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from claude_sessions_cli.errors import NotHeld, SessionsError

# Of the window, kept back for TERM to work and for KILL; in seconds at most.
MARGIN_SHARE = 0.2
MARGIN_LIMIT_S = 30.0
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1


def uptime() -> float:
    """Return seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    # macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC goes on in sleep.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Window:
    """How long a renewal may be trusted, in seconds."""

    stale_after: float

    @property
    def margin(self) -> float:
        """What is kept back for stopping the command."""
        return min(MARGIN_LIMIT_S, self.stale_after * MARGIN_SHARE)

    def term_at(self, renewed: float) -> float:
        """Return when TERM is due after a renewal that was begun at `renewed`."""
        return renewed + self.stale_after - self.margin

    @property
    def grace(self) -> float:
        """How long the command may take to end after TERM."""
        return self.margin / 2


class Keeper(threading.Thread):
    """Renews the term beside the command; its own connection may hang without holding up signals."""

    def __init__(self, renew: Callable[[], object], every: float, renewed: float) -> None:
        super().__init__(daemon=True)
        self._renew, self._every = renew, every
        self._stopped = threading.Event()
        self.renewed = renewed
        self.lost: SessionsError | None = None
        self.failure: SessionsError | None = None

    def run(self) -> None:
        """Renew until stopped or until the term is over; a failure is tried again soon."""
        pause = self._every
        while not self._stopped.wait(pause):
            begun = uptime()
            try:
                self._renew()
                self.renewed, self.failure, pause = begun, None, self._every
            except NotHeld as error:
                self.lost = error
                return
            except SessionsError as error:
                self.failure, pause = error, min(self._every, 5.0)

    def stop(self) -> None:
        """End the renewals, waiting a little for one that is under way."""
        self._stopped.set()
        self.join(timeout=10)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code (128 + n for signal n), or the error that it was stopped for."""

    code: int
    stopped_for: SessionsError | None = None


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    keeper: Keeper,
    window: Window,
    tell: Callable[[str], None],
) -> Finished:
    """Run a command in a process group of its own, with the terminal if this process had it; see the module.

    `tell` is called with a line for a person when the command has to be stopped. Raises OSError where it cannot start.
    """
    return _Runner(command, environment, keeper, window, tell).run()


class _Runner:
    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        keeper: Keeper,
        window: Window,
        tell: Callable[[str], None],
    ) -> None:
        self._command, self._environment, self._keeper, self._window = command, environment, keeper, window
        self._tell = tell
        self._terminal = _foreground_terminal()
        # In a pipeline another program may need the terminal: the command gets it when it asks.
        self._hand_over = self._terminal is not None and os.isatty(0) and os.isatty(1)
        self._pending: list[int] = []
        self._kill_at: float | None = None
        self._stopped_for: SessionsError | None = None

    def run(self) -> Finished:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watched = (*FORWARDED, signal.SIGCHLD, signal.SIGCONT, signal.SIGTSTP)
        handlers = {number: signal.signal(number, self._note) for number in watched}
        ignored = signal.signal(
            signal.SIGTTOU, signal.SIG_IGN
        )  # this process hands the terminal over and takes it back
        try:
            self._child = self._start(handlers)
            self._keeper.start()
            code = self._watch(reader)
            self._give_terminal(os.getpgrp())
            return Finished(code, self._stopped_for)
        finally:
            if self._keeper.ident:
                self._keeper.stop()
            for number, handler in {**handlers, signal.SIGTTOU: ignored}.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)

    def _note(self, number: int, _frame: object) -> None:
        self._pending.append(number)

    def _start(self, handlers: Mapping[signal.Signals, object]) -> subprocess.Popen[bytes]:
        parent, terminal = os.getpid(), self._terminal if self._hand_over else None
        ignored = [number for number, handler in handlers.items() if handler is signal.SIG_IGN]
        prctl = _load_prctl()

        def prepare() -> None:
            os.setpgid(0, 0)
            if prctl:
                # A wrapper that is killed can stop nothing, and its claim is free at once: the command goes with it.
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)
            if terminal is not None:
                os.tcsetpgrp(terminal, os.getpid())
            for number in (*handlers, signal.SIGTTOU):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        return subprocess.Popen(self._command, env=dict(self._environment), preexec_fn=prepare)

    def _watch(self, reader: int) -> int:
        while True:
            # Handlers run between any two lines: whatever they note is seen by the next turn, woken by the pipe.
            pending, self._pending = self._pending, []
            for number in pending:
                self._forward(number)
            code = self._reap()
            if code is not None:
                return code
            self._judge()
            ready, _, _ = select.select([reader], [], [], self._patience())
            if ready:
                os.read(reader, 4096)

    def _forward(self, number: int) -> None:
        if number in (*FORWARDED, signal.SIGTSTP):
            self._signal(number)
        elif number == signal.SIGCONT:
            self._resume()

    def _reap(self) -> int | None:
        pid, status = os.waitpid(self._child.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            if os.WSTOPSIG(status) in (signal.SIGTTIN, signal.SIGTTOU) and self._has_terminal():
                self._give_terminal(self._child.pid)
                self._signal(signal.SIGCONT)
            else:
                self._suspend()
            return None
        self._child.returncode = os.waitstatus_to_exitcode(status)
        if self._stopped_for:
            self._signal(signal.SIGKILL)  # whoever of the group outlived it
        code = self._child.returncode
        return 128 - code if code < 0 else code

    def _suspend(self) -> None:
        """Stop with the command, as a job of the shell."""
        self._give_terminal(os.getpgrp())
        os.killpg(os.getpgrp(), signal.SIGSTOP)
        self._resume()

    def _resume(self) -> None:
        if self._hand_over and self._has_terminal():
            self._give_terminal(self._child.pid)
        self._signal(signal.SIGCONT)

    def _has_terminal(self) -> bool:
        with suppress(OSError):
            return self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp()
        return False

    def _judge(self) -> None:
        now = uptime()
        if self._stopped_for:
            if self._kill_at is not None and now >= self._kill_at:
                self._signal(signal.SIGKILL)
                self._kill_at = None
            return
        reason = self._keeper.lost
        if reason is None and now >= self._window.term_at(self._keeper.renewed):
            failure = self._keeper.failure
            reason = NotHeld(f"the claim could not be renewed in time{f': {failure.message}' if failure else ''}")
        if reason:
            self._stopped_for, self._kill_at = reason, now + self._window.grace
            self._tell(f"{reason.message}; stopping the command")
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def _patience(self) -> float:
        due = self._kill_at if self._stopped_for else self._window.term_at(self._keeper.renewed)
        # The keeper has no way to wake this up, and a lost term must not run on for long.
        return 1.0 if due is None else min(1.0, max(0.0, due - uptime()))

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    def _give_terminal(self, group: int) -> None:
        if self._terminal is not None:
            with suppress(OSError):
                os.tcsetpgrp(self._terminal, group)


def _foreground_terminal() -> int | None:
    """Open the terminal, if there is one and this process is in its foreground, so that it may hand it over."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if os.tcgetpgrp(terminal) == os.getpgrp():
        return terminal
    os.close(terminal)
    return None


def _load_prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
