"""Transactions: their limits, and what row security allows."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from conftest import Server

from claude_sessions_cli import database, queries
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import PermissionDenied
from claude_sessions_cli.transaction import Transaction


def _settings(tx: Transaction) -> dict[str, str]:
    tx.send()
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone", "datestyle"]
    names.append("transaction_isolation")
    return {name: tx._connection.execute(f"SHOW {name}").fetchone().popitem()[1] for name in names}  # type: ignore[union-attr]


def test_transaction_settings_are_bounded_and_local(dsn: str) -> None:
    defaults = "-c statement_timeout=0 -c lock_timeout=1 -c idle_in_transaction_session_timeout=0"
    defaults += " -c default_transaction_isolation=serializable"
    own = psycopg.conninfo.make_conninfo(dsn, options=f"{defaults} -c timezone=Asia/Kathmandu -c datestyle=German,DMY")
    with database.connect(own, "the test") as opened:
        assert opened.read(_settings) == {
            **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "10s"),
            "timezone": "UTC",
            "datestyle": "ISO, DMY",
            "transaction_isolation": "read committed",
        }
        assert opened.alter(_settings) == {
            "statement_timeout": "5min",
            "lock_timeout": "30s",
            "idle_in_transaction_session_timeout": "1min",
            "timezone": "Asia/Kathmandu",
            "datestyle": "German, DMY",
            "transaction_isolation": "read committed",
        }


def _show(tx: Transaction, name: str) -> str:
    tx.send()
    [shown] = tx._connection.execute(f"SHOW {name}").fetchone().values()  # type: ignore[union-attr]
    return str(shown)


@pytest.mark.parametrize(
    ("given", "renewing", "writing"), [("off", "off", "on"), ("local", "local", "local"), ("on", "on", "on")]
)
def test_changes_of_terms_wait_for_the_disk(dsn: str, given: str, renewing: str, writing: str) -> None:
    own = psycopg.conninfo.make_conninfo(dsn, options=f"-c synchronous_commit={given}")
    with database.connect(own, "the test") as opened:
        assert opened.renew(database.NOBODY, _show, "synchronous_commit") == renewing
        assert opened.write(database.NOBODY, _show, "synchronous_commit") == writing
        assert opened._connection.execute("SHOW synchronous_commit").fetchone() == {"synchronous_commit": given}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ('"$user",public', '"$user",public'),
        ("public", "public"),
        ("public,pg_catalog", "pg_catalog, public,pg_catalog"),
        ("pg_catalog,public", "pg_catalog,public"),
        ("pg_temp,public", "pg_temp,public"),
    ],
)
def test_names_of_system_come_first_on_search_path(dsn: str, given: str, used: str) -> None:
    own = psycopg.conninfo.make_conninfo(dsn, options=f"-c search_path={given}")
    with database.connect(own, "the test") as opened:
        assert opened.read(_show, "search_path") == used
        # Its schema comes first on the path, though not for functions and operators.
        opened._connection.execute("CREATE TEMPORARY TABLE scratch ()")
        assert opened.read(_show, "search_path") == used


OPEN, NARROW = "USING (true)", "USING (session_id = 'b')"
READ, ADD, CHANGE = "FOR SELECT USING (true)", "FOR INSERT WITH CHECK (true)", "FOR UPDATE USING (true)"


@pytest.fixture(scope="module")
def guarded(server: Server) -> Iterator[tuple[str, Database]]:
    """Return a DSN, and a connection to it as a member of the role cs_members."""
    dsn = server.create("cs_guarded")
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute((queries.directory() / "ddl/001_claude_sessions.sql").read_bytes())
        admin.execute("CREATE TABLE other (LIKE claude_sessions)")
        for role in ("cs_members", "cs_strangers", "cs_member"):
            admin.execute(f"DROP ROLE IF EXISTS {role}")
            admin.execute(f"CREATE ROLE {role} NOLOGIN")
        admin.execute("GRANT cs_members TO cs_member")
    try:
        with database.connect(psycopg.conninfo.make_conninfo(dsn, options="-c role=cs_member"), "the test") as opened:
            yield dsn, opened
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute("DROP DATABASE cs_guarded WITH (FORCE)")
            admin.execute("DROP ROLE cs_members, cs_strangers, cs_member")


def _may(opened: Database) -> str:
    """Return the access that row security leaves to a role: nothing, read, or write."""
    try:
        opened.read(lambda tx: tx.commit())
    except PermissionDenied:
        return "nothing"
    try:
        opened.write(database.NOBODY, lambda tx: tx.commit())
    except PermissionDenied:
        return "read"
    return "write"


@pytest.mark.parametrize(
    ("policies", "may"),
    [
        ([], "nothing"),
        ([OPEN], "write"),
        ([f"TO cs_members {OPEN}"], "write"),
        ([f"TO cs_strangers {OPEN}"], "nothing"),
        ([NARROW], "nothing"),
        ([OPEN, NARROW], "write"),
        ([f"{OPEN} WITH CHECK (session_id = 'b')"], "read"),
        ([READ, ADD, CHANGE], "write"),
        ([READ, ADD], "read"),
        ([READ, CHANGE], "read"),
        ([READ], "read"),
        ([ADD, CHANGE], "nothing"),
        ([READ, "FOR INSERT WITH CHECK (session_id = 'b')", CHANGE], "read"),
        ([READ, ADD, "FOR UPDATE USING (session_id = 'b')"], "read"),
        ([READ, ADD, "FOR UPDATE USING (true) WITH CHECK (session_id = 'b')"], "read"),
        ([f"AS RESTRICTIVE {OPEN}"], "nothing"),
        ([OPEN, f"AS RESTRICTIVE {OPEN}"], "write"),
        ([OPEN, f"AS RESTRICTIVE {NARROW}"], "nothing"),
        ([OPEN, f"AS RESTRICTIVE TO cs_strangers {NARROW}"], "write"),
        ([OPEN, f"AS RESTRICTIVE FOR SELECT {NARROW}"], "nothing"),
        ([OPEN, f"AS RESTRICTIVE FOR UPDATE {NARROW}"], "read"),
        ([OPEN, f"AS RESTRICTIVE FOR DELETE {NARROW}"], "write"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value) or "none",
)
def test_policies_decide_access_of_role(guarded: tuple[str, Database], policies: list[str], may: str) -> None:
    dsn, opened = guarded
    with psycopg.connect(dsn, autocommit=True) as admin:
        for (name,) in admin.execute("SELECT polname FROM pg_policy").fetchall():
            admin.execute(f'DROP POLICY IF EXISTS "{name}" ON claude_sessions')
        for number, policy in enumerate(policies):
            admin.execute(f"CREATE POLICY p{number} ON claude_sessions {policy}")
        assert _may(opened) == may
        # Policies of another table have no effect, and disabled row security hides no row.
        admin.execute(f"CREATE POLICY another ON other {OPEN}")
        admin.execute(f"CREATE POLICY narrow ON other AS RESTRICTIVE {NARROW}")
        try:
            assert _may(opened) == may
            admin.execute("ALTER TABLE claude_sessions DISABLE ROW LEVEL SECURITY")
            assert _may(opened) == "write"
        finally:
            admin.execute("ALTER TABLE claude_sessions ENABLE ROW LEVEL SECURITY")
            admin.execute("DROP POLICY another ON other; DROP POLICY narrow ON other")
