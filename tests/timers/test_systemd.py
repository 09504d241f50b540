"""The units of systemd, with a program that stands in for systemctl, and as systemd itself reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Cli


def test_install_enables_timer_and_remove_disables_it(cli: Cli, tmp_path: Path) -> None:
    program, calls = tmp_path / "bin" / "systemctl", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n')
    program.chmod(0o755)
    for options in ([], ["--remove"]):
        done = cli("install", "systemd", *options, env={"PATH": f"{program.parent}:/usr/bin:/bin"})
        assert (done.returncode, done.stderr) == (0, "")
    assert calls.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now claude-sessions.timer",
        "--user disable --now claude-sessions.timer",
        "--user daemon-reload",
    ]


@pytest.mark.faults
def test_systemd_accepts_units_with_odd_paths(cli: Cli, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    state = tmp_path / '100% "state" $HOME'
    done = cli("install", "systemd", env={"PATH": str(tmp_path), "CLAUDE_SESSIONS_STATE_DIR": str(state)})
    assert done.returncode == 0
    units = tmp_path / ".config/systemd/user"
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir()))],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert str(units) not in checked.stderr and "claude-sessions" not in checked.stderr
    service = (units / "claude-sessions.service").read_text()
    assert f'"CLAUDE_SESSIONS_STATE_DIR={tmp_path}/100%% \\"state\\" $HOME"' in service
