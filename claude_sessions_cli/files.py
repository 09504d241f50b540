"""Files that others read while they are written, or may have written, and logs that stay short."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

LOG_LIMIT = 1 << 20


def write(path: Path, text: bytes, mode: int = 0o600, *, exact: bool = False) -> None:
    """Replace a file atomically, or leave it as it is. Raises OSError.

    The umask does not change an `exact` mode.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(number, "wb") as file:
            if exact:
                os.fchmod(number, mode)
            file.write(text)
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def read(path: Path) -> bytes:
    """Return what a regular file holds. Raises OSError, also for a pipe, whose reader would wait."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read()


def stranger_of(path: Path) -> str | None:
    """Return who besides this account and root may have written a file; None for nobody.

    Links are followed. Under sudo, the account that called it is trusted too. A group counts as the account's own if it
    is the primary one, as with umask 002. Raises OSError.
    """
    file = path.stat()
    if not stat.S_ISREG(file.st_mode):
        return None  # /dev/null, or a pipe that the caller opened
    accounts = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        accounts.add(int(os.environ["SUDO_UID"]))
    for found, sticky in ((file, 0), (path.resolve().parent.stat(), stat.S_ISVTX)):
        if found.st_uid not in accounts:
            return f"account {_name(found.st_uid)}"
        if found.st_mode & sticky:
            continue
        if found.st_mode & stat.S_IWOTH:
            return "every account"
        if found.st_mode & stat.S_IWGRP and found.st_gid not in {_primary_group(account) for account in accounts}:
            return f"group {found.st_gid}"
    return None


def _name(account: int) -> str:
    try:
        return pwd.getpwuid(account).pw_name
    except KeyError:
        return str(account)


def _primary_group(account: int) -> int | None:
    try:
        return pwd.getpwuid(account).pw_gid
    except KeyError:
        return os.getegid() if account == os.geteuid() else None


def rotate(log: Path) -> None:
    """Rename a log above 1 MiB to `<name>.1`, replacing the previous one. A failure leaves it in use."""
    with suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_name(f"{log.name}.1"))
