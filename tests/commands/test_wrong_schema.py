"""Databases without the table, and tables of another shape."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from claude_sessions_cli import queries
from commands.answers import EVERY_COMMAND, Inside, Refused, apply_schema, execute, json_rows


@pytest.mark.parametrize("prepare", [[], ["CREATE TABLE public.sessions (id int)"]])
def test_missing_table_names_schema_apply(
    refused: Refused, fresh_database: Callable[..., str], prepare: list[str]
) -> None:
    dsn = fresh_database()
    execute(dsn, *prepare)
    for argv in EVERY_COMMAND:
        message = r"\(create it: claude-sessions schema apply --dsn DSN\)"
        refused(*argv, "--dsn", dsn, code=7, message=message, process=argv[0] == "claim")


def test_missing_schema_public_is_named_with_remedy(
    refused: Refused, inside: Inside, fresh_database: Callable[..., str]
) -> None:
    dsn = fresh_database()
    execute(dsn, "DROP SCHEMA public")
    for argv in (*EVERY_COMMAND, ("schema", "apply")):
        message = (
            r"no schema public \(as its owner: CREATE SCHEMA public; then claude-sessions schema apply --dsn DSN\)"
        )
        refused(*argv, "--dsn", dsn, code=7, message=message)
    execute(dsn, "CREATE SCHEMA public")
    assert inside("schema", "apply", "--dsn", dsn).returncode == 0


@pytest.mark.parametrize("has_public", [True, False])
def test_table_in_another_schema_is_named_with_remedy(
    refused: Refused, inside: Inside, fresh_database: Callable[..., str], has_public: bool
) -> None:
    dsn = apply_schema(fresh_database())
    execute(dsn, 'CREATE SCHEMA "Their own"', 'ALTER TABLE public.claude_sessions SET SCHEMA "Their own"')
    if not has_public:
        execute(dsn, "DROP SCHEMA public CASCADE")
    for argv in EVERY_COMMAND:
        message = r'not in the schema public, but in "Their own" \(move it there, if it is the one: (.*); or name'
        refused(*argv, "--dsn", dsn, code=7, message=message)
    if has_public:
        execute(dsn, 'ALTER TABLE "Their own".claude_sessions SET SCHEMA public')
        assert inside("claim", "SD-1", "--session", "a", "--dsn", dsn).returncode == 0


def test_copy_in_another_schema_does_not_hide_other_failures(
    refused: Refused, fresh_database: Callable[..., str]
) -> None:
    dsn = apply_schema(fresh_database())
    execute(dsn, "CREATE SCHEMA copy", "CREATE TABLE copy.claude_sessions (id int)")
    execute(dsn, "DROP TABLE public.claude_session_events")
    message = r'relation "public.claude_session_events" does not exist \(create it: claude-sessions schema apply'
    refused("claim", "SD-1", "--dsn", dsn, code=7, message=message)


COLUMNS = [
    *("id", "session_id", "sd_id", "track", "tty", "pid", "hostname", "codebase", "claimed_at", "heartbeat_at"),
    *("status", "metadata", "created_at", "updated_at"),
]


@pytest.mark.parametrize(
    "column", ["sd_id", *(pytest.param(name, marks=pytest.mark.faults) for name in COLUMNS if name != "sd_id")]
)
def test_missing_column_is_named(refused: Refused, fresh_database: Callable[..., str], column: str) -> None:
    dsn = apply_schema(fresh_database())
    execute(dsn, "INSERT INTO claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    execute(dsn, f"ALTER TABLE public.claude_sessions DROP COLUMN {column} CASCADE")
    before = json_rows(dsn)
    for argv in EVERY_COMMAND:
        message = f'column "?(s.)?{column}"? .*does not exist.*claude-sessions schema check'
        refused(*argv, "--dsn", dsn, code=7, message=message)
    assert json_rows(dsn) == before


def test_renamed_column_leads_to_its_mend(refused: Refused, inside: Inside, fresh_database: Callable[..., str]) -> None:
    dsn = apply_schema(fresh_database())
    execute(dsn, "ALTER TABLE claude_sessions RENAME COLUMN sd_id TO sd_key")
    for argv in (("claim", "SD-1"), ("schema", "apply")):
        message = "sd_id.* .schema apply adds no column .*claude-sessions schema check"
        refused(*argv, "--dsn", dsn, code=7, message=message)
    found = inside("schema", "check", "--dsn", dsn)
    assert (found.returncode, "as the table's owner, run each mend; schema apply changes no" in found.stderr) == (
        7,
        True,
    )
    mend = 'ALTER TABLE public.claude_sessions RENAME COLUMN "sd_key" TO sd_id'
    assert f"missing column sd_id (of 001_claude_sessions.sql)\n  mend: {mend}; or" in found.stdout
    execute(dsn, mend)
    assert inside("claim", "SD-1", "--session", "a", "--dsn", dsn).returncode == 0
    assert inside("schema", "check", "--dsn", dsn).returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        "ALTER COLUMN metadata DROP DEFAULT, ALTER COLUMN metadata TYPE text",
        "ALTER COLUMN metadata DROP DEFAULT, ALTER COLUMN metadata TYPE json",
        "ALTER COLUMN claimed_at TYPE timestamp",
        "ALTER COLUMN heartbeat_at TYPE timestamp",
        "ALTER COLUMN created_at TYPE date",
        "ALTER COLUMN session_id TYPE varchar(3)",
        "DROP CONSTRAINT claude_sessions_session_id_key",
        "ADD CONSTRAINT theirs CHECK (hostname = 'elsewhere')",
        "ADD COLUMN project text NOT NULL",
        "DROP COLUMN codebase, ADD COLUMN codebase text GENERATED ALWAYS AS ('theirs') STORED",
        "DROP COLUMN pid, ADD COLUMN pid bigint GENERATED ALWAYS AS IDENTITY",
    ],
)
def test_table_of_other_shape_is_refused(refused: Refused, fresh_database: Callable[..., str], change: str) -> None:
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((queries.directory() / "ddl/001_claude_sessions.sql").read_bytes())
    execute(dsn, f"ALTER TABLE public.claude_sessions {change}")
    before = json_rows(dsn)
    refused("claim", "SD-1", "--session", "longer", "--dsn", dsn, code=7, message="claude-sessions schema check")
    assert json_rows(dsn) == before
