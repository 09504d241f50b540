"""The job that a timer runs: its program, its variables, and whether it would find the same database."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.timers import install
from claude_sessions_cli.timers.cron import cron_line
from claude_sessions_cli.timers.job import plan

PROGRAM = str(Path(__file__).with_name("missing"))


def _environ(tmp_path: Path, config: str | None, **more: str) -> dict[str, str]:
    path = tmp_path / "config.toml"
    if config is not None:
        path.write_text(config)
        more["CLAUDE_SESSIONS_CONFIG"] = str(path)
    return {"HOME": str(tmp_path), **more}


@pytest.mark.parametrize("secret", ["postgresql://me:s3cret@host/db", "host=db password=s3cret"])
def test_secret_dsn_outside_config_is_refused_and_not_printed(tmp_path: Path, secret: str) -> None:
    more: dict[str, str]
    for config, more, dsn in (
        ("", {"CLAUDE_SESSIONS_DSN": secret}, None),
        ("", {}, secret),
        ('dsn = "dbname=other"', {"CLAUDE_SESSIONS_DSN": secret}, None),
        ('dsn = "env:DATABASE_URL"', {"DATABASE_URL": secret}, None),
        ("", {"PGHOST": "db"}, None),
    ):
        with pytest.raises(UsageError) as caught:
            plan(_environ(tmp_path, config, **more), PROGRAM, dsn)
        assert caught.value.hint is not None
        assert str(tmp_path / "config.toml") in caught.value.hint
        assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


def test_dsn_of_config_file_is_not_copied_to_timers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "postgresql://me:s3cret@host/db"
    for environ in (
        _environ(tmp_path, f'dsn = "{secret}"'),
        _environ(tmp_path, f'dsn = "{secret}"', CLAUDE_SESSIONS_DSN=secret),
    ):
        made = plan(environ, PROGRAM, None)
        assert made.variables["CLAUDE_SESSIONS_CONFIG"] == str(tmp_path / "config.toml")
        for kind in ("systemd", "launchd"):
            monkeypatch.setattr(install, "HERE", install.KINDS[kind].PLATFORM)
            written = install.install(kind, made, environ, dry_run=True).writes
            assert not any("s3cret" in write.text for write in written)
        assert "s3cret" not in cron_line(made)


INCOMPLETE = [
    ("dbname=x", {"PGHOST": "db"}, "PGHOST"),
    ("dbname=x", {"PGPORT": "1", "PGHOST": "db", "PGUSER": "me"}, "PGUSER, PGHOST, PGPORT"),
    ("host=db dbname=x", {"PGHOSTADDR": "192.0.2.1"}, "PGHOSTADDR"),
    ("host=db dbname=x", {"PGPASSWORD": "s3cret"}, "PGPASSWORD"),
    ("host=db password='a user=b'", {"PGUSER": "me"}, "PGUSER"),
    ("postgresql:///x", {"PGHOST": "db"}, "PGHOST"),
    ("postgresql://db/x", {"PGPORT": "1"}, "PGPORT"),
    ("postgresql://:1/x", {"PGPORT": "1", "PGHOST": "db"}, "PGHOST"),
    ("postgresql://[2001:db8::1]/x", {"PGPORT": "1"}, "PGPORT"),
    ("postgresql://db", {"PGDATABASE": "x"}, "PGDATABASE"),
    ("postgresql://me@db/x", {"PGPASSWORD": "s3cret", "PGSSLMODE": "require"}, "PGPASSWORD, PGSSLMODE"),
    ("service=work", {"PGUSER": "me"}, "PGUSER"),
]
COMPLETE = [
    ("dbname = x host= 'd b' port=1 user=me", {"PGDATABASE": "y", "PGHOST": "y", "PGPORT": "2", "PGUSER": "y"}),
    (
        "postgresql://me:pw@db,db2:1/x",
        {"PGUSER": "y", "PGPASSWORD": "y", "PGHOST": "y", "PGPORT": "2", "PGDATABASE": "y"},
    ),
    ("postgres:///x?host=/run&user=me&sslmode=disable", {"PGHOST": "y", "PGUSER": "y", "PGSSLMODE": "require"}),
    ("host=db channel_binding=require", {"PGCHANNELBINDING": "disable"}),
    ("dbname=x", {"PGHOST": "", "PGAPPNAME": "me", "PGCONNECT_TIMEOUT": "3", "PGTZ": "UTC"}),
    ("dbname=x", {"PGSERVICEFILE": "/s", "PGSYSCONFDIR": "/c", "PGPASSFILE": "/p"}),
]


@pytest.mark.parametrize(("dsn", "more", "subject"), INCOMPLETE)
def test_dsn_completed_by_environment_is_refused(tmp_path: Path, dsn: str, more: dict[str, str], subject: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(_environ(tmp_path, f'dsn = "{dsn}"', **more), PROGRAM, None)
    assert caught.value.message.startswith(f"dsn in {tmp_path}/config.toml depends on {subject}, which ")
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(("dsn", "more"), COMPLETE)
def test_self_contained_dsn_is_accepted(tmp_path: Path, dsn: str, more: dict[str, str]) -> None:
    plan(_environ(tmp_path, f'dsn = "{dsn}"', **more), PROGRAM, None)


def test_missing_dsn_ignores_libpq_variables(tmp_path: Path) -> None:
    plan(_environ(tmp_path, None, PGUSER="me", PGPASSWORD="s3cret", PGSSLMODE="require"), PROGRAM, None)


def test_private_server_needs_no_dsn(tmp_path: Path) -> None:
    made = plan(_environ(tmp_path, None, CLAUDE_SESSIONS_DATA_DIR="/srv/d"), PROGRAM, None)
    assert made.variables == {"CLAUDE_SESSIONS_DATA_DIR": "/srv/d", "HOME": str(tmp_path)}
    assert Path(made.words[0]).is_absolute()


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.toml").write_text('dsn = "dbname=x"')
    environ = {"HOME": str(tmp_path), "CLAUDE_SESSIONS_CONFIG": "conf.toml", "CLAUDE_SESSIONS_STALE_AFTER": "20m"}
    made = plan(environ | {"CLAUDE_SESSIONS_STATE_DIR": "../state", "PGPASSFILE": "/p"}, PROGRAM, None)
    assert dict(made.variables) == {
        "CLAUDE_SESSIONS_CONFIG": f"{tmp_path}/conf.toml",
        "CLAUDE_SESSIONS_STATE_DIR": f"{tmp_path}/../state",
        "PGPASSFILE": "/p",
        "CLAUDE_SESSIONS_STALE_AFTER": "20m",
        "HOME": str(tmp_path),
    }
    assert made.directory == tmp_path / "../state"


@pytest.mark.parametrize("more", [{}, {"HOME": ""}, {"HOME": pwd.getpwuid(os.geteuid()).pw_dir}])
def test_home_is_passed_to_the_timer(more: dict[str, str]) -> None:
    made = plan(more, PROGRAM, None)
    assert made.variables["HOME"] == pwd.getpwuid(os.geteuid()).pw_dir
    assert f"'HOME={made.variables['HOME']} " in cron_line(made)


def test_control_characters_in_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="control characters"):
        plan(_environ(tmp_path, None, CLAUDE_SESSIONS_STATE_DIR="/a\n* * * * * evil"), PROGRAM, None)


def test_private_server_of_a_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="named by CLAUDE_SESSIONS_DSN, which is not set when a timer runs"):
        plan(_environ(tmp_path, None, CLAUDE_SESSIONS_DSN="embedded"), PROGRAM, None)
    assert plan(_environ(tmp_path, 'dsn = "embedded"'), PROGRAM, None).variables
