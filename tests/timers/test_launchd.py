"""The launch agent of macOS, with a program that stands in for launchctl."""

from __future__ import annotations

import os
import plistlib
from pathlib import Path

import pytest

from claude_sessions_cli.timers import install as operation
from claude_sessions_cli.timers.job import Job
from claude_sessions_cli.timers.launchd import LABEL
from timers.conftest import Install


def test_launch_agent_runs_each_minute_with_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(operation, "HERE", "darwin")
    job = Job(("/opt/bin/claude-sessions", "upkeep"), {"A": "b <&> c"}, tmp_path / "state")
    result = operation.install("launchd", job, {"HOME": str(tmp_path)}, dry_run=True)
    [write] = result.writes
    agent = plistlib.loads(write.text.encode())
    assert write.to == f"{tmp_path}/Library/LaunchAgents/{LABEL}.plist"
    assert agent["Label"] == LABEL
    assert agent["ProgramArguments"] == ["/opt/bin/claude-sessions", "upkeep"]
    assert agent["EnvironmentVariables"] == {"A": "b <&> c"}
    assert (agent["StartInterval"], agent["RunAtLoad"]) == (60, True)
    assert agent["StandardErrorPath"] == str(tmp_path / "state" / "upkeep.log")
    assert list(tmp_path.iterdir()) == []


def test_install_loads_agent_and_remove_unloads_it(install: Install, tmp_path: Path) -> None:
    program, calls = tmp_path / "bin" / "launchctl", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n')
    program.chmod(0o755)
    for options in ([], ["--remove"]):
        done = install("launchd", *options, path=f"{program.parent}:/usr/bin:/bin")
        assert (done.returncode, done.stderr) == (0, "")
    agent = f"gui/{os.getuid()}"
    assert calls.read_text().splitlines() == [
        f"bootout {agent}/{LABEL}",
        f"bootstrap {agent} {tmp_path}/Library/LaunchAgents/{LABEL}.plist",
        f"bootout {agent}/{LABEL}",
    ]
