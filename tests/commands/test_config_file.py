"""The commands `config get`, `config set`, `config unset` and `config path`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.answers import Inside, data_of, failed

Config = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "config.toml"


@pytest.fixture
def config(inside: Inside, file: Path) -> Config:
    """Return a function that runs a `config` command on the file, and returns what it prints."""

    def run(*argv: str, code: int = 0, message: str = "", **env: str) -> str:
        done = inside("config", *argv, env={"CLAUDE_SESSIONS_CONFIG": str(file), "CLAUDE_SESSIONS_DSN": None, **env})
        if code:
            return failed(done, code, message)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_key_is_set_shown_and_removed(config: Config, file: Path) -> None:
    assert config("path") == f"{file}\n"
    file.parent.mkdir()
    file.write_text("# mine\nheartbeat_every = '30s'  # often\n")
    assert config("set", "stale_after", "20m") == f"stale_after: set in {file}\n"
    assert file.read_text() == "# mine\nheartbeat_every = '30s'  # often\nstale_after = \"20m\"\n"
    assert config("get") == "dsn = embedded\nstale_after = 1200s\nheartbeat_every = 30s\n"
    assert config("get", "stale_after", CLAUDE_SESSIONS_STALE_AFTER="1h") == "3600s\n"
    assert config("set", "stale_after", "20m") == f"stale_after: unchanged in {file}\n"
    assert config("set", "stale_after", "30m") == f"stale_after: set in {file}\n"
    assert config("unset", "stale_after") == f"stale_after: removed from {file}\n"
    assert config("unset", "stale_after") == f"stale_after: unchanged in {file}\n"
    assert file.read_text() == "# mine\nheartbeat_every = '30s'  # often\n"


def test_directory_and_file_are_made_for_this_account(config: Config, file: Path) -> None:
    (file.parent.parent / "config").mkdir()
    config("set", "dsn", "host=db dbname=work")
    assert file.stat().st_mode & 0o777 == 0o600
    assert config("get", "dsn") == "host=db dbname=work\n"
    config("set", "dsn", "embedded")
    assert config("get", "dsn") == "embedded\n"


def test_link_to_the_file_stays(config: Config, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.write_text("")
    file.parent.mkdir()
    file.symlink_to(target)
    config("set", "dsn", "service=work")
    assert file.is_symlink() and target.read_text() == 'dsn = "service=work"\n'


def test_password_is_masked_and_noted(inside: Inside, file: Path) -> None:
    env = {"CLAUDE_SESSIONS_CONFIG": str(file), "CLAUDE_SESSIONS_DSN": None}
    file.parent.mkdir()
    file.write_text("")
    done = inside("config", "set", "dsn", "postgresql://me:hunter2@h/d", env=env)
    assert done.returncode == 0 and ".pgpass" in done.stderr
    shown = data_of(inside("config", "get", "dsn", "--json", env=env), "config get")
    assert shown == {"values": {"dsn": "postgresql://me:***@h/d"}}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("set", "stale", "1h"), "unknown key: 'stale' (did you mean stale_after?)"),
        (("get", "colour"), "unknown key: 'colour' (use one of dsn, stale_after, heartbeat_every)"),
        (("set", "stale_after", "soon"), "stale_after: "),
        (("set", "stale_after", "2s"), "stale_after (2s) is shorter than three heartbeats"),
        (("set", "heartbeat_every", "1d"), "is shorter than three heartbeats (86400s each)"),
        (("set", "dsn", ""), "dsn is empty"),
        (("set", "dsn", "host"), "the DSN from dsn cannot be read"),
    ],
)
def test_wrong_value_changes_nothing(config: Config, file: Path, argv: tuple[str, ...], message: str) -> None:
    file.parent.mkdir()
    file.write_text('stale_after = "10m"\n')
    config(*argv, code=2, message=re.escape(message))
    assert file.read_text() == 'stale_after = "10m"\n'


def test_value_on_several_lines_is_left_alone(config: Config, file: Path) -> None:
    file.parent.mkdir()
    text = 'dsn = """\nhost=db"""\n'
    file.write_text(text)
    config("set", "dsn", "service=work", code=2, message="is not edited")
    assert file.read_text() == text
