"""Files of the schema that cannot be applied: the command says so, and the others keep working without them."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from claude_sessions_cli import database, queries
from claude_sessions_cli.operations import schema
from commands.answers import Inside, apply_schema, as_role, data_of, execute, failed


def _differences(dsn: str) -> list[schema.Difference]:
    with database.connect(dsn, "the test") as connection:
        return schema.check(connection)


@pytest.fixture
def seed_table(fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a private table that has only `001`."""
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((queries.directory() / "ddl/001_claude_sessions.sql").read_bytes())
    return dsn


@pytest.mark.parametrize(
    ("optional", "file"), [([], "002_exclusive_claims.sql"), (["least_privilege"], "optional/least_privilege.sql")]
)
def test_lock_that_does_not_come_leaves_commands_working(
    seed_table: str, inside: Inside, monkeypatch: pytest.MonkeyPatch, optional: list[str], file: str
) -> None:
    if optional:
        apply_schema(seed_table)
    shipped = queries.get
    monkeypatch.setattr(queries, "get", lambda name: shipped(name).replace("'30s'", "'100ms'"))
    argv = ["schema", "apply", "--dsn", seed_table, *(f"--optional={name}" for name in optional)]
    before = _differences(seed_table)
    with psycopg.connect(seed_table) as writer:
        writer.execute("INSERT INTO claude_sessions (session_id) VALUES ('theirs')")
        line = failed(inside(*argv), 6, f"{file} is not applied, and commands keep working without it: .* lock timeout")
        assert "(when no other transaction keeps the table: claude-sessions schema apply --dsn DSN; or in psql" in line
        assert _differences(seed_table) == before
        assert inside("claim", "SD-1", "--session", "a", "--dsn", seed_table).returncode == 0
    assert inside(*argv).returncode == 0


def test_grant_is_reported(make_role: Callable[..., str], seed_table: str, inside: Inside) -> None:
    argv = ("schema", "apply", "--grant", make_role("cs_worker"), "--dsn", seed_table)
    assert inside(*argv).stdout.splitlines()[-1] == "granted to cs_worker: what the commands need"
    assert data_of(inside(*argv, "--json"), "schema apply")["granted"] == "cs_worker"


def test_index_without_rights_leaves_commands_working(
    make_role: Callable[..., str], seed_table: str, inside: Inside
) -> None:
    role = make_role("cs_worker", "NOLOGIN IN ROLE authenticated")
    execute(seed_table, f"GRANT CREATE ON SCHEMA public TO {role}")
    execute(seed_table, f"GRANT SELECT, INSERT, UPDATE ON claude_sessions TO {role}")
    dsn, before = as_role(seed_table, role), _differences(seed_table)
    message = "002_exclusive_claims.sql is not applied, and commands keep working without it: .* must be owner of table"
    line = failed(inside("schema", "apply", "--dsn", dsn), 8, message)
    assert line.endswith("(as the table's owner or an administrator: claude-sessions schema apply --dsn DSN)")
    assert _differences(seed_table) == before
    assert inside("claim", "SD-1", "--session", "a", "--dsn", dsn).returncode == 0
