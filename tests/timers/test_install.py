"""`install systemd|launchd` as whole processes: its files, and services that cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli


@pytest.mark.parametrize("kind", ["cron", "systemd", "launchd"])
def test_dsn_outside_config_file_is_refused(cli: Cli, tmp_path: Path, kind: str) -> None:
    for argv, env in (
        ([], {"CLAUDE_SESSIONS_DSN": "postgresql://me:s3cret@db/x"}),
        (["--dsn", "postgresql://me:s3cret@db/x"], {}),
    ):
        done = cli("install", kind, *argv, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1 and "config.toml" in done.stderr and "s3cret" not in done.stderr
    assert not (tmp_path / ".config").exists() and not (tmp_path / "Library").exists()


def _tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "place", "names"),
    [
        ("systemd", ".config/systemd/user", {"claude-sessions.service", "claude-sessions.timer"}),
        ("launchd", "Library/LaunchAgents", {"claude-sessions.upkeep.plist"}),
    ],
)
def test_install_writes_only_its_files_and_remove_deletes_them(
    cli: Cli, tmp_path: Path, kind: str, place: str, names: set[str]
) -> None:
    directory = tmp_path / place
    directory.mkdir(parents=True)
    (directory / "other").write_text("mine")
    before = _tree(tmp_path)
    # Without systemctl and launchctl, which would change this machine.
    env = {"PATH": str(tmp_path)}
    shown = cli("install", kind, "--dry-run", env=env)
    assert shown.returncode == 0 and _tree(tmp_path) == before
    done = cli("install", kind, env=env)
    assert (done.returncode, done.stdout) == (0, f"{kind}: installed\n")
    assert "runs only after: " in done.stderr and done.stderr.count("\n") == 1
    written = _tree(tmp_path)
    assert {Path(name).name for name in written.keys() - before.keys()} == names
    for name in names:
        assert str(directory / name) in shown.stdout
    again = cli("install", kind, "--json", env=env)
    assert json.loads(again.stdout)["data"]["outcome"] == "already_installed"
    assert _tree(tmp_path) == written
    assert cli("install", kind, "--remove", "--dry-run", env=env).returncode == 0
    assert _tree(tmp_path) == written
    assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: removed\n"
    assert _tree(tmp_path) == before
    assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: not installed\n"


UNREACHABLE = {
    "systemd": "Failed to connect to bus: No medium found",
    "launchd": "Boot-out failed: 5: Input/output error",
}
IDLE = {
    "systemd": "Failed to disable unit: Unit file claude-sessions.timer does not exist.",
    "launchd": "Boot-out failed: 3: No such process",
}


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_remove_reports_failed_stop_and_deletes_links(cli: Cli, tmp_path: Path, kind: str) -> None:
    program = tmp_path / {"systemd": "systemctl", "launchd": "launchctl"}[kind]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    wants = tmp_path / ".config/systemd/user/timers.target.wants"
    for error in (UNREACHABLE, IDLE):
        program.write_text(f"#!/bin/sh\necho '{error[kind]}' >&2\nexit 1\n")
        program.chmod(0o755)
        assert cli("install", kind, env=env).returncode == 0
        if kind == "systemd":
            wants.mkdir(exist_ok=True)
            (wants / "claude-sessions.timer").symlink_to("../claude-sessions.timer")
            (wants / "other.timer").touch()
        done = cli("install", kind, "--remove", env=env)
        assert (done.returncode, done.stdout) == (0, f"{kind}: removed\n")
        if error is UNREACHABLE:
            assert done.stderr.count("\n") == 1 and error[kind] in done.stderr and "stops only after: " in done.stderr
        else:
            assert done.stderr == ""
        if kind == "systemd":
            assert [path.name for path in wants.iterdir()] == ["other.timer"]
            assert [path.name for path in wants.parent.iterdir()] == [wants.name]
        assert cli("install", kind, "--remove", env=env).stdout == f"{kind}: not installed\n"
