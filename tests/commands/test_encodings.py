"""Encodings, locales, control characters, and the settings of a database."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
from conftest import Cli, Table

from commands.answers import Inside, apply_schema, execute, failed, rows


def test_sql_ascii_database_works(fresh_database: Callable[..., str], cli: Cli, tmp_path: Path) -> None:
    dsn = apply_schema(fresh_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    codebase = tmp_path / "größe-日本"
    codebase.mkdir()
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            rb"INSERT INTO claude_sessions (session_id, sd_id, hostname, codebase, status, heartbeat_at, metadata)"
            rb" VALUES (E'b\xff\xfe', E'SD-\xe9t\xe9', E'h\xc3', E'caf\xe9', 'active', now() - interval '1 year',"
            b' \'{"note": "\xff"}\')'
        )
    for argv in (("claim", "SD-größe"), ("heartbeat",), ("schema", "check")):
        done = cli(*argv, env=env, cwd=codebase)
        assert (done.returncode, done.stderr) == (0, ""), argv
    done = cli("list", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("YOURS +SD-größe .* größe-日本 ", done.stdout)
    assert "SD-�t�" in done.stdout
    sessions = json.loads(cli("list", "--json", env=env).stdout)["data"]["sessions"]
    assert {session["codebase"] for session in sessions} == {"größe-日本", "caf�"}
    assert json.loads(cli("claim", "SD-größe", "--session", "b", "--json", env=env).stdout)["error"]["code"] == "held"
    done = cli("reap", env=env)
    assert (done.returncode, done.stdout.count("\n"), done.stdout[:6]) == (0, 1, "stale ")
    assert cli("release", "SD-größe", env=env).returncode == 0


def test_latin1_database_refuses_other_characters(fresh_database: Callable[..., str], cli: Cli, tmp_path: Path) -> None:
    dsn = apply_schema(fresh_database("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for name in ("größe", "日本"):
        (tmp_path / name).mkdir()
    assert cli("claim", "SD-größe", env=env, cwd=tmp_path / "größe").returncode == 0
    before = rows(dsn)
    done = cli("claim", "SD-größe", env=env, cwd=tmp_path / "日本")
    failed(done, 7, 'the database refuses it: .* has no equivalent in encoding "LATIN1"')
    assert rows(dsn) == before
    assert re.search("YOURS +SD-größe .* größe ", cli("list", env=env).stdout)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"timezone": "Asia/Kathmandu"}, marks=pytest.mark.faults),
        {"timezone": "<XYZ>-5:37"},
        pytest.param({"datestyle": "German, DMY"}, marks=pytest.mark.faults),
        pytest.param({"datestyle": "SQL, MDY", "timezone": "America/New_York"}, marks=pytest.mark.faults),
        {"default_transaction_isolation": "serializable", "standard_conforming_strings": "off"},
        {"search_path": "nowhere", "intervalstyle": "sql_standard", "extra_float_digits": "-15"},
    ],
    ids=str,
)
def test_settings_of_database_change_nothing(
    fresh_database: Callable[..., str], cli: Cli, inside: Inside, settings: dict[str, str]
) -> None:
    dsn = apply_schema(fresh_database())
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    for setting, value in settings.items():
        try:
            execute(dsn, f"ALTER DATABASE {name} SET {setting} = {value if setting == 'datestyle' else repr(value)}")
        except psycopg.errors.FeatureNotSupported:
            continue  # later servers have only one choice
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    begin = time.time()
    done = cli("claim", "SD-1", "--json", env=env)
    assert done.stderr == "", "the driver complains by itself of a time zone that it does not know"
    claimed = json.loads(done.stdout)["data"]
    assert begin - 5 < claimed["fence"] / 1e6 < time.time() + 5
    for argv in (("heartbeat",), ("list",), ("reap",), ("schema", "check")):
        done = inside(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
    [session] = json.loads(cli("list", "--json", env=env).stdout)["data"]["sessions"]
    assert session["claimed_at"] == claimed["session"]["claimed_at"]
    assert session["heartbeat_age_s"] < 60
    assert inside("release", env=env).returncode == 0


EVIL = "\x1b[31m[red]x[/red]\x1b]0;title\x07\u202e\x9b1mé"
SHOWN = "[31m[red]x[/red]]0;title1mé"


@pytest.fixture
def evil(table: Table) -> Table:
    """Return a table with a row full of control characters and markup."""
    columns = ("sd_id", "tty", "hostname", "codebase")
    table.insert("evil", status="active", **dict.fromkeys(columns, EVIL))
    return table


def test_pipe_output_is_stripped_of_controls(evil: Table, cli: Cli) -> None:
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": evil.dsn})
    assert done.stdout.count(SHOWN) == 4
    assert not set("\x1b\x07\u202e\x9b") & set(done.stdout)
    failed(
        cli("release", "SD-2", "--session", "evil", env={"CLAUDE_SESSIONS_DSN": evil.dsn}),
        4,
        "this session holds .*, not SD-2",
    )
    evil.execute("UPDATE public.claude_sessions SET sd_id = 'SD-1'")
    env = {"CLAUDE_SESSIONS_DSN": evil.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert SHOWN in failed(cli("claim", "SD-1", env=env), 3, "SD-1 is held by evil")


def test_terminal_output_is_stripped_of_controls(evil: Table, tmp_path: Path) -> None:
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": evil.dsn, "TERM": "xterm-256color", "COLUMNS": "400"}
    shown = _on_a_terminal(["list"], environment, tmp_path)
    assert shown.count(SHOWN) == 4
    assert "\x1b[31m[red]" not in shown
    assert "\x1b]0;" not in shown
    assert "\x1b[" in shown, "no style at all: is this a terminal?"
    assert not set("\x07\u202e\x9b") & set(shown)


def _on_a_terminal(argv: list[str], environment: Mapping[str, str], cwd: Path) -> str:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "claude_sessions_cli", *argv]
    with subprocess.Popen(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal,
        start_new_session=True,
    ) as child:  # fmt: skip
        os.close(terminal)
        output = b""
        try:
            while chunk := os.read(main, 65536):
                output += chunk
        except OSError:
            pass  # Linux: the last process of the terminal has ended
    os.close(main)
    assert child.returncode == 0
    return output.decode()


def test_ascii_locale_prints_escapes(cli: Cli, table: Table) -> None:
    table.insert("a", sd_id="größe-日本", status="active")
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = cli("list", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe-\u65e5\u672c" in done.stdout


def test_directory_name_without_utf8_works(cli: Cli, dsn: str, tmp_path: Path) -> None:
    directory = tmp_path / "caf\udce9"
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (("claim", "SD-1"), ("heartbeat",), ("list", "--json"), ("whoami",), ("release", "--end")):
        done = cli(*argv, env=env, cwd=directory)
        assert (done.returncode, done.stderr) == (0, ""), argv
