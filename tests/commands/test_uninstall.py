"""The command `uninstall`: what is left on a host, and what is not the tool's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from private_cron import private_cron

from commands.answers import data_of

OWN = {".bashrc": "# mine\nalias ll='ls -l'\n", ".config/fish/config.fish": "set -g mine 1\n"}
LINES = {
    ".bashrc": 'eval "$(claude-sessions shell-init bash)"\n',
    ".zshrc": 'eval "$(/opt/bin/claude-sessions shell-init zsh)"  # hook\n',
    ".config/fish/config.fish": "claude-sessions shell-init fish | source\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of an account whose shells have settings of their own, and which has no crontab."""
    made, programs = tmp_path / "home", tmp_path / "programs"
    programs.mkdir()
    (programs / "crontab").write_text("#!/bin/sh\nexit 1\n")
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, text in OWN.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def _env(home: Path) -> dict[str, str | None]:
    names = ("CONFIG", "STATE_DIR", "DATA_DIR")
    return {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": None,
        "ZDOTDIR": None,
        **{f"XDG_{name}_HOME": None for name in ("CONFIG", "DATA", "STATE")},
        **{f"CLAUDE_SESSIONS_{name}": None for name in names},
        # As root it would be that of the machine.
        "CLAUDE_SESSIONS_DATA_DIR": str(home / "data"),
    }


def _files(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}


def test_nothing_is_left_and_own_lines_stay(cli: Cli, home: Path, dsn: str) -> None:
    env = {**_env(home), "CLAUDE_SESSIONS_DSN": dsn}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        done = cli(*argv, env=env, cwd=home)
        assert done.returncode == 0, done.stderr
        return done

    for shell in ("bash", "zsh", "fish"):
        run("--install-completion", shell)
    for name, line in LINES.items():
        with (home / name).open("a") as file:
            file.write(line)
    run("install", "claude")
    run("config", "set", "stale_after", "20m")
    # The stamp of a session, and the prompt's file.
    run("heartbeat", "--register", "--session", "a")
    installed = _files(home)
    planned = data_of(run("uninstall", "--dry-run", "--data", "--json"), "uninstall")
    assert _files(home) == installed and planned["dry_run"]
    config = home / ".config" / "claude-sessions" / "config.toml"
    assert f"would remove configuration in {config}" in run("uninstall", "--dry-run", "--data").stdout.splitlines()
    done = run("uninstall")
    assert done.stdout.startswith("removed agent hooks in ")
    assert ".config/claude-sessions/config.toml" in _files(home)
    run("uninstall", "--data")
    assert _files(home) == OWN
    assert sorted(path.name for path in home.iterdir()) == [".bashrc", ".config"]
    assert run("uninstall", "--data").stdout == "nothing is installed\n"


def test_line_whose_removal_breaks_a_file_is_left(cli: Cli, home: Path) -> None:
    text = 'if true; then\n  eval "$(claude-sessions shell-init bash)"\nfi\n'
    (home / ".bashrc").write_text(text)
    done = cli("uninstall", env=_env(home), cwd=home)
    assert (done.returncode, done.stderr) == (
        1,
        "claude-sessions: 1 thing could not be removed (remove what is left by hand)\n",
    )
    assert done.stdout == f"left lines for the shell in {home}/.bashrc: without them, bash cannot parse the file\n"
    assert (home / ".bashrc").read_text() == text
    assert data_of(cli("uninstall", "--json", env=_env(home), cwd=home), "uninstall", 1)["data"]["removals"]


def test_link_to_a_start_up_file_stays(cli: Cli, home: Path, tmp_path: Path) -> None:
    target = tmp_path / "bashrc"
    shutil.move(home / ".bashrc", target)
    target.chmod(0o640)
    (home / ".bashrc").symlink_to(target)
    with target.open("a") as file:
        file.write(LINES[".bashrc"])
    assert cli("uninstall", env=_env(home), cwd=home).returncode == 0
    assert (home / ".bashrc").is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == (OWN[".bashrc"], 0o640)


def test_files_of_others_in_its_directories_stay(cli: Cli, home: Path) -> None:
    data = home / "data"
    (data / "photos").mkdir(parents=True)
    for name in ("postgres", "postgres-16"):
        (data / name).mkdir()
    (data / "postgres-16" / "PG_VERSION").touch()
    (data / "postgres.log").touch()
    assert cli("uninstall", "--data", env=_env(home), cwd=home).returncode == 0
    # A cluster has a version.
    assert sorted(path.name for path in data.iterdir()) == ["photos", "postgres"]


@pytest.mark.faults
def test_open_terminal_writes_no_state_after_it(cli: Cli, home: Path, dsn: str) -> None:
    env = {**_env(home), "CLAUDE_SESSIONS_DSN": dsn}
    own = ("--quiet", "--within", "20s", "--pid", str(os.getpid()), "--tty", "/dev/pts/9")
    state = home / ".local" / "state" / "claude-sessions"
    assert cli("heartbeat", "--register", *own, env=env).returncode == 0 and state.exists()
    assert cli("uninstall", "--data", env=env).returncode == 0
    assert cli("heartbeat", "--register", *own, env=env).returncode == 0
    assert cli("release", "--end", *own, env=env).returncode == 0
    assert not state.parent.exists()


@pytest.mark.faults
def test_crontab_is_as_before(tmp_path: Path, home: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])
    run: Any = private_cron(tmp_path)
    before = "# mine\n5 4 * * * true\n"
    run("crontab", "-", input=before)
    config = home / ".config" / "claude-sessions"
    config.mkdir()
    (config / "config.toml").write_text(f'dsn = "{dsn}"\n')
    words = ["env", *(f"{name}={value}" for name, value in _env(home).items() if value)]
    program = [*words, sys.executable, "-m", "claude_sessions_cli"]
    assert run(*program, "install", "cron").returncode == 0
    assert "claude-sessions" in run("crontab", "-l").stdout
    assert "removed timer in cron" in run(*program, "uninstall").stdout
    assert run("crontab", "-l").stdout == before
