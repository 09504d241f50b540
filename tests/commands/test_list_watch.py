"""`list --watch` on a terminal: what it leaves behind when it is stopped, continued and ended."""

from __future__ import annotations

import os
import signal

import pytest
from poll import until
from run_bench import Bench, JobWindow
from terminal import CLI

TAKEN, GIVEN_BACK = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


def _start(bench: Bench, shell: str) -> JobWindow:
    bench.table.insert("a", status="active", sd_id="SD-1")
    window = bench.window(shell, {"TERM": "xterm"})
    window.type(f"ulimit -c 0; {CLI} list --watch --interval 1h")
    _drawn(window)
    return window


def _drawn(window: JobWindow) -> None:
    until(lambda: "SD-1" in window.seen().rpartition(TAKEN)[2], f"the table\n{window.seen()}")


def _assert_given_back(window: JobWindow) -> None:
    def is_given_back() -> bool:
        last = window.seen().rpartition(TAKEN)[2]
        return GIVEN_BACK in last and SHOWN in last.rpartition(HIDDEN)[2]

    until(lambda: window.foreground == window.pid, "the shell in the foreground")
    # What was written may not have been read yet.
    until(is_given_back, f"the screen given back\n{window.seen()}")


@pytest.mark.faults
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_suspended_watch_gives_terminal_back(bench: Bench, shell: str) -> None:
    window = _start(bench, shell)
    for _ in range(2):
        window.press("\x1a")
        _assert_given_back(window)
        window.answers()
        window.type("fg")
        # What was seen before ends with the screen given back.
        until(lambda: GIVEN_BACK not in window.seen().rpartition(TAKEN)[2], "the screen taken again")
        _drawn(window)
    window.press("q")
    _assert_given_back(window)
    assert window.answers() == "0"


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_ended_watch_gives_terminal_back(bench: Bench, number: signal.Signals) -> None:
    window = _start(bench, "bash")
    os.killpg(window.foreground, number)
    _assert_given_back(window)
    assert window.answers() == str(128 + number)
