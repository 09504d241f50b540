"""Check the answers of commands, in words and in JSON, and the rows behind them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from jsonschema import Draft202012Validator
from typer.main import get_command

import claude_sessions_cli
from claude_sessions_cli import cli, database
from claude_sessions_cli.operations import schema

SCHEMA = Draft202012Validator(
    json.loads((Path(claude_sessions_cli.__file__).parent / "answers.schema.json").read_text())
)
SESSION_KEYS = {
    *("id", "session_id", "sd_id", "track", "tty", "pid", "hostname", "codebase", "claimed_at", "heartbeat_at"),
    *("status", "metadata", "created_at", "updated_at"),
    *("label", "state", "note", "parked_until", "liveness", "heartbeat_age_s", "claim_age_s", "expires_in_s", "fence"),
}


def data_of(done: subprocess.CompletedProcess[str], command: str, code: int = 0) -> dict[str, Any]:
    """Check the envelope of a JSON answer, and return its data, or its error with the data."""
    assert done.returncode == code, done.stdout + done.stderr
    envelope = json.loads(done.stdout)
    SCHEMA.validate(envelope)
    assert list(envelope) == ["schema_version", "command", "ok", "data", "error"]
    assert (envelope["schema_version"], envelope["command"], envelope["ok"]) == (1, command, code == 0)
    assert (envelope["error"] is None) == (code == 0)
    if envelope["error"]:
        assert list(envelope["error"]) == ["code", "message", "hint", "holder"]
        require_next_step(envelope["error"]["hint"])
        return {"data": envelope["data"], **envelope["error"]}
    data = envelope["data"]
    assert isinstance(data, dict)
    return data


# A command of a hint ends with the hint, or before the next one.
COMMAND_LINE = re.compile(r"(?:: |^)claude-sessions (.*?)(?=; |\n|\)|$)")


def require_next_step(hint: str) -> None:
    """Assert that an error has a hint, and that the program's parser accepts the commands that it names."""
    assert hint
    # A name of a command after a colon lacks the program's.
    assert not re.search(rf": (?:{'|'.join(cli.COMMANDS)})(?: |$)", hint), hint
    require_commands(hint)


def require_commands(hint: str, where: str = "") -> int:
    """Assert that the program's parser accepts each command that a hint names; return their number."""
    lines = COMMAND_LINE.findall(hint)
    for line in lines:
        words = shlex.split(line)
        depth = 2 if words[0] in cli.GROUPS and words[1] != "--help" else 1
        command, rest = _parser(*words[:depth]), words[depth:]
        assert command, (line, where)
        if words[-1] == "--help":
            continue
        assert not hasattr(command, "list_commands"), (line, where)
        try:
            command.make_context(command.name, rest)
        except Exception as error:
            raise AssertionError(f"{where}: {line}: {error}") from error
    return len(lines)


@cache
def _parser(*names: str) -> Any:
    command: Any = get_command(cli.app)
    for name in names if names != ("--help",) else ():
        command = command and command.get_command(None, name)
    return command


Run = Callable[..., "subprocess.CompletedProcess[str]"]
CODES = {
    1: "failure",
    2: "usage holds_another",
    3: "held",
    4: "not_held",
    5: "no_identity",
    6: "unreachable",
    7: "schema",
    8: "denied",
}
WRITING = [("claim", "SD-NEW"), ("heartbeat", "--register"), ("release", "--end"), ("reap",)]
EVERY_COMMAND = [*WRITING, ("list",)]
LONG = "x" * 10_000
NIL = "00000000-0000-0000-0000-000000000000"
Env = Mapping[str, str | None]


def rows(dsn: str) -> list[Any]:
    """Return all rows with their versions."""
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as connection:
        return connection.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY id").fetchall()


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def apply_schema(dsn: str) -> str:
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    return dsn


def as_role(dsn: str, role: str) -> str:
    """Return a DSN whose statements run as `role`, even if it cannot log in."""
    return psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")


def failed(done: subprocess.CompletedProcess[str], code: int, message: str) -> str:
    """Assert that a command failed with one readable line, and return it."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("claude-sessions: ")
    assert line.isprintable()
    assert re.search(message, line), line
    return line


def failed_json(done: subprocess.CompletedProcess[str], code: int, message: str) -> dict[str, Any]:
    """Assert that a command failed with a JSON envelope, and return its error."""
    assert (done.returncode, done.stderr) == (code, ""), (done.returncode, done.stdout, done.stderr)
    [line] = done.stdout.splitlines()
    envelope = json.loads(line)
    assert set(envelope) == {"schema_version", "command", "ok", "data", "error"}
    assert envelope["ok"] is False
    error = envelope["error"]
    assert isinstance(error, dict)
    assert set(error) == {"code", "message", "hint", "holder"}
    assert error["code"] in CODES[code]
    require_next_step(error["hint"])
    assert re.search(message, f"{error['message']} ({error['hint']})"), error
    return error


Inside = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]


def json_rows(dsn: str) -> list[Any]:
    """Return all rows with their versions, from a table of any shape."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute("SELECT to_jsonb(s), xmin::text FROM public.claude_sessions AS s").fetchall()
