"""Run a command while its claim is kept, and stop it before anyone else can have the claim."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from claude_sessions_cli.errors import NotHeld, SessionsError
from claude_sessions_cli.renewal import Keeper, uptime

# How long a command that was stopped by ^Z past its window waits for the proof that the claim is still there.
PROOF_S = 5.0
FORWARDED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
    signal.SIGTSTP,
)
WATCHED = (*FORWARDED, signal.SIGTTIN, signal.SIGCONT, signal.SIGCHLD)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code (128 + n for signal n), or the error that it was stopped for.

    `interrupt` is the signal of the keyboard that it died of, `had_terminal` whether that reached it alone.
    """

    code: int
    stopped_for: SessionsError | None = None
    interrupt: signal.Signals | None = None
    had_terminal: bool = False


def run(
    command: Sequence[str], environment: Mapping[str, str], keeper: Keeper, tell: Callable[[str], None]
) -> Finished:
    """Run a command in a process group of its own, with the terminal if this process had it; see the module.

    `tell` is called with a line for a person when the command has to be stopped, and must not block. Raises OSError
    where the command cannot start. Signals stay caught: what is left to do is to clean up, and that is not to be cut
    short by a second ^C.
    """
    return _Runner(command, environment, keeper, tell).run()


def follow(finished: Finished) -> None:
    """End this process as the keyboard ended the command, so that a loop or script around it ends as well."""
    number = finished.interrupt
    if number is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(number, signal.SIG_DFL)
    # The terminal told only the command's own group: this one would have been told with it.
    os.kill(0 if finished.had_terminal else os.getpid(), number)


