"""Threads whose start and end nothing waits for without a limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from claude_sessions_cli import threads

# The stack of a thread that has ended is used again: the next one starts without memory, and then finds none.
WITHOUT_MEMORY = """
import resource, signal, threading
from claude_sessions_cli import threads

threading.Thread(target=int).start()
signal.alarm(20)
resource.setrlimit(resource.RLIMIT_AS, (1, 1))
hoard = []
for size in (1 << 20, 1 << 16, 4096, 512, 256, 128, 64, 48, 32, 16):
    try:
        while True:
            hoard.append(bytes(size))
    except MemoryError:
        pass
try:
    threads.CALL
except (MemoryError, RuntimeError):
    pass
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such limit")
@pytest.mark.parametrize("call", ["start(int)", "within(1, int)"])
def test_start_without_memory_is_not_waited_for(call: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY.replace("CALL", call)], capture_output=True)
    # Such a thread may abort the process, which its guardian notices.
    assert done.returncode != -signal.SIGALRM


def test_work_that_ends_is_known_to_have_ended() -> None:
    done: list[int] = []
    assert threads.within(20, lambda: done.append(1))
    assert done == [1]


def test_work_that_hangs_is_left_behind() -> None:
    goes_on = threading.Event()
    assert not threads.within(0.01, goes_on.wait)
    goes_on.set()
