"""Files that others read while they are written, or may have written, and logs that stay short."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

LOG_LIMIT = 1 << 20
_DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))


def write(path: Path, text: bytes, mode: int = 0o600, *, still: Callable[[], bool] = lambda: True) -> bool:
    """Replace a file atomically, with this mode whatever the umask, or leave it as it is. Raises OSError.

    A link or a pipe in its place is replaced too. `still` is asked at the last moment; False leaves the file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, mode)
            file.write(text)
        if not still():
            beside.unlink()
            return False
        beside.replace(path)
        return True
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def read(path: Path) -> bytes:
    """Return what a regular file holds, following links; nothing of /dev/null.

    Raises OSError, also for a pipe, whose reader would wait, unless the caller opened it, as `<(...)` of a shell.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISFIFO(found.st_mode) and path.parent in _DESCRIPTORS:
            os.set_blocking(file.fileno(), True)
        elif not stat.S_ISREG(found.st_mode) and found.st_rdev != os.stat(os.devnull).st_rdev:  # noqa: PTH116
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def open_own(path: Path, flags: int) -> int:
    """Open a lock or a log and return its descriptor; create it for this account alone, whatever the umask.

    Raises OSError, also for a link, a pipe, and a file that a stranger may write.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with ExitStack() as undo:
        try:
            number = os.open(path, flags | os.O_EXCL, 0o600)
            undo.callback(os.close, number)
            os.fchmod(number, 0o600)
        except FileExistsError:
            number = os.open(path, flags, 0o600)
            undo.callback(os.close, number)
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if stranger := _writer(found):
            raise OSError(errno.EPERM, f"{stranger} may write it", str(path))
        undo.pop_all()
        return number


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Create a directory and its missing parents, with this mode whatever the umask. Raises OSError."""
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            with suppress(FileExistsError):
                directory.mkdir(mode)
                directory.chmod(mode)


def require_writable(directory: Path) -> None:
    """Raise OSError if a directory takes no files, or if a missing one cannot be created. Leave nothing behind."""
    import tempfile  # late: few commands need it

    place = next(place for place in (directory, *directory.parents) if place.exists())
    with tempfile.TemporaryFile(dir=place):
        pass


def remove_empty(directory: Path, below: Path) -> None:
    """Remove a directory if it is empty, and so each one above it that lies `below` another, which stays."""
    with suppress(OSError):
        for place in (directory, *(above for above in directory.parents if below in above.parents)):
            if place != below:
                place.rmdir()


def stranger_of(path: Path) -> str | None:
    """Return who besides this account and root may have written a directory or a file; None for nobody.

    Links are followed. Under sudo, the account that called it is trusted too. A group counts as the account's own if it
    is the primary one, as with umask 002. Raises OSError.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        return _writer(found)
    if not stat.S_ISREG(found.st_mode):
        return None  # /dev/null, or a pipe that the caller opened
    return _writer(found) or _writer(path.resolve().parent.stat(), stat.S_ISVTX)


def _writer(found: os.stat_result, sticky: int = 0) -> str | None:
    """Return the stranger who may write; a bit of `sticky` keeps others from replacing what is not theirs."""
    accounts = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        accounts.add(int(os.environ["SUDO_UID"]))
    if found.st_uid not in accounts:
        return f"account {account_name(found.st_uid)}"
    if found.st_mode & sticky:
        return None
    if found.st_mode & stat.S_IWOTH:
        return "every account"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in {_primary_group(account) for account in accounts}:
        return f"group {found.st_gid}"
    return None


def account_name(account: int) -> str:
    """Return the name of an account, or its number if this machine has no account of that number."""
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