class _Runner:
    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], keeper: Keeper, tell: Callable[[str], None]
    ) -> None:
        self._command, self._environment, self._keeper, self._tell = command, environment, keeper, tell
        self._terminal = _open_terminal()
        # In a pipeline another program may need the terminal: the command gets it when it asks.
        self._hand_over = self._is_in_foreground() and os.isatty(0) and os.isatty(1)
        self._modes = _read_modes(self._terminal) if self._is_in_foreground() else None
        self._handed = False
        self._pending: list[int] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._proof_until: float | None = None
        self._kill_at: float | None = None
        self._stopped_for: SessionsError | None = None

    def run(self) -> Finished:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        handlers = {number: signal.signal(number, self._note) for number in WATCHED}
        # This process hands the terminal over, takes it back, and tells of losses from the background.
        handlers[signal.SIGTTOU] = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            self._start(handlers)
            status = self._watch(reader)
            had_terminal = self._handed
            self._take_back(restore_modes=status < 0)
            if signal.SIGTTIN in self._pending:
                # The next program of a pipeline asked just as the command ended: nobody else would continue it.
                os.killpg(os.getpgrp(), signal.SIGCONT)
            if self._stopped_for:
                self._end_group()
            interrupt = signal.Signals(-status) if -status in (signal.SIGINT, signal.SIGQUIT) else None
            ran_alone = self._terminal is None or (interrupt and handlers[interrupt] is signal.SIG_IGN)
            code = status if status >= 0 else 128 - status
            return Finished(code, self._stopped_for, None if ran_alone else interrupt, had_terminal)
        except BaseException:
            # Nobody would look after it.
            self._signal(signal.SIGKILL)
            raise
        finally:
            self._take_back()
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)

    def _note(self, number: int, _frame: object) -> None:
        self._pending.append(number)

    def _start(self, handlers: Mapping[signal.Signals, object]) -> None:
        parent, terminal = os.getpid(), self._terminal if self._hand_over else None
        prctl = _load_prctl()

        def prepare() -> None:
            os.setpgid(0, 0)
            if prctl:
                # A wrapper that is killed can stop nothing, and its claim is free at once: the command goes with it.
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)
            if terminal is not None:
                with suppress(OSError):
                    os.tcsetpgrp(terminal, os.getpid())
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_IGN if handler is signal.SIG_IGN else signal.SIG_DFL)

        def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
            # What the caller opened for the command, such as `<(...)` or make's job server, is passed on.
            return subprocess.Popen(command, env=dict(self._environment), preexec_fn=prepare, close_fds=False)

        self._handed = terminal is not None
        try:
            self._child = start(self._command)
        except OSError as error:
            script = shutil.which(self._command[0])
            if error.errno != errno.ENOEXEC or script is None:
                raise
            # A script that does not name its interpreter: execvp(3) and every shell take sh.
            self._child = start(["/bin/sh", script, *self._command[1:]])

    def _watch(self, reader: int) -> int:
        """Return how the command ended: its exit code, or minus the signal that it died of."""
        # Not select, which takes no descriptor above 1023: the caller may have opened as many for the command.
        waiter = select.poll()
        waiter.register(reader, select.POLLIN)
        while True:
            # Handlers run between any two lines: whatever they note is seen by the next turn, woken by the pipe.
            pending, self._pending = self._pending, []
            for number in pending:
                self._pass_on(number)
            status = self._reap()
            if status is not None:
                return status
            now = uptime()
            self._keeper.turn(now)
            self._judge(now)
            if waiter.poll(self._patience() * 1000):
                os.read(reader, 4096)

    def _pass_on(self, number: int) -> None:
        if number in FORWARDED:
            self._signal(number)
        elif number == signal.SIGCONT:
            self._resume()
        elif number == signal.SIGTTIN:
            if self._handed:
                # The next program of the pipeline wants the terminal, which the command does not need all the time.
                self._take_back()
                os.killpg(os.getpgrp(), signal.SIGCONT)
            else:
                self._signal(number)

    def _reap(self) -> int | None:
        assert self._child
        pid, status = os.waitpid(self._child.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            self._child.returncode = os.waitstatus_to_exitcode(status)
            return self._child.returncode
        self._is_stopped = True
        number = os.WSTOPSIG(status)
        if number in (signal.SIGTTIN, signal.SIGTTOU) and self._is_in_foreground():
            self._give_terminal()
            self._continue()
        # Without a terminal nobody waits for the command to stop, and its claim is kept meanwhile.
        elif number != signal.SIGSTOP or self._handed:
            self._suspend(number)
        return None

    def _suspend(self, number: int) -> None:
        """Stop as the command has, for the shell to see; the kernel spares a job that no shell could continue."""
        self._take_back()
        if number == signal.SIGSTOP:
            os.kill(os.getpid(), number)
        else:
            handler = signal.signal(number, signal.SIG_DFL)
            os.killpg(os.getpgrp(), number)
            signal.signal(number, handler)
        self._pending = [noted for noted in self._pending if noted != signal.SIGCONT]
        self._resume()

    def _resume(self) -> None:
        if self._hand_over and self._is_in_foreground():
            self._give_terminal()
        now = uptime()
        if self._is_stopped and now >= self._keeper.trust.term_at:
            # Stopped alike, this process did not beat: the command goes on only where the claim has outlived that.
            self._proof_until = now + PROOF_S
            self._keeper.begin(now)
        else:
            self._continue()

    def _continue(self) -> None:
        self._is_stopped, self._proof_until = False, None
        self._signal(signal.SIGCONT)

    def _judge(self, now: float) -> None:
        if self._stopped_for:
            if self._kill_at is not None and now >= self._kill_at:
                self._signal(signal.SIGKILL)
                self._kill_at = None
            return
        trust, reason = self._keeper.trust, self._keeper.lost
        if reason is None and now < trust.term_at:
            if self._proof_until is not None:
                self._continue()
            return
        if reason is None and self._proof_until is not None and now < self._proof_until:
            return
        if reason is None:
            failure = self._keeper.failure
            reason = NotHeld(f"the claim could not be renewed in time{f': {failure.message}' if failure else ''}")
        self._stopped_for, self._kill_at = reason, trust.kill_at(now)
        self._signal(signal.SIGTERM)
        self._continue()
        self._tell(f"{reason.message}; stopping the command")

    def _patience(self) -> float:
        if self._stopped_for:
            due = self._kill_at
        elif self._proof_until is not None:
            return 0.05
        else:
            due = min(self._keeper.due, self._keeper.trust.term_at)
        # The renewals cannot wake this up, nor can the end of a machine's sleep.
        return 1.0 if due is None else min(1.0, max(0.0, due - uptime()))

    def _end_group(self) -> None:
        """Let the rest of the command's group have the time that the command did not need."""
        while self._kill_at is not None and uptime() < self._kill_at and self._signal(0):
            time.sleep(0.02)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> bool:
        with suppress(ProcessLookupError, PermissionError):
            if self._child:
                os.killpg(self._child.pid, number)
                return True
        return False

    def _is_in_foreground(self) -> bool:
        with suppress(OSError):
            return self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp()
        return False

    def _give_terminal(self) -> None:
        if self._terminal is not None and self._child:
            with suppress(OSError):
                os.tcsetpgrp(self._terminal, self._child.pid)
                self._handed = True

    def _take_back(self, *, restore_modes: bool = False) -> None:
        """Take the terminal back, if the command has it; a shell does not know that a killed command left it raw."""
        if not self._handed or self._terminal is None:
            return
        self._handed = False
        with suppress(OSError, termios.error):
            os.tcsetpgrp(self._terminal, os.getpgrp())
            if restore_modes and self._modes:
                termios.tcsetattr(self._terminal, termios.TCSANOW, self._modes)


def _open_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None


def _read_modes(terminal: int | None) -> list[Any] | None:
    with suppress(OSError, termios.error):
        return None if terminal is None else termios.tcgetattr(terminal)
    return None


def _load_prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
