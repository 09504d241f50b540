"""Private crontabs for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def private_cron(directory: Path) -> Run:
    """Give a test its own spool of cron; skip if that is impossible."""
    prefix = private_spool(directory)

    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*prefix, *words], **{"capture_output": True, "text": True, "timeout": 60, "cwd": directory, **options}
        )

    return run


def private_spool(directory: Path) -> list[str]:
    """Return the prefix of a command that gives it a spool in `directory`, in a mount namespace."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a private crontab needs root and unshare")
    if not shutil.which("crontab") or not Path("/var/spool/cron/crontabs").is_dir():
        pytest.skip("Debian's cron is not installed")
    spool = directory / "crontabs"
    if not spool.exists():
        spool.mkdir()
        spool.chmod(0o1730)
        shutil.chown(spool, group="crontab")
    mount = 'mount --bind "$0" /var/spool/cron/crontabs && exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(spool)]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root may not create namespaces on this machine")
    return prefix
