"""Pruning beside tables that refer to sessions: which sessions stay, and which tables are named before they lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Server, Table, dsn_of, make_caller

from claude_sessions_cli.operations.prune import Reference
from claude_sessions_cli.operations.reap import ReapResult, reap

LATER = make_caller(None, now=at(40 * DAY))
ENDED = {"status": "released", "heartbeat_at": NOON, "updated_at": NOON, "created_at": NOON}
TO_SESSIONS = "session uuid DEFAULT gen_random_uuid() REFERENCES public.claude_sessions"
ACTIONS = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION DEFERRABLE INITIALLY DEFERRED"]
WRITING = ["CASCADE", "SET NULL", "SET DEFAULT"]


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@contextmanager
def _tables(table: Table, *statements: str) -> Iterator[None]:
    """Have other tables in a schema of their own."""
    table.execute('CREATE SCHEMA "Other tables"')
    table.execute('SET search_path = "Other tables"')
    try:
        for statement in statements:
            table.execute(statement)
        yield
    finally:
        table.execute("RESET search_path")
        table.execute('DROP SCHEMA "Other tables" CASCADE')


def _insert(table: Table, *names: str) -> None:
    for name in names:
        table.insert(name, **ENDED)


def _refer(table: Table, *names: str, into: str = "notes") -> None:
    for name in names:
        table.execute(
            f'INSERT INTO "Other tables".{into} (session) SELECT id FROM public.claude_sessions WHERE session_id = %s',
            name,
        )


def _prune(table: Table, **options: Any) -> ReapResult:
    return reap(table.database, LATER, prune=86400, **options)


def _left(table: Table) -> str:
    rows = table.execute("SELECT session_id FROM public.claude_sessions ORDER BY session_id")
    return " ".join(row["session_id"] for row in rows)


def _notes(table: Table) -> list[Any]:
    return [row["session"] for row in table.execute('SELECT session FROM "Other tables".notes')]


def _found(result: ReapResult) -> list[tuple[str, str, int | None]]:
    return [(found.table, found.on_delete, found.sessions) for found in result.references]


@pytest.mark.parametrize("action", ACTIONS)
def test_prune_keeps_sessions_that_a_table_refers_to(
    table: Table, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.prune.CAREFUL_BATCH", 2)
    with _tables(table, f"CREATE TABLE notes ({TO_SESSIONS} ON DELETE {action})"):
        _insert(table, "a", "b", "c", "d", "e")
        _refer(table, "b", "b", "d")
        kept = ('"Other tables".notes', action.partition(" DEFERRABLE")[0].lower(), 2)
        for dry_run in (True, False):
            result = _prune(table, dry_run=dry_run)
            assert (result.pruned, result.referenced, result.refused) == (3, 2, [])
            assert _found(result) == [kept]
        assert (_left(table), len(_notes(table))) == ("b d", 3)


@pytest.mark.parametrize("action", WRITING)
def test_cascade_announces_tables_before_it_deletes(table: Table, action: str) -> None:
    told: list[tuple[str, str]] = []

    def announce(references: Any) -> None:
        told.extend((reference.table, _left(table)) for reference in references)

    default = "DEFAULT NULL" if action == "SET DEFAULT" else ""
    with _tables(
        table, f"CREATE TABLE notes (session uuid {default} REFERENCES public.claude_sessions ON DELETE {action})"
    ):
        _insert(table, "a", "b")
        _refer(table, "b")
        dry = _prune(table, cascade=True, dry_run=True, announce=announce)
        assert (dry.pruned, dry.referenced, told) == (2, 0, [('"Other tables".notes', "a b")])
        result = _prune(table, cascade=True, announce=announce)
        assert (result.pruned, result.referenced, result.refused) == (2, 0, [])
        assert told == [('"Other tables".notes', "a b")] * 2
        assert (_left(table), _notes(table)) == ("", [] if action == "CASCADE" else [None])


def test_cascade_keeps_what_another_table_forbids(table: Table) -> None:
    with _tables(
        table,
        f"CREATE TABLE notes ({TO_SESSIONS} ON DELETE CASCADE)",
        f"CREATE TABLE audit ({TO_SESSIONS})",
    ):
        _insert(table, "a", "b", "c")
        _refer(table, "a", "b")
        _refer(table, "b", into="audit")
        result = _prune(table, cascade=True)
        assert (result.pruned, result.referenced, _left(table)) == (2, 1, "b")
        assert len(_notes(table)) == 1


def test_tables_behind_a_cascade_are_named_too(table: Table) -> None:
    told: list[Reference] = []
    with _tables(
        table,
        f"CREATE TABLE notes (id integer PRIMARY KEY DEFAULT 1, {TO_SESSIONS} ON DELETE CASCADE)",
        "CREATE TABLE lines (id integer PRIMARY KEY, note integer REFERENCES notes ON DELETE CASCADE)",
        "CREATE TABLE words (line integer REFERENCES lines ON DELETE SET NULL)",
        "CREATE TABLE pages (note integer REFERENCES notes)",
    ):
        _insert(table, "a")
        _refer(table, "a")
        assert _prune(table).referenced == 1
        table.execute("INSERT INTO lines VALUES (7, 1)")
        table.execute("INSERT INTO words VALUES (7)")
        assert _prune(table, cascade=True, announce=told.extend).pruned == 1
        assert [(found.table, found.on_delete, found.through) for found in told] == [
            ('"Other tables".lines', "cascade", '"Other tables".notes'),
            ('"Other tables".notes', "cascade", None),
            ('"Other tables".words', "set null", '"Other tables".lines'),
        ]
        assert table.execute("SELECT * FROM words") == [{"line": None}]


def test_cascade_blocked_further_on_keeps_session(table: Table) -> None:
    with _tables(
        table,
        f"CREATE TABLE notes (id integer PRIMARY KEY DEFAULT 1, {TO_SESSIONS} ON DELETE CASCADE)",
        "CREATE TABLE pages (note integer REFERENCES notes)",
    ):
        _insert(table, "a", "b")
        _refer(table, "a")
        table.execute("INSERT INTO pages VALUES (1)")
        result = _prune(table, cascade=True)
        assert (result.pruned, result.referenced, result.refused, _left(table)) == (1, 1, [], "a")


def test_circle_of_keys_is_followed_once(table: Table) -> None:
    with _tables(
        table,
        f"CREATE TABLE notes (id integer PRIMARY KEY DEFAULT 1, {TO_SESSIONS} ON DELETE CASCADE)",
        "CREATE TABLE lines (id integer PRIMARY KEY, note integer REFERENCES notes ON DELETE CASCADE)",
        "ALTER TABLE notes ADD line integer REFERENCES lines ON DELETE CASCADE",
        "ALTER TABLE notes ADD above integer REFERENCES notes ON DELETE CASCADE",
    ):
        assert [found.table for found in _prune(table).references] == ['"Other tables".lines', '"Other tables".notes']


def test_session_that_refers_to_session_is_named(table: Table) -> None:
    column = "ADD parent uuid REFERENCES public.claude_sessions ON DELETE CASCADE"
    table.execute(f"ALTER TABLE public.claude_sessions {column}")
    try:
        _insert(table, "old")
        table.insert("live", status="idle", heartbeat_at=at(40 * DAY), parent=table.row("old")["id"])
        assert _found(_prune(table)) == [("public.claude_sessions", "cascade", 1)]
        assert _left(table) == "live old"
    finally:
        table.execute("ALTER TABLE public.claude_sessions DROP COLUMN parent")


def test_keys_of_several_columns_and_partitions_are_followed(table: Table) -> None:
    with _tables(
        table,
        "CREATE TABLE notes (name text, session uuid, FOREIGN KEY (session) REFERENCES public.claude_sessions)"
        " PARTITION BY LIST (name)",
        "CREATE TABLE part PARTITION OF notes DEFAULT",
        "CREATE TABLE names (name text REFERENCES public.claude_sessions (session_id) ON DELETE CASCADE)",
    ):
        _insert(table, "a", "b", "c")
        _refer(table, "b")
        table.execute("INSERT INTO names VALUES ('c')")
        result = _prune(table)
        assert _found(result) == [('"Other tables".names', "cascade", 1), ('"Other tables".notes', "no action", 1)]
        assert _left(table) == "b c"


def test_two_columns_of_a_key_count_together(table: Table) -> None:
    table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT pair UNIQUE (session_id, hostname)")
    try:
        with _tables(
            table,
            "CREATE TABLE notes (host text, name text, FOREIGN KEY (name, host)"
            " REFERENCES public.claude_sessions (session_id, hostname) ON DELETE CASCADE)",
        ):
            for name, host in (("a", "x"), ("b", "y")):
                table.insert(name, hostname=host, **ENDED)
            table.execute("INSERT INTO notes VALUES ('y', 'b')")
            assert (_prune(table).referenced, _left(table)) == (1, "b")
    finally:
        table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT pair")


@pytest.fixture
def guest(server: Server, make_role: Callable[..., str]) -> str:
    """Return a role that may do everything with sessions, and nothing with other tables."""
    return make_role("cs_pruner", "NOLOGIN IN ROLE authenticated")


@pytest.mark.parametrize("hidden", ["denied", "row security"])
def test_table_that_cannot_be_read_keeps_all(guest: str, fresh_database: Callable[..., str], hidden: str) -> None:
    from commands.answers import apply_schema, as_role

    made = Table(apply_schema(fresh_database()))
    with made.stack, _tables(made, f"CREATE TABLE notes ({TO_SESSIONS} ON DELETE CASCADE)"):
        made.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO {guest}")
        if hidden == "row security":
            made.execute('ALTER TABLE "Other tables".notes ENABLE ROW LEVEL SECURITY')
            made.execute(f'GRANT SELECT ON "Other tables".notes TO {guest}')
            made.execute(f'GRANT USAGE ON SCHEMA "Other tables" TO {guest}')
        _insert(made, "a", "b")
        _refer(made, "b")
        other = Table(as_role(made.dsn, guest), made.stack)
        result = _prune(other)
        assert (result.pruned, result.referenced) == (0, 2)
        assert _found(result) == [('"Other tables".notes', "cascade", None)]
        assert _prune(other, cascade=True).pruned == 2


def test_keys_between_other_tables_are_ignored(table: Table) -> None:
    others = ("CREATE TABLE notes (id integer PRIMARY KEY)", "CREATE TABLE lines (note integer REFERENCES notes)")
    with _tables(table, *others):
        _insert(table, "a", "b")
        assert table.ask("list_references") == []
        limits = {"after": None, "older_than_s": 60, "row_limit": 1, "now": at(DAY)}
        assert [row["is_written"] for row in table.ask("prune_sessions", **limits)] == [True]
        result = _prune(table)
        assert (result.pruned, result.references) == (1, [])


def test_reference_made_in_between_is_not_lost(table: Table) -> None:
    with _tables(table, f"CREATE TABLE notes ({TO_SESSIONS} ON DELETE CASCADE)"):
        _insert(table, "a", "b")
        with psycopg.connect(table.dsn) as other:
            other.execute(
                'INSERT INTO "Other tables".notes SELECT id FROM public.claude_sessions WHERE session_id = %s', ["a"]
            )
            # The row is locked by the key's check, and left to the next run.
            assert _prune(table).pruned == 1
            other.commit()
        assert (_prune(table).referenced, _left(table)) == (1, "a")
