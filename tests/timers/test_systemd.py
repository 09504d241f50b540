"""The units of systemd, with a program that stands in for systemctl, and as systemd itself reads them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Cli

from claude_sessions_cli.timers import systemd
from claude_sessions_cli.timers.job import Job
from timers.conftest import Install


def test_install_enables_timer_and_remove_disables_it(install: Install, tmp_path: Path) -> None:
    program, calls = tmp_path / "bin" / "systemctl", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n')
    program.chmod(0o755)
    for options in ([], ["--remove"]):
        done = install("systemd", *options, path=f"{program.parent}:/usr/bin:/bin")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"systemd: {'removed' if options else 'installed'}\n"
    assert calls.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now claude-sessions.timer",
        "--user disable --now claude-sessions.timer",
        "--user daemon-reload",
    ]


def test_user_without_linger_is_warned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "LINGER", tmp_path)
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\nexit $CODE\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    user = pwd.getpwuid(os.geteuid()).pw_name
    warning = f"it runs only while {user} is logged in; to run it always: loginctl enable-linger {user}"
    job = Job(("/opt/claude-sessions", "upkeep"), {}, tmp_path / "state")

    def note(code: str, **how: bool) -> tuple[bool, str | None]:
        monkeypatch.setenv("CODE", code)
        result = systemd.install(job, {"HOME": str(tmp_path)}, **{"dry_run": False, **how})
        return result.runs, result.note

    assert note("0", dry_run=True) == (True, warning)
    assert note("0") == (True, warning)
    runs, said = note("1")
    assert not runs and said and "runs only after: systemctl --user enable" in said and said.endswith(f"; {warning}")
    (tmp_path / user).touch()
    assert note("0") == (True, None)


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
