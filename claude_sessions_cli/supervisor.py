"""Run a command while its claim is renewed, and stop it before anyone else can take the claim."""

from __future__ import annotations

import errno
import os
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from claude_sessions_cli import process
from claude_sessions_cli.errors import (
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    EXIT_TIMED_OUT,
    RUN_AGAIN,
    NotHeld,
    SessionsError,
)
from claude_sessions_cli.guardian import Guardian
from claude_sessions_cli.renewal import KeepAlive
from claude_sessions_cli.terminal import Terminal
from claude_sessions_cli.times import format_age, uptime

# How long a command that ^Z stopped past its window waits for proof that the claim still stands.
PROOF_S = 5.0
# Seconds that a report during the run may take: the command must be stopped in time, even if no one reads.
REPORT_S = 0.1
# How long a command that has run for too long has between TERM and KILL.
TIMEOUT_GRACE_S = 10.0
# How long processes may take to die of KILL.
DYING_S = 2.0
FORWARDED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
    signal.SIGTSTP,
)
WATCHED = (*FORWARDED, signal.SIGTTIN, signal.SIGCONT, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code (128 + n for signal n), or the error that it was stopped for.

    `timed_out` is whether it ran for too long, `left` a process group of it that could not be ended. `interrupt` is
    the signal of the keyboard that it died of, `had_terminal` whether that reached the command alone.
    """

    code: int
    stopped_for: SessionsError | None = None
    timed_out: bool = False
    left: int | None = None
    interrupt: signal.Signals | None = None
    had_terminal: bool = False

    @classmethod
    def not_started(cls, error: OSError) -> Finished:
        """Return the end of a command that could not start, as a shell reports it."""
        return cls(EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE)


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    keep_alive: KeepAlive,
    guardian: Guardian,
    report: Callable[[str, float], None],
    *,
    timeout: float | None = None,
    stdout: int | None = None,
) -> Finished:
    """Run a command in a process group of its own, with the terminal if this process had it.

    It is stopped after `timeout` seconds. `stdout` is the descriptor that it writes to, if not this process' own.
    `report` prints a line within some seconds, when the command has to be stopped. Raises OSError if the command cannot
    start. Signals stay caught afterwards, so that a second ^C does not interrupt the clean-up.
    """
    return _Runner(command, environment, keep_alive, guardian, report, timeout, stdout).run()


def follow(finished: Finished) -> None:
    """End this process by the keyboard's signal that ended the command, so that a loop or script around it ends too."""
    number = finished.interrupt
    if number is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(number, signal.SIG_DFL)
    # The terminal signalled only the command's group; without `run` it would have signalled this one.
    os.kill(0 if finished.had_terminal else os.getpid(), number)


class _Runner:
    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        keep_alive: KeepAlive,
        guardian: Guardian,
        report: Callable[[str, float], None],
        timeout: float | None,
        stdout: int | None,
    ) -> None:
        self._command, self._environment, self._stdout = command, environment, stdout
        self._keep_alive, self._guardian, self._report = keep_alive, guardian, report
        self._timeout = timeout
        self._deadline = None if timeout is None else uptime() + timeout
        self._terminal = Terminal()
        # In a pipeline another program may need the terminal: the command gets it when it asks.
        self._hands_over = self._terminal.in_foreground and os.isatty(0) and os.isatty(1)
        self._pending: list[int] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._proof_until: float | None = None
        self._kill_at: float | None = None
        self._stopped_for: SessionsError | None = None
        self._timed_out = False
        # The command's process groups, once it is stopped.
        self._groups: set[int] = set()

    def run(self) -> Finished:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        handlers = {number: signal.signal(number, self._note) for number in WATCHED}
        # This process hands the terminal over, takes it back, and writes to it from the background.
        handlers[signal.SIGTTOU] = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            self._start(handlers)
            status = self._watch(reader)
            had_terminal = self._terminal.handed_over
            self._terminal.take_back(restore_modes=status < 0)
            if signal.SIGTTIN in self._pending:
                # The next program of a pipeline asked just as the command ended: no other process would continue it.
                os.killpg(os.getpgrp(), signal.SIGCONT)
            left = None
            if self._is_stopping:
                left = self._end_groups()
            else:
                self._guardian.dismiss()
            interrupt = signal.Signals(-status) if -status in (signal.SIGINT, signal.SIGQUIT) else None
            ran_alone = not self._terminal.exists or (interrupt and handlers[interrupt] is signal.SIG_IGN)
            code = EXIT_TIMED_OUT if self._timed_out else status if status >= 0 else 128 - status
            keyboard = None if ran_alone or self._is_stopping else interrupt
            return Finished(code, self._stopped_for, self._timed_out, left, keyboard, had_terminal)
        except BaseException:
            # No one would supervise it.
            self._signal(signal.SIGKILL)
            self._guardian.end_command(())
            raise
        finally:
            self._terminal.take_back()
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)

    def _note(self, number: int, _frame: object) -> None:
        self._pending.append(number)

    def _start(self, handlers: Mapping[signal.Signals, object]) -> None:
        def prepare() -> None:
            os.setpgid(0, 0)
            self._guardian.watch()
            if self._hands_over:
                self._terminal.hand_over(os.getpid())
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_IGN if handler is signal.SIG_IGN else signal.SIG_DFL)

        def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
            # Descriptors that the caller opened for the command, such as `<(...)` or make's job server, are passed on.
            return subprocess.Popen(
                command, env=dict(self._environment), stdout=self._stdout, preexec_fn=prepare, close_fds=False
            )

        # The child hands the terminal over, in time for its first read; this process takes it back.
        self._terminal.handed_over = self._hands_over
        try:
            self._child = start(self._command)
        except OSError as error:
            script = shutil.which(self._command[0])
            if error.errno != errno.ENOEXEC or script is None:
                raise
            # A script without an interpreter line: execvp(3) and every shell run it with sh.
            self._child = start(["/bin/sh", script, *self._command[1:]])

    def _watch(self, reader: int) -> int:
        """Return how the command ended: its exit code, or minus the signal that it died of."""
        # poll, because select refuses descriptors above 1023: the caller may have opened as many for the command.
        waiter = select.poll()
        waiter.register(reader, select.POLLIN)
        while True:
            # Handlers run between any two lines: the next turn sees what they note, and the pipe wakes it.
            pending, self._pending = self._pending, []
            for number in pending:
                self._pass_on(number)
            status = self._reap()
            if status is not None:
                return status
            now = uptime()
            self._keep_alive.turn(now)
            self._judge(now)
            if waiter.poll(self._seconds_to_wait() * 1000):
                os.read(reader, 4096)

    def _pass_on(self, number: int) -> None:
        if number in FORWARDED:
            self._signal(number)
        elif number == signal.SIGCONT:
            self._resume()
        elif number == signal.SIGTTIN:
            if self._terminal.handed_over:
                # The next program of the pipeline asks for the terminal.
                self._terminal.take_back()
                os.killpg(os.getpgrp(), signal.SIGCONT)
            else:
                self._signal(number)

    def _reap(self) -> int | None:
        assert self._child
        self._reap_orphans(self._child.pid)
        pid, status = os.waitpid(self._child.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            self._child.returncode = os.waitstatus_to_exitcode(status)
            return self._child.returncode
        self._is_stopped = True
        number = os.WSTOPSIG(status)
        if self._proof_until is not None or self._is_stopping:
            return None
        if number in (signal.SIGTTIN, signal.SIGTTOU) and self._terminal.in_foreground:
            self._hand_over()
            self._continue()
        # Without a terminal no shell waits for the command to stop, and its claim is renewed.
        elif number != signal.SIGSTOP or self._terminal.handed_over:
            self._suspend(number)
        return None

    @staticmethod
    def _reap_orphans(child: int) -> None:
        """As PID 1 of a container, collect the processes that lost their parent."""
        while os.getpid() == 1:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == child:
                return
            os.waitpid(ended.si_pid, 0)

    def _suspend(self, number: int) -> None:
        """Stop as the command did, so that the shell notices; the kernel spares a job that no shell could continue."""
        self._terminal.take_back()
        if number == signal.SIGSTOP:
            os.kill(os.getpid(), number)
        else:
            handler = signal.signal(number, signal.SIG_DFL)
            os.killpg(os.getpgrp(), number)
            signal.signal(number, handler)
        self._pending = [noted for noted in self._pending if noted != signal.SIGCONT]
        self._resume()

    def _resume(self) -> None:
        if self._hands_over and self._terminal.in_foreground:
            self._hand_over()
        now = uptime()
        if now >= self._keep_alive.window.terminate_at:
            # This process was stopped and sent no heartbeats: the command goes on only if the claim still stands.
            self._signal(signal.SIGSTOP)
            self._proof_until = now + PROOF_S
            self._keep_alive.begin(now)
        else:
            self._continue()

    def _hand_over(self) -> None:
        if self._child:
            self._terminal.hand_over(self._child.pid)

    def _continue(self) -> None:
        self._is_stopped, self._proof_until = False, None
        self._signal(signal.SIGCONT)

    @property
    def _is_stopping(self) -> bool:
        return self._stopped_for is not None or self._timed_out

    def _judge(self, now: float) -> None:
        """Stop the command if its claim is lost, or cannot be trusted any longer, or if its time is over."""
        if self._stopped_for is None:
            self._judge_claim(now)
        if self._deadline is not None and now >= self._deadline and not self._is_stopping:
            self._timed_out = True
            ran = f"the command ran for {format_age(self._timeout or 0)} (raise --timeout)"
            self._stop(ran, now + TIMEOUT_GRACE_S)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._signal_all(signal.SIGKILL)

    def _judge_claim(self, now: float) -> None:
        window, reason = self._keep_alive.window, self._keep_alive.lost
        if reason is None and now < window.terminate_at:
            if self._proof_until is not None:
                self._continue()
            return
        if reason is None and self._proof_until is not None and now < self._proof_until:
            return
        if reason is None:
            failure = self._keep_alive.failure
            why = f": {failure.message}" if failure else ""
            reason = NotHeld(f"the claim could not be renewed in time{why}", RUN_AGAIN)
        self._stopped_for = reason
        self._stop(f"{reason.message} ({RUN_AGAIN})", window.kill_at(now))

    def _stop(self, reason: str, kill_at: float) -> None:
        """End the command with TERM now and KILL at a time; a command that is being stopped already only gets KILL."""
        if not self._groups:
            self._signal_all(signal.SIGTERM)
            self._signal_all(signal.SIGCONT)
            self._kill_at = kill_at
        elif self._kill_at is not None:
            self._kill_at = min(self._kill_at, kill_at)
        self._is_stopped, self._proof_until = False, None
        self._report(f"{reason}; stopping the command", REPORT_S)

    def _seconds_to_wait(self) -> float:
        if self._proof_until is not None:
            return 0.05
        claim = None if self._stopped_for else min(self._keep_alive.due, self._keep_alive.window.terminate_at)
        due = [at for at in (claim, self._kill_at, None if self._is_stopping else self._deadline) if at is not None]
        # Neither a renewal nor the end of the machine's sleep wakes the poll.
        return min(1.0, max(0.0, min(due) - uptime())) if due else 1.0

    def _end_groups(self) -> int | None:
        """Give the rest of the command the time until KILL; return a process group that could not be ended."""
        if self._kill_at is not None:
            self._await_end(self._kill_at)
        self._signal_all(signal.SIGKILL)
        # The guardian may be slow, or have been killed: only the processes themselves count.
        left = self._await_end(uptime() + DYING_S)
        self._guardian.end_command(self._groups)
        return min(left, default=None)

    def _await_end(self, until: float) -> set[int]:
        """Wait for the end of the command's process groups; return those that still live at a time."""
        while (left := process.alive_among(self._groups)) and uptime() < until:
            time.sleep(0.05)
        return left

    def _signal_all(self, number: int) -> None:
        """Signal the command's group and those of its descendants."""
        assert self._child
        self._groups = process.with_descendants(self._groups | {self._child.pid}) - {os.getpgrp()}
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if self._child:
                os.killpg(self._child.pid, number)
