"""Run `install` inside this process, on the platform of its timer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from claude_sessions_cli import cli as program
from claude_sessions_cli.timers import cron, systemd
from claude_sessions_cli.timers import install as operation

Install = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def install(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Return a function that runs `install KIND` where a cron daemon runs and the user lingers."""
    monkeypatch.setattr(cron, "daemon_runs", lambda: True)
    monkeypatch.setattr(systemd, "limit_of_user", lambda: None)

    def call(
        kind: str, *options: str, path: str | None = None, here: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(operation, "HERE", here or operation.KINDS[kind].PLATFORM or operation.HERE)
            if path is not None:
                patch.setenv("PATH", path)
            capfd.readouterr()
            code = program.run(["install", kind, *options])
        output = capfd.readouterr()
        return subprocess.CompletedProcess(options, code, output.out, output.err)

    return call
