"""Threads that nothing waits for without a limit, not even for their start."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def start(work: Callable[[], object]) -> None:
    """Run some work in a thread. Raises RuntimeError if the system has no room for one.

    `threading.Thread.start` waits until the thread runs: for ever, if it then finds no memory.
    """
    _thread.start_new_thread(work, ())


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Run some work in a thread, and wait for its end this long; return whether it has ended."""
    ended = threading.Event()

    def attempt() -> None:
        try:
            work()
        finally:
            ended.set()

    try:
        start(attempt)
    except RuntimeError:
        return False
    return ended.wait(seconds)
