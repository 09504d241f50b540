"""The guardian of a command: a process that ends it if its wrapper is killed, and keeps the claim until then."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from claude_sessions_cli import process
from claude_sessions_cli.process import Process

SCRIPT = Path(__file__).with_name("guardian.sh")
# Seconds that the wrapper waits for its guardian's end.
FAREWELL_S = 2.0


class Guardian:
    """Started by a wrapper before the claim names it; `process` is what the claim records."""

    def __init__(self, grace: float) -> None:
        """Start it, with the seconds that the command gets between TERM and KILL. Raises OSError if it cannot start."""
        reader, self._writer = os.pipe()
        try:
            self._child = subprocess.Popen(
                ["/bin/sh", SCRIPT, f"{grace:.0f}"],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                # Neither the terminal's signals nor those to the wrapper's group reach it.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)
        self.process = process.read(self._child.pid)

    def watch(self) -> None:
        """Give it this process' group: called in the child that becomes the command."""
        # It may have been killed.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        with suppress(OSError):
            os.write(self._writer, b"%d\n" % os.getpgrp())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    def dismiss(self) -> None:
        """Dismiss the guardian; what the command left in the background keeps running."""
        with suppress(OSError):
            os.write(self._writer, b"done\n")
        self._leave()

    def end_command(self, groups: Iterable[int]) -> None:
        """End what still lives of these process groups, within some seconds."""
        with suppress(OSError):
            os.write(self._writer, b"".join(b"%d\n" % group for group in groups))
        self._leave()

    def _leave(self) -> None:
        os.close(self._writer)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(FAREWELL_S)


def group_of(guardian: Process) -> int | None:
    """Return the process group that a guardian is ending; None while its wrapper lives, or for another process."""
    _, script, _, group, *_ = (*guardian.argv, "", "", "", "")
    return int(group) if script.endswith(f"/{SCRIPT.name}") and group.isdecimal() else None
