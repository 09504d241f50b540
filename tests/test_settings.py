"""Durations, and the order of the sources of a setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_sessions_cli import settings
from claude_sessions_cli.errors import UsageError


def test_duration_is_a_number_and_a_unit() -> None:
    expected = {"90": 90, "90s": 90, "15m": 900, "2h": 7200, "1d": 86400, "1.5m": 90, " 5s ": 5}
    assert {text: settings.parse_duration(text) for text in expected} == expected


@pytest.mark.parametrize(
    "texts",
    [
        ["", "1w", "5 minutes", "1h30m", "nan", "inf", "1e3", "٣m"],
        ["0", "-5m", "+5m"],
        ["5000d", "9" * 100],
    ],
    ids=["malformed", "not positive", "too long"],
)
def test_malformed_duration_is_refused(texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(UsageError, match="not a duration"):
            settings.parse_duration(text)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a config file that names a DSN."""
    path = tmp_path / "config.toml"
    path.write_text('dsn = "dbname=from_file"\nstale_after = "1h"\nheartbeat_every = 30\n')
    return path


def test_dsn_sources_have_an_order(config: Path, tmp_path: Path) -> None:
    environ = {"CLAUDE_SESSIONS_CONFIG": str(config), "PGHOST": "libpq"}
    assert settings.load({**environ, "CLAUDE_SESSIONS_DSN": "env"}, dsn="option").dsn == "option"
    assert settings.load({**environ, "CLAUDE_SESSIONS_DSN": "env"}).dsn == "env"
    assert settings.load(environ).dsn == "dbname=from_file"
    assert settings.load({"PGHOST": "libpq", "HOME": str(tmp_path / "missing")}).dsn == ""
    assert settings.load({"PGUSER": "somebody"}).dsn is None


def test_config_file_may_name_a_variable(config: Path) -> None:
    config.write_text('dsn = "env:DATABASE_URL"')
    environ = {"CLAUDE_SESSIONS_CONFIG": str(config)}
    assert settings.load({**environ, "DATABASE_URL": "dbname=x"}).dsn == "dbname=x"
    with pytest.raises(UsageError, match="DATABASE_URL, which is not set"):
        settings.load(environ)


def test_option_beats_environment_and_environment_beats_file(config: Path) -> None:
    environ = {"CLAUDE_SESSIONS_CONFIG": str(config)}
    found = settings.load(environ)
    assert (found.stale_after, found.heartbeat_every) == (3600, 30)
    assert settings.load({**environ, "CLAUDE_SESSIONS_STALE_AFTER": "2h"}).stale_after == 7200
    assert settings.load({**environ, "CLAUDE_SESSIONS_STALE_AFTER": "2h"}, stale_after=5000).stale_after == 5000


def test_stale_after_is_at_least_three_heartbeats(config: Path) -> None:
    with pytest.raises(UsageError, match="shorter than three heartbeats"):
        settings.load({}, stale_after=179)
    assert settings.load({}, stale_after=180).stale_after == 180
    with pytest.raises(UsageError, match="at most 7d"):
        settings.load({}, stale_after=8 * 86400)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dsn = [", "is not TOML"),
        ("dns = 'x'\nretries = 3", "unknown keys: dns, retries"),
        ("dsn = 3", "is not a text"),
        ("stale_after = true", "is not a duration"),
        ("stale_after = 'soon'", "stale_after in .*: not a duration"),
    ],
)
def test_malformed_config_file_is_refused(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match=message):
        settings.load({"CLAUDE_SESSIONS_CONFIG": str(config)})
