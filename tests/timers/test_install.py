"""`install systemd|launchd`: its files, services that cannot be reached, and platforms that have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli
from requirements import needs

from timers.conftest import Install


@pytest.mark.faults
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
    install: Install, tmp_path: Path, kind: str, place: str, names: set[str]
) -> None:
    directory = tmp_path / place
    directory.mkdir(parents=True)
    (directory / "other").write_text("mine")
    before = _tree(tmp_path)
    # Without systemctl and launchctl, which would change this machine.
    path = str(tmp_path)
    shown = install(kind, "--dry-run", path=path)
    assert shown.returncode == 0 and _tree(tmp_path) == before
    done = install(kind, path=path)
    assert (done.returncode, done.stdout) == (0, f"{kind}: installed, but nothing runs it yet\n")
    assert "runs only after: " in done.stderr and done.stderr.count("\n") == 1
    written = _tree(tmp_path)
    assert {Path(name).name for name in written.keys() - before.keys()} == names
    for name in names:
        assert str(directory / name) in shown.stdout
    again = json.loads(install(kind, "--json", path=path).stdout)["data"]
    assert (again["outcome"], again["runs"]) == ("already_installed", False)
    assert _tree(tmp_path) == written
    assert install(kind, "--remove", "--dry-run", path=path).returncode == 0
    assert _tree(tmp_path) == written
    assert install(kind, "--remove", path=path).stdout == f"{kind}: removed\n"
    assert _tree(tmp_path) == before
    assert install(kind, "--remove", path=path).stdout == f"{kind}: not installed\n"


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        ("systemd", 'upkeep" "--here"'),
        ("launchd", "<string>upkeep</string>\n\t\t<string>--here</string>"),
        pytest.param("cron", "upkeep --here --log", marks=needs("crontab")),
    ],
)
def test_install_here_plans_a_timer_that_reaps_nothing(install: Install, kind: str, called: str) -> None:
    for options in ([], ["--here"]):
        writes = json.loads(install(kind, "--dry-run", "--json", *options).stdout)["data"]["writes"]
        assert (called in "".join(write["text"] for write in writes)) == bool(options)


UNREACHABLE = {
    "systemd": "Failed to connect to bus: No medium found",
    "launchd": "Boot-out failed: 5: Input/output error",
}
IDLE = {
    "systemd": "Failed to disable unit: Unit file claude-sessions.timer does not exist.",
    "launchd": "Boot-out failed: 3: No such process",
}


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_remove_reports_failed_stop_and_deletes_links(install: Install, tmp_path: Path, kind: str) -> None:
    program = tmp_path / {"systemd": "systemctl", "launchd": "launchctl"}[kind]
    path = f"{tmp_path}:/usr/bin:/bin"
    wants = tmp_path / ".config/systemd/user/timers.target.wants"
    for error in (UNREACHABLE, IDLE):
        program.write_text(f"#!/bin/sh\necho '{error[kind]}' >&2\nexit 1\n")
        program.chmod(0o755)
        assert install(kind, path=path).returncode == 0
        if kind == "systemd":
            wants.mkdir(exist_ok=True)
            (wants / "claude-sessions.timer").symlink_to("../claude-sessions.timer")
            (wants / "other.timer").touch()
        done = install(kind, "--remove", path=path)
        assert (done.returncode, done.stdout) == (0, f"{kind}: removed\n")
        if error is UNREACHABLE:
            assert done.stderr.count("\n") == 1 and error[kind] in done.stderr and "stops only after: " in done.stderr
        else:
            assert done.stderr == ""
        if kind == "systemd":
            assert [path.name for path in wants.iterdir()] == ["other.timer"]
            assert [path.name for path in wants.parent.iterdir()] == [wants.name]
        assert install(kind, "--remove", path=path).stdout == f"{kind}: not installed\n"


@pytest.mark.parametrize(
    ("kind", "here", "names", "others"),
    [
        ("launchd", "linux", ("macOS", "Linux"), "claude-sessions install cron; or: claude-sessions install systemd"),
        ("systemd", "darwin", ("Linux", "macOS"), "claude-sessions install cron; or: claude-sessions install launchd"),
        ("systemd", "freebsd14", ("Linux", "freebsd14"), "claude-sessions install cron"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["install", "dry run"])
def test_wrong_platform_is_refused(
    install: Install, tmp_path: Path, kind: str, here: str, names: tuple[str, str], others: str, options: list[str]
) -> None:
    done = install(kind, *options, here=here)
    assert (done.returncode, done.stdout) == (2, "")
    message = f"{kind} runs timers on {names[0]} only, and this is {names[1]} (use another timer: {others})"
    assert done.stderr == f"claude-sessions: {message}\n"
    assert _tree(tmp_path) == {}
    # What an earlier version installed can be removed.
    assert install(kind, "--remove", here=here).stdout == f"{kind}: not installed\n"
