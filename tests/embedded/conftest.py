"""Data directories for the private server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from embedded.control import start, use


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a directory that every account can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="claude-sessions-test-", dir="/tmp")).resolve()
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a data directory that does not exist yet, and stop its server at the end."""
    for name in [name for name in os.environ if name.startswith(("PG", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    use(monkeypatch, base / "new" / "home")
    yield base / "new" / "home"
    with suppress(Unreachable):
        embedded.stop()
    alias = embedded.status().socket_dir.parent
    if alias.name.startswith("claude-sessions-"):
        shutil.rmtree(alias, ignore_errors=True)


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """Return the data directory of a stopped server, to be copied."""
    path = Path(tempfile.mkdtemp(prefix="claude-sessions-test-", dir="/tmp")).resolve()
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, path / "home")
        start()
        embedded.stop()
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def made(template: Path, home: Path) -> Path:
    """Return the data directory of a stopped server, copied, which takes a tenth of the time to create one."""
    home.parent.mkdir()
    subprocess.run(["cp", "-a", str(template), str(home)], check=True)
    return home
