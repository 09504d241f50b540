"""The terminal that this process shares with a command in a process group of its own."""

from __future__ import annotations

import os
import termios
from contextlib import suppress
from typing import Any


class Terminal:
    """The controlling terminal, if there is one; `handed_over` is whether the command's group has it."""

    def __init__(self) -> None:
        self._descriptor = _open()
        self._modes = self._read_modes() if self.in_foreground else None
        self.handed_over = False

    @property
    def exists(self) -> bool:
        """Whether this process has a controlling terminal."""
        return self._descriptor is not None

    @property
    def in_foreground(self) -> bool:
        """Whether this process group may read the terminal."""
        with suppress(OSError):
            return self._descriptor is not None and os.tcgetpgrp(self._descriptor) == os.getpgrp()
        return False

    def hand_over(self, group: int) -> None:
        """Give the terminal to a process group."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.tcsetpgrp(self._descriptor, group)
                self.handed_over = True

    def take_back(self, *, restore_modes: bool = False) -> None:
        """Take the terminal back if the command has it. A killed command may leave it in raw mode."""
        if not self.handed_over or self._descriptor is None:
            return
        self.handed_over = False
        with suppress(OSError, termios.error):
            os.tcsetpgrp(self._descriptor, os.getpgrp())
            if restore_modes and self._modes:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._modes)

    def _read_modes(self) -> list[Any] | None:
        with suppress(OSError, termios.error):
            return None if self._descriptor is None else termios.tcgetattr(self._descriptor)
        return None


def _open() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
