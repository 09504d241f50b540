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


@pytest.mark.faults
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


SQL_ASCII = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"


def test_item_and_session_that_are_not_utf8_are_released(fresh_database: Callable[..., str], inside: Inside) -> None:
    dsn = apply_schema(fresh_database(SQL_ASCII))
    env = {"CLAUDE_SESSIONS_DSN": dsn}
    shown = "SD-\ufffdt\ufffd"
    item = b"SD-\xe9t\xe9"
    with psycopg.connect(dsn, autocommit=True, client_encoding="SQL_ASCII") as connection:

        def held_after(*argv: str, code: int = 0, session: bytes = b"a") -> object:
            connection.execute("DELETE FROM claude_sessions")
            connection.execute(
                "INSERT INTO claude_sessions (session_id, sd_id, codebase, claimed_at, heartbeat_at, status) VALUES"
                " (convert_from(%b, 'SQL_ASCII'), convert_from(%b, 'SQL_ASCII'), 'x', now(), now(), 'active')",
                (session, item),
            )
            done = inside(*argv, env=env)
            assert done.returncode == code, (argv, done.stderr)
            return connection.execute("SELECT sd_id FROM claude_sessions ORDER BY created_at").fetchall()[0][0]

        assert held_after("release", "--session", "a") is None
        assert held_after("release", shown, "--session", "a") is None
        assert held_after("release", "--session", "a\ufffdbcde", code=2) == item
        assert held_after("release", "--session", "abcd", "--reason", "left", session=b"abcd\xe9") is None
        assert held_after("release", shown, "--session", "abcd", "--reason", "left", session=b"abcd\xe9") is None
        assert held_after("claim", "SD-1", "--switch", "--session", "a") == b"SD-1"
        assert held_after("check", shown, "--session", "a") == item
        # What is typed as it is shown is another item.
        assert held_after("claim", shown, "--session", "b") == item


@pytest.mark.parametrize(
    ("encoding", "name", "codebase"),
    [
        ("LATIN1", "d\xe9\u65e5", "d\xe9?"),
        pytest.param("WIN1251", "\u0434\xe9\u65e5", "\u0434??", marks=pytest.mark.faults),
        pytest.param("KOI8R", "\u0434\xe9\u65e5", "\u0434??", marks=pytest.mark.faults),
        pytest.param("EUC_JP", "\u0434\xe9\u65e5\U0001f600", "\u0434\xe9\u65e5?", marks=pytest.mark.faults),
        pytest.param("EUC_TW", "d\xe9\u65e5", "d??", marks=pytest.mark.faults),
    ],
)
def test_encoding_of_database_refuses_no_codebase(
    fresh_database: Callable[..., str], cli: Cli, tmp_path: Path, encoding: str, name: str, codebase: str
) -> None:
    dsn = apply_schema(fresh_database(f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a", "USER": name}
    (tmp_path / name).mkdir()
    subprocess.run(["git", "init", "-q", "-b", name], cwd=tmp_path / name, check=True)
    for argv in (("claim", "SD-1", "--note", name), ("heartbeat",), ("park", "5m"), ("claim", "SD-1")):
        done = cli(*argv, env=env, cwd=tmp_path / name)
        assert (done.returncode, done.stderr) == (0, ""), argv
    [session] = json.loads(cli("list", "--json", env=env).stdout)["data"]["sessions"]
    own = session["metadata"]["claude_sessions_cli"]
    assert (session["codebase"], own["branch"], own["note"]) == (codebase, codebase, codebase)
    assert own["cwd"].endswith(f"/{codebase}")
    before = rows(dsn)
    done = cli("claim", f"SD-{name}", "--switch", env=env, cwd=tmp_path / name)
    failed(done, 7, f'the database rejects the change: .* has no equivalent in encoding "{encoding}"')
    assert rows(dsn) == before
    assert cli("release", "--end", env=env, cwd=tmp_path / name).returncode == 0


OTHER_ENCODINGS = [pytest.param(name, marks=pytest.mark.faults) for name in ("WIN1252", "EUC_JP")]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", *OTHER_ENCODINGS])
def test_forms_that_encoding_lacks_are_left_out(
    fresh_database: Callable[..., str], inside: Inside, encoding: str
) -> None:
    dsn = apply_schema(fresh_database(f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    composed, typed = "SD-caf\u00e9", "SD-cafe\u0301"
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (
        *(("claim", typed), ("claim", composed), ("check", typed), ("list", typed), ("heartbeat",), ("park", "20m")),
        *(("whoami",), ("history", typed)),
    ):
        done = inside(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
    assert [row[2] for row in rows(dsn)] == [composed]
    failed(inside("claim", typed, "--session", "b", env=env), 3, "is held by a")
    assert "OK       double claims: none\n" in inside("doctor", env=env).stdout
    assert inside("release", typed, env=env).returncode == 0


def test_forms_in_sql_ascii_database_are_one_item(fresh_database: Callable[..., str], inside: Inside) -> None:
    dsn = apply_schema(fresh_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    execute(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('old', E'SD-caf\\x65\\xcc\\x81')")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    failed(inside("claim", "SD-caf\u00e9", env=env), 3, "is held by old")


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
