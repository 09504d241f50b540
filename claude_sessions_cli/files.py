"""Files that others read while they are written, and logs that stay short."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LOG_LIMIT = 1 << 20


def write(path: Path, text: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically, or leave it as it is. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(number, "wb") as file:
            file.write(text)
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def rotate(log: Path) -> None:
    """Rename a log above 1 MiB to `<name>.1`, replacing the previous one. A failure leaves it in use."""
    with suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_name(f"{log.name}.1"))
