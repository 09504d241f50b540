"""Single conditions of the SQL that no other test covers: `make predicates` removes each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from clock import NOON, at
from conftest import Server, Sleeper, Table, make_caller
from poll import until_waiting
from psycopg.types.json import Jsonb

from claude_sessions_cli import database, process, queries, transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable
from claude_sessions_cli.operations import schema, term
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.claim import claim as claim_item
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.history import read
from claude_sessions_cli.operations.list import Filters, list_sessions
from claude_sessions_cli.operations.park import park
from claude_sessions_cli.operations.park import park as park_session
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release

FIRST, SECOND, LAST = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "0af")
SECOND_DDL = "002_exclusive_claims.sql"


@contextmanager
def _while_waiting(dsn: str, work: Callable[[], Any], lock: str, *parameters: Any) -> Iterator[tuple[Any, Future[Any]]]:
    """Start `work` behind a lock, and yield the connection that holds the lock once `work` waits for it."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as other:
        other.execute(lock, parameters)
        future = pool.submit(work)
        until_waiting(other)
        yield other, future


# Transactions.


def test_claim_sees_faster_claim_at_any_isolation(seed_dsn: str) -> None:
    # Under REPEATABLE READ the claim would see the table as it was before the wait.
    eager = psycopg.conninfo.make_conninfo(seed_dsn, options="-c default_transaction_isolation=repeatable\\ read")
    with database.connect(eager, "the test") as late:
        claim = lambda: claim_item(late, make_caller("b"), "SD-1")  # noqa: E731
        with _while_waiting(seed_dsn, claim, "SELECT pg_advisory_xact_lock(hashtext('SD-1'))") as (other, claiming):
            other.execute("INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
        with pytest.raises(HeldByAnother, match="SD-1 is held by a"):
            claiming.result()


def test_claim_waits_for_claim_of_same_item(table: Table) -> None:
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
        with pytest.raises(Unreachable), pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 100)
            claim(table.database, make_caller("a"), "SD-1")
        assert claim(table.database, make_caller("a"), "SD-2").outcome == "claimed"


def test_apply_waits_for_apply_and_sees_result(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    eager = psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_isolation=repeatable\\ read")
    with database.connect(eager, "the test") as late:
        lock = "SELECT pg_advisory_xact_lock(hashtext('claude_sessions schema'))"
        with _while_waiting(dsn, lambda: schema.apply(late), lock) as (other, applying):
            for path in schema.ddl_files():
                other.execute(path.read_bytes())
        assert [file.created for file in applying.result()] == [[] for _ in schema.ddl_files()]


# Claims.


def test_rows_are_locked_in_order_of_ids(table: Table) -> None:
    # Their orders in the table and by age are the reverse.
    for number, (name, key) in enumerate([("me", LAST), ("old-2", SECOND), ("old-1", FIRST)]):
        item = None if name == "me" else "SD-1"
        table.insert(name, id=key, sd_id=item, status="stale", claimed_at=at(-number), heartbeat_at=at(-999))
    claim = lambda: claim_item(table.database, make_caller("me", now=NOON), "SD-1")  # noqa: E731
    lock = "SELECT FROM public.claude_sessions WHERE session_id = 'old-1' FOR UPDATE"
    with _while_waiting(table.dsn, claim, lock) as (_, claiming):
        free = table.execute("SELECT session_id FROM public.claude_sessions FOR UPDATE SKIP LOCKED")
        assert {row["session_id"] for row in free} == {"me", "old-2"}
    assert claiming.result().outcome == "took_over"


def test_latest_of_several_holders_is_reported(table: Table) -> None:
    for name, key, begun in [
        ("c", FIRST, at(1)),
        ("d", LAST, None),
        ("b", LAST[:-1] + "1", at(2)),
        ("a", SECOND, at(2)),
    ]:
        table.insert(name, id=key, sd_id="SD-1", status="stale", claimed_at=begun, heartbeat_at=NOON)
    with pytest.raises(HeldByAnother, match="SD-1 is held by a"):
        claim(table.database, make_caller("me", now=at(3)), "SD-1")
    table.execute("DELETE FROM public.claude_sessions WHERE session_id = 'a'")
    with pytest.raises(HeldByAnother, match="SD-1 is held by b"):
        claim(table.database, make_caller("me", now=at(3)), "SD-1")


@pytest.mark.parametrize(
    ("status", "item", "lost", "by"),
    [
        ("active", "SD-2", None, None),
        ("released", "SD-1", None, None),
        ("released", None, "SD-1", None),
        ("active", "SD-2", "SD-1", None),
        ("idle", None, "SD-2", None),
        ("stale", None, "SD-1", "c"),
    ],
    ids=[
        "holds another",
        "ended with it",
        "ended after a loss",
        "holds another after a loss",
        "lost another",
        "successor recorded",
    ],
)
def test_claim_does_not_wait_for_unrelated_rows(
    table: Table, status: str, item: str | None, lost: str | None, by: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 3000)
    tombstone = {"sd_id": lost, "fence": 1, "reason": "silent", "by": by} if lost else None
    table.insert("b", status=status, sd_id=item, metadata=Jsonb({"claude_sessions_cli": {"tombstone": tombstone}}))
    with psycopg.connect(table.dsn) as other:
        other.execute("SELECT FROM public.claude_sessions FOR UPDATE")
        assert claim(table.database, make_caller("a"), "SD-1").outcome == "claimed"


def test_claim_lost_during_park_is_not_parked(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    lose = "UPDATE public.claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'idle'"
    park = lambda: park_session(table.database, make_caller("a"), 60)  # noqa: E731
    with _while_waiting(table.dsn, park, lose) as (_, parking):
        pass
    with pytest.raises(NotHeld, match="lost SD-1"):
        parking.result()


def test_term_of_other_item_is_not_touched(table: Table) -> None:
    claimed = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session
    assert claimed.fence is not None
    # Another program moves the claim to another item and keeps its time.
    table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-2'")
    before = table.row("a")
    with pytest.raises(NotHeld):
        term.renew(table.database, make_caller("a", now=at(1)), "SD-1", claimed.fence)
    with pytest.raises(NotHeld, match="cleared by another program"):
        term.release(table.database, make_caller("a", now=at(1)), "SD-1", claimed.fence, reason="completed")
    own = ("metadata", "updated_at")
    assert {name: value for name, value in table.row("a").items() if name not in own} == {
        name: value for name, value in before.items() if name not in own
    }
    assert table.own("a")["tombstone"]["sd_id"] == "SD-1"


# The schema.


def test_role_without_createrole_applies_to_existing_roles(dsn: str, fresh_database: Callable[..., str]) -> None:
    made = fresh_database()
    with psycopg.connect(made, autocommit=True) as admin:
        admin.execute("CREATE ROLE cs_owner NOLOGIN")
        try:
            admin.execute("ALTER SCHEMA public OWNER TO cs_owner")
            with database.connect(
                psycopg.conninfo.make_conninfo(made, options="-c role=cs_owner"), "the test"
            ) as opened:
                schema.apply(opened)
                assert claim(opened, make_caller("a"), "SD-1").outcome == "claimed"
        finally:
            admin.execute("DROP OWNED BY cs_owner")
            admin.execute("DROP ROLE cs_owner")


def test_role_created_concurrently_is_kept(server: Server, dsn: str, fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    text = (queries.directory() / "ddl/001_claude_sessions.sql").read_text().replace("'anon'", "'cs_sudden'", 1)
    with psycopg.connect(dsn) as late, psycopg.connect(server.dsn, autocommit=True) as early:
        # The snapshot of this transaction is as old as its first statement.
        late.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        late.execute("SELECT 1")
        early.execute("CREATE ROLE cs_sudden NOLOGIN")
        try:
            late.execute(text.encode())
        finally:
            late.rollback()
            early.execute("DROP ROLE cs_sudden")


def test_policies_and_triggers_of_other_tables_are_ignored(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    triggers = [f"claude_sessions_record_{name}" for name in ("insert", "delete", "change")]
    with psycopg.connect(dsn, autocommit=True) as admin, database.connect(dsn, "the test") as opened:
        admin.execute("CREATE TABLE other (id integer); CREATE POLICY other ON other USING (true)")
        for name in triggers:
            made = f"CREATE TRIGGER {name} BEFORE INSERT ON other EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            admin.execute(made)
        schema.apply(opened)
        has = "SELECT {0}name FROM pg_{1} WHERE {0}relid = 'claude_sessions'::regclass ORDER BY 1"
        policies = admin.execute(has.format("pol", "policy")).fetchall()
        assert policies == [("Allow all for anon",), ("Allow all for authenticated",)]
        assert admin.execute(has.format("tg", "trigger")).fetchall() == [(name,) for name in sorted(triggers)]
        for name in triggers:
            admin.execute(f"DROP TRIGGER {name} ON claude_sessions")
            schema.apply(opened)
            assert admin.execute(has.format("tg", "trigger")).fetchall() == [(name,) for name in sorted(triggers)]


def test_002_lists_double_claims_in_order(
    fresh_database: Callable[..., str],
) -> None:
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        first, second = (
            (queries.directory() / "ddl" / name).read_bytes() for name in ("001_claude_sessions.sql", SECOND_DDL)
        )
        admin.execute(first)
        add = "INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES (%s, %s, %s)"
        admin.cursor().executemany(add, [("idle-1", None, None), ("idle-2", None, None)])
        rows = [
            ("d", "SD-2", at(1)),
            ("c", "SD-2", at(1)),
            ("a", "SD-2", at(2)),
            ("b", "SD-1", None),
            ("e", "SD-1", at(9)),
        ]
        admin.cursor().executemany(add, rows)
        with pytest.raises(psycopg.errors.UniqueViolation, match="holder: SD-1 held by e, b; SD-2 held by c, d, a\n"):
            admin.execute(second)
        admin.execute("DELETE FROM claude_sessions WHERE sd_id IS NOT NULL")
        admin.execute(second)


def test_only_trigger_appends_to_history(fresh_database: Callable[..., str]) -> None:
    append = "claude_sessions_append(text, claude_sessions, text, text, text)"
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC")
        for path in schema.ddl_files():
            admin.execute(path.read_bytes())
        for role in ("anon", "authenticated"):
            may = "has_table_privilege(%s, 'claude_session_events', '{}')"
            asked = admin.execute(f"SELECT {may.format('INSERT')}, {may.format('SELECT')}", [role, role]).fetchone()
            assert asked == (False, role == "authenticated")
        for role in ("anon", "authenticated", "public"):
            asked = admin.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", [role, append]).fetchone()
            assert asked == (False,)


def test_check_ignores_foreign_objects_and_sorts_extra_ones(dsn: str) -> None:
    with psycopg.connect(dsn) as admin, database.connect(dsn, "the test") as opened:
        assert schema.check(opened) == []
        admin.execute(
            "CREATE SCHEMA elsewhere"
            " CREATE TABLE claude_sessions (id integer)"
            " CREATE TABLE referring (id uuid REFERENCES public.claude_sessions (id));"
            "CREATE POLICY elsewhere ON elsewhere.claude_sessions USING (true);"
            "CREATE FUNCTION elsewhere.claude_sessions_record() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
            "CREATE FUNCTION public.somebodys() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        )
        admin.commit()
        try:
            assert schema.check(opened) == []
            admin.execute(
                "ALTER TABLE claude_sessions FORCE ROW LEVEL SECURITY, ADD COLUMN b text, ADD COLUMN a text;"
                "CREATE POLICY more ON claude_sessions USING (true)"
            )
            admin.commit()
            extra = [(found.kind, found.name) for found in schema.check(opened)]
            assert extra == [("column", "a"), ("column", "b"), ("policy", "more"), ("row security", "forced")]
        finally:
            admin.rollback()
            admin.execute(
                "DROP SCHEMA elsewhere CASCADE; DROP FUNCTION somebodys; DROP POLICY IF EXISTS more ON claude_sessions;"
                "ALTER TABLE claude_sessions NO FORCE ROW LEVEL SECURITY,"
                " DROP COLUMN IF EXISTS a, DROP COLUMN IF EXISTS b"
            )


# The history.


def _events(table: Table, session_id: str) -> list[str]:
    """Return the events of a session, the earliest first."""
    return [event.event for event in reversed(read(table.database, session_id).events)]


@pytest.mark.parametrize(
    ("statements", "events"),
    [
        ([], []),
        (["UPDATE claude_sessions SET track = 'A', heartbeat_at = now(), metadata = '{}'"], []),
        (["UPDATE claude_sessions SET sd_id = sd_id, claimed_at = claimed_at, status = status"], []),
        (["UPDATE claude_sessions SET claimed_at = '2026-01-02'"], ["unclaimed", "claimed"]),
        (["UPDATE claude_sessions SET claimed_at = NULL"], ["unclaimed", "claimed"]),
        (["UPDATE claude_sessions SET sd_id = 'SD-2'"], ["unclaimed", "claimed"]),
        (["UPDATE claude_sessions SET status = 'idle'"], []),
        (["UPDATE claude_sessions SET status = 'stale'"], ["stale"]),
        (
            ["UPDATE claude_sessions SET status = 'stale'", "UPDATE claude_sessions SET sd_id = NULL"],
            ["stale", "unclaimed"],
        ),
        (["UPDATE claude_sessions SET status = 'released'"], ["unclaimed", "ended"]),
        (
            ["UPDATE claude_sessions SET status = 'released'", "UPDATE claude_sessions SET status = 'active'"],
            ["unclaimed", "ended", "reopened", "claimed"],
        ),
        (
            ["UPDATE claude_sessions SET status = 'released'", "DELETE FROM claude_sessions"],
            ["unclaimed", "ended", "deleted"],
        ),
        (["DELETE FROM claude_sessions"], ["unclaimed", "deleted"]),
    ],
    ids=lambda value: "; ".join(value).replace("claude_sessions", "").replace("UPDATE  SET ", "") or "no change",
)
def test_each_change_records_its_events(full_table: Table, statements: list[str], events: list[str]) -> None:
    full_table.insert("a", sd_id="SD-1", status="active", claimed_at=NOON)
    for statement in statements:
        full_table.execute(statement)
    assert _events(full_table, "a") == ["registered", "claimed", *events]


@pytest.mark.parametrize("status", ["idle", "stale", "released"])
@pytest.mark.parametrize("item", [None, "SD-1"])
def test_inserted_row_records_its_state(full_table: Table, status: str, item: str | None) -> None:
    full_table.insert("a", sd_id=item, status=status)
    assert _events(full_table, "a") == ["registered", *(["claimed"] if item and status != "released" else [])]


@pytest.mark.parametrize(
    "metadata",
    [None, "text", ["claude_sessions_cli"], {"claude_sessions_cli": "text"}, {"claude_sessions_cli": {"tombstone": 7}}],
)
def test_term_ends_with_any_shape_of_metadata(full_table: Table, metadata: Any) -> None:
    full_table.insert("a", sd_id="SD-1", metadata=Jsonb(metadata))
    full_table.execute("UPDATE claude_sessions SET sd_id = NULL")
    [term] = read(full_table.database, "SD-1").terms
    assert term.reason == "released"


def test_earlier_loss_is_no_reason_of_later_release(full_table: Table) -> None:
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    claim(full_table.database, make_caller("b", now=at(16)), "SD-1")
    full_table.execute("UPDATE claude_sessions SET sd_id = 'SD-2', claimed_at = now() WHERE session_id = 'a'")
    full_table.execute("UPDATE claude_sessions SET sd_id = NULL WHERE session_id = 'a'")
    [term] = read(full_table.database, "SD-2").terms
    assert (term.reason, term.note, term.ended_by) == ("released", None, None)


def test_unknown_actor_is_recorded_as_null(full_table: Table) -> None:
    nameless = psycopg.conninfo.make_conninfo(full_table.dsn, application_name="")
    with psycopg.connect(nameless, autocommit=True) as other:
        # After the transaction, Postgres keeps the setting as an empty text.
        other.execute(
            "BEGIN; SET LOCAL claude_sessions.actor = 'x'; SET LOCAL claude_sessions.actor_host = 'x'; COMMIT"
        )
        other.execute("INSERT INTO public.claude_sessions (session_id) VALUES ('a')")
    [event] = read(full_table.database, "a").events
    assert (event.actor_session, event.actor_host, event.actor_program) == (None, None, None)
    assert event.actor_role == full_table.execute("SELECT session_user AS name")[0]["name"]


def test_late_history_adds_only_unknown_claims(
    fresh_database: Callable[..., str],
) -> None:
    dsn = fresh_database()
    with database.connect(dsn, "the test") as opened:
        schema.apply(opened)
        with psycopg.connect(dsn, autocommit=True) as other:
            add = "INSERT INTO claude_sessions (session_id, sd_id, status, claimed_at) VALUES (%s, %s, %s, %s)"
            rows: list[tuple[str, str | None, str, datetime | None]] = [
                ("known", "SD-1", "active", NOON),
                ("renewed", "SD-2", "active", NOON),
                ("moved", "SD-3", "active", None),
            ]
            other.cursor().executemany(add, rows)
            other.execute("DROP TRIGGER claude_sessions_record_change ON claude_sessions")
            other.execute("ALTER TABLE claude_sessions DISABLE TRIGGER claude_sessions_record_insert")
            other.execute("UPDATE claude_sessions SET claimed_at = '2026-02-01' WHERE session_id = 'renewed'")
            other.execute("UPDATE claude_sessions SET sd_id = 'SD-4' WHERE session_id = 'moved'")
            rows = [("new", "SD-5", "active", NOON), ("over", "SD-6", "released", NOON), ("idle", None, "idle", None)]
            other.cursor().executemany(add, rows)
            other.execute(
                "INSERT INTO claude_session_events (event, session_id, sd_id, claimed_at)"
                " VALUES ('unclaimed', 'new', 'SD-5', %s), ('claimed', 'another', 'SD-5', %s)",
                [NOON, NOON],
            )
            other.execute("CREATE TEMPORARY TABLE before AS SELECT id FROM claude_session_events")
            schema.apply(opened)
            added = (
                "SELECT event, session_id, sd_id FROM claude_session_events WHERE id NOT IN (TABLE before) ORDER BY 2"
            )
            assert other.execute(added).fetchall() == [
                ("claimed", "moved", "SD-4"),
                ("claimed", "new", "SD-5"),
                ("claimed", "renewed", "SD-2"),
            ]
            schema.apply(opened)
            assert len(other.execute(added).fetchall()) == 3


def test_limit_shows_latest_terms(full_table: Table) -> None:
    for number in range(3):
        claim(full_table.database, make_caller("a", now=at(number)), f"SD-{number}")
        release(full_table.database, make_caller("a", now=at(number)))
    claim(full_table.database, make_caller("b", now=at(3)), "SD-3")
    found = read(full_table.database, "a", limit=2)
    assert [term.sd_id for term in found.terms] == ["SD-2", "SD-1"]
    assert [event.event for event in found.events] == ["unclaimed", "claimed"]


def test_each_term_has_its_own_end(full_table: Table) -> None:
    # One session holds an item twice, another in between; the last term has not ended.
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    release(full_table.database, make_caller("a", now=at(1)), reason="first")
    claim(full_table.database, make_caller("b", now=at(2)), "SD-1")
    release(full_table.database, make_caller("b", now=at(3)), reason="second")
    claim(full_table.database, make_caller("a", now=at(4)), "SD-2")
    release(full_table.database, make_caller("a", now=at(5)), reason="third")
    claim(full_table.database, make_caller("a", now=at(6)), "SD-1")
    ended = [(term.session_id, term.sd_id, term.reason) for term in read(full_table.database, "SD-1").terms]
    assert ended == [("a", "SD-1", None), ("b", "SD-1", "second"), ("a", "SD-1", "first")]
    ended = [(term.session_id, term.sd_id, term.reason) for term in read(full_table.database, "a").terms]
    assert ended == [("a", "SD-1", None), ("a", "SD-2", "third"), ("a", "SD-1", "first")]


def test_term_without_recorded_end_has_no_end(full_table: Table) -> None:
    add = "INSERT INTO claude_session_events (event, session_id, sd_id, claimed_at, reason) VALUES (%s, %s, %s, %s, %s)"
    for event in [
        ("claimed", "a", "SD-1", at(1), None),  # The end was not recorded.
        ("claimed", "b", "SD-1", at(1), None),
        ("unclaimed", "b", "SD-1", at(1), "of b"),
        ("unclaimed", "a", "SD-2", at(1), "of SD-2"),
        ("stale", "a", "SD-1", at(1), "no end"),
        ("claimed", "a", "SD-1", at(2), None),
        ("unclaimed", "a", "SD-1", at(2), "of the second"),
        ("claimed", "a", "SD-1", None, None),  # Older writers record no time.
        ("unclaimed", "a", "SD-1", None, "of the third"),
        ("claimed", "a", "SD-1", None, None),
        ("unclaimed", "a", "SD-1", None, "of the fourth"),
    ]:
        full_table.execute(add, *event)
    # The order in the table then differs from that of the events.
    full_table.execute("UPDATE claude_session_events SET note = 'moved' WHERE reason = 'of the third'")
    ended = [(term.session_id, term.reason) for term in read(full_table.database, "SD-1").terms]
    ends = ["of the fourth", "of the third", "of the second"]
    assert ended == [*(("a", end) for end in ends), ("b", "of b"), ("a", None)]


# Queries.


def _offered(table: Table, query: str, prefix: str, **limits: int) -> list[str]:
    limits = {"row_limit": 99, "event_limit": 99, **limits}
    return [row["name"] for row in table.ask(query, prefix=prefix, prefixes=[prefix], **limits)]


def test_completion_offers_first_names(full_table: Table) -> None:
    for number in (5, 3, 1, 2, 4):
        full_table.insert(f"a{number}", sd_id=f"SD-{number}", status="active")
    full_table.insert("b", sd_id="SD-0", status="released")
    full_table.insert("c", sd_id="SD-6", status="stale")
    full_table.insert("d", sd_id="OTHER", status=None)
    assert _offered(full_table, "complete_held_items", "SD-") == ["SD-1", "SD-2", "SD-3", "SD-4", "SD-5", "SD-6"]
    assert _offered(full_table, "complete_held_items", "SD-", row_limit=2) == ["SD-1", "SD-2"]
    assert _offered(full_table, "complete_held_items", "") == ["OTHER", *(f"SD-{number}" for number in range(1, 7))]
    assert _offered(full_table, "complete_past_items", "SD-", row_limit=2) == ["SD-0", "SD-1"]
    assert _offered(full_table, "complete_past_items", "SD-", event_limit=5) == ["SD-0", "SD-6"]
    assert _offered(full_table, "complete_past_items", "O") == ["OTHER"]
    assert _offered(full_table, "complete_session_ids", "") == ["a1", "a2", "a3", "a4", "a5", "c", "d"]
    assert _offered(full_table, "complete_session_ids", "a", row_limit=2) == ["a1", "a2"]
    assert _offered(full_table, "complete_session_ids", "c") == ["c"]


def test_outliving_process_marks_only_own_session(table: Table) -> None:
    heartbeat(table.database, make_caller("b", now=NOON), register=True)
    fence = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session.fence
    before = table.row("b")
    term.outlive_process(table.database, make_caller("a", now=at(1)), "SD-1", fence or 0)
    assert (table.row("a")["updated_at"], table.row("b")) == (at(1), before)


def test_successor_is_recorded_only_for_its_item(table: Table) -> None:
    for name in ("a", "b"):
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}")
    reap(table.database, make_caller(None, now=at(20)))
    before = table.row("b")
    claim(table.database, make_caller("c", now=at(21)), "SD-a")
    assert (table.own("a")["tombstone"]["by"], table.row("b")) == ("c", before)


def test_only_silent_row_of_one_insert_is_reaped(table: Table) -> None:
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, sd_id, status, heartbeat_at)"
        " VALUES ('a', 'SD-1', 'active', %s), ('b', 'SD-2', 'active', %s)",
        *(NOON, at(20)),
    )
    reaped = reap(table.database, make_caller(None, now=at(20)))
    assert [verdict.session.session.session_id for verdict in reaped.changed] == ["a"]
    assert table.row("b")["sd_id"] == "SD-2"


def test_repeated_claim_changes_track_of_own_row_only(table: Table) -> None:
    claim(table.database, make_caller("b", now=NOON), "SD-2", track="C")
    before = table.row("b")
    claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
    claim(table.database, make_caller("a", now=at(1)), "SD-1", track="B")
    assert (table.row("a")["track"], table.row("b")) == ("B", before)


def test_park_keeps_claim_and_other_sessions(table: Table) -> None:
    for name, track in [("a", "A"), ("b", "B")]:
        claim(table.database, make_caller(name, now=NOON), f"SD-{name}", track=track)
    before, other = table.row("a"), table.row("b")
    park(table.database, make_caller("a", now=at(1)), 60)
    kept = ("sd_id", "track", "claimed_at", "status")
    assert [table.row("a")[name] for name in kept] == [before[name] for name in kept]
    assert table.row("b") == other


def test_renewed_term_leaves_twin_row_alone(seed_dsn: str) -> None:
    # Without 002, two sessions can hold the item.
    table = Table(seed_dsn)
    with table.stack:
        claimed = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session
        table.insert("b", sd_id="SD-1", status="active", claimed_at=at(-1), heartbeat_at=NOON)
        term.renew(table.database, make_caller("a", now=at(1)), "SD-1", claimed.fence or 0)
        assert (table.row("a")["heartbeat_at"], table.row("b")["heartbeat_at"]) == (at(1), NOON)


def test_latest_tty_and_codebase_are_recorded(table: Table, sleeper: Sleeper) -> None:
    anchor = process.read(sleeper().pid)
    for tty, shown in [("/dev/pts/1", "/dev/pts/1"), ("/dev/pts/2", "/dev/pts/2"), (None, "/dev/pts/2")]:
        claim(table.database, make_caller("a", tty=tty, anchor=anchor), "SD-1")
        assert table.row("a")["tty"] == shown
    # A caller of no known process may be anywhere.
    claim(table.database, make_caller("a", tty="/dev/pts/3"), "SD-1")
    assert table.row("a")["tty"] == "/dev/pts/2"
    caller = make_caller("a")
    for codebase, shown in [("web", "web"), ("api", "api"), (None, "api")]:
        elsewhere = caller._replace(identity=caller.identity._replace(codebase=codebase))
        claim(table.database, elsewhere, "SD-1")
        assert table.row("a")["codebase"] == shown


def test_hostname_is_that_of_process_or_first_known(table: Table, sleeper: Sleeper) -> None:
    here = make_caller("a").identity.host.hostname
    table.insert("a", status="idle", hostname=None)
    table.insert("b", status="idle", hostname="elsewhere")
    for name, shown in [("a", here), ("b", "elsewhere")]:
        claim(table.database, make_caller(name), f"SD-{name}")
        assert table.row(name)["hostname"] == shown
    release(table.database, make_caller("b"), end=True)
    claim(table.database, make_caller("b", anchor=process.read(sleeper().pid)), "SD-b")
    assert table.row("b")["hostname"] == here


def test_infinite_or_unrelated_fence_is_no_floor(full_table: Table) -> None:
    claim(full_table.database, make_caller("a", now=at(60)), "SD-1")
    full_table.insert("old", sd_id="SD-2", status="active", claimed_at="infinity")
    full_table.execute("DELETE FROM claude_sessions WHERE session_id = 'old'")
    claimed = claim(full_table.database, make_caller("b", now=NOON), "SD-2")
    assert claimed.session.session.claimed_at == NOON
    # Nor does it hide a real one.
    claimed = claim(full_table.database, make_caller("c", now=at(-60)), "SD-2", force_reason="again")
    assert claimed.session.session.claimed_at == NOON + timedelta(microseconds=1)
    release(full_table.database, make_caller("c", now=at(-60)))
    full_table.execute("DELETE FROM claude_sessions")
    claimed = claim(full_table.database, make_caller("d", now=at(-60)), "SD-2")
    assert claimed.session.session.claimed_at == NOON + timedelta(microseconds=2)


@pytest.mark.parametrize("if_older_than", [None, 60.0])
def test_heartbeat_of_recorded_process_writes_only_time(
    table: Table, sleeper: Sleeper, if_older_than: float | None
) -> None:
    anchor = process.read(sleeper().pid)
    claim(table.database, make_caller("a", now=NOON, anchor=anchor), "SD-1")
    if if_older_than:
        table.execute("UPDATE public.claude_sessions SET heartbeat_at = NULL")
    before = table.row("a")
    heartbeat(table.database, make_caller("a", now=at(5), anchor=anchor), if_older_than=if_older_than)
    assert table.row("a") == {**before, "heartbeat_at": at(5)}
    # A reused pid is another process, to which the session moves.
    table.execute(
        "UPDATE public.claude_sessions"
        " SET metadata = jsonb_set(metadata, '{claude_sessions_cli,process,start}', '\"1\"')"
    )
    heartbeat(table.database, make_caller("a", now=at(6), anchor=anchor), if_older_than=if_older_than)
    assert (table.own("a")["process"]["start"], table.row("a")["updated_at"]) == (anchor.start, at(6))


def test_end_touches_only_own_session(table: Table) -> None:
    for name in ("a", "b"):
        heartbeat(table.database, make_caller(name, now=NOON), register=True)
    before = table.row("b")
    assert release(table.database, make_caller("a", now=at(1)), end=True).outcome == "ended"
    assert table.row("b") == before


def test_prefix_search_prefers_exact_and_live_sessions(table: Table) -> None:
    for name, status in [
        ("ab-2", "released"),
        ("ab-1", "released"),
        *((f"ab-{number}", "idle") for number in (9, 8, 7, 6, 5)),
        ("ab-4", None),
        ("ab-3", "idle"),
        ("ab", "released"),
    ]:
        table.insert(name, status=status)
    rows = table.ask("find_sessions", prefix="ab", now=None)
    assert [row["session_id"] for row in rows] == ["ab", "ab-3", "ab-4"]


def test_prefix_search_finds_first_of_many_that_are_over(table: Table) -> None:
    for number in (4, 3, 2, 1, 0):
        table.insert(f"r-{number}", status="released")
        table.insert(f"s-{number}", status="stale")
        table.insert(f"m-{number}", status=("released", "released", "released", "stale", "idle")[number])
    for prefix, names in {"r": "r-0 r-1 r-2", "s": "s-0 s-1 s-2", "m": "m-3 m-4 m-0"}.items():
        rows = table.ask("find_sessions", prefix=prefix, now=None)
        assert [row["session_id"] for row in rows] == names.split()


def _listed(table: Table, **filters: Any) -> list[str]:
    found = list_sessions(table.database, make_caller(None), Filters(**filters)).sessions
    return [seen.session.session_id for seen in found]


def test_each_filter_works_alone(table: Table) -> None:
    for name in ("a", "b"):
        table.insert(name, sd_id=f"SD-{name}", track=name.upper(), hostname=name, codebase=name, status="active")
    filters: list[dict[str, Any]] = [{"hostname": "a"}, {"codebase": "a"}, {"session_id": "a"}, {"tracks": ["A"]}]
    for only in (*filters, {"sd_ids": ["SD-a"]}):
        assert _listed(table, **only) == ["a"], only


def test_latest_heartbeat_is_listed_first(table: Table) -> None:
    for name, beat in [("c", None), ("e", NOON), ("d", NOON), ("b", at(1)), ("a", at(-1))]:
        table.insert(name, sd_id="SD-1", status="stale", heartbeat_at=beat)
    assert _listed(table) == ["b", "d", "e", "a", "c"]


def test_here_fetches_only_same_boot_and_namespace(table: Table) -> None:
    here = {"boot_id": "boot", "pid_ns": "1"}
    for name, record in [("a", here), ("b", {**here, "boot_id": "other"}), ("c", {**here, "pid_ns": "2"}), ("d", {})]:
        table.insert(name, status="idle", metadata=Jsonb({"claude_sessions_cli": {"process": record}}))
    rows = table.ask("list_sessions_here", **here, now=None)
    assert [row["session_id"] for row in rows] == ["a"]


def test_only_process_seen_alive_is_renewed(table: Table) -> None:
    record = {"boot_id": "boot", "pid_ns": "1", "start": "7"}
    for name, other in [("a", {}), ("b", {"start": "8"}), ("c", {"boot_id": "2"}), ("d", {"pid_ns": "2"}), ("e", {})]:
        metadata = Jsonb({"claude_sessions_cli": {"process": {**record, **other}}})
        table.insert(name, status="idle", pid=9, heartbeat_at=NOON, metadata=metadata)
    listed = [{"id": str(table.row(name)["id"]), "pid": 9, "start": "7"} for name in "abcd"]
    seen = {"seen": json.dumps(listed), "boot_id": "boot", "pid_ns": "1"}
    renewed = table.ask("renew_heartbeats", **seen, now=at(1))
    assert renewed == [{"row_id": table.row("a")["id"], "is_written": True}]
    assert [table.row(name)["heartbeat_at"] == at(1) for name in "abcde"] == [True, False, False, False, False]
    [begin] = table.execute("SELECT clock_timestamp() AS now")
    table.ask("renew_heartbeats", **seen, now=None)
    assert table.row("a")["heartbeat_at"] > begin["now"]


# Times.


def test_writes_carry_server_time(table: Table) -> None:
    caller = make_caller("a")

    def writes(work: Callable[[], Any], *columns: str, of: str = "a") -> Any:
        table.execute("UPDATE claude_sessions SET updated_at = %s, heartbeat_at = %s", NOON, NOON)
        [begin] = table.execute("SELECT clock_timestamp() AS now")
        result = work()
        [row] = table.execute("SELECT *, clock_timestamp() AS now FROM claude_sessions WHERE session_id = %s", of)
        times = {name: row[name] for name in ("created_at", "heartbeat_at", "updated_at", "claimed_at")}
        later = {name for name, value in times.items() if value and begin["now"] <= value <= row["now"]}
        assert later == set(columns)
        return result

    writes(lambda: heartbeat(table.database, caller, register=True), "created_at", "heartbeat_at", "updated_at")
    writes(lambda: heartbeat(table.database, caller), "heartbeat_at")
    claimed = writes(
        lambda: claim(table.database, caller, "SD-1"), "heartbeat_at", "updated_at", "claimed_at"
    ).session.session
    writes(lambda: claim(table.database, caller, "SD-1"), "heartbeat_at", "updated_at")
    writes(lambda: term.renew(table.database, caller, "SD-1", claimed.fence), "heartbeat_at")
    writes(lambda: park(table.database, caller, 60), "heartbeat_at", "updated_at")
    writes(lambda: term.outlive_process(table.database, caller, "SD-1", claimed.fence), "updated_at")
    writes(lambda: release(table.database, caller), "updated_at")
    table.execute("UPDATE claude_sessions SET sd_id = 'SD-1', claimed_at = NULL")
    writes(lambda: claim(table.database, caller, "SD-1"), "heartbeat_at", "updated_at", "claimed_at")
    writes(lambda: reap(table.database, make_caller(None)), "updated_at")
    table.execute("UPDATE claude_sessions SET heartbeat_at = NULL")
    writes(lambda: claim(table.database, make_caller("b"), "SD-1"), "updated_at")


def test_age_is_measured_by_server_time(table: Table) -> None:
    table.insert("a", status="active", sd_id="SD-1", claimed_at=NOON)
    table.execute("UPDATE claude_sessions SET heartbeat_at = now() + interval '1 day'")
    reap(table.database, make_caller(None), max_age=60)
    assert table.execute("SELECT status, heartbeat_at <= now() AS past FROM claude_sessions") == [
        {"status": "stale", "past": True}
    ]
    old = dict.fromkeys(("heartbeat_at", "created_at", "updated_at"), NOON)
    for name, columns in [
        ("a", {}),
        ("beating", {"heartbeat_at": None}),
        ("touched", {"updated_at": None}),
        ("made", {"created_at": None}),
    ]:
        table.execute("DELETE FROM claude_sessions WHERE session_id = %s", name)
        table.insert(name, status="released", **{**old, **columns})
        for column in columns:
            table.execute(f"UPDATE claude_sessions SET {column} = now() WHERE session_id = %s", name)
    assert reap(table.database, make_caller(None), prune=3600).pruned == 1


def test_future_heartbeat_is_corrected_and_fresh_one_kept(table: Table) -> None:
    heartbeat(table.database, make_caller("a"), register=True)
    for age, written in [("1 second", False), ("2 minutes", True), ("-1 hour", True)]:
        table.execute(f"UPDATE claude_sessions SET heartbeat_at = now() - interval '{age}'")
        before = table.row("a")
        heartbeat(table.database, make_caller("a"), if_older_than=60)
        assert (table.row("a")["heartbeat_at"] != before["heartbeat_at"]) is written
        # A change of any other column would write the whole row to the log.
        assert {**table.row("a"), "heartbeat_at": None} == {**before, "heartbeat_at": None}


def test_double_claims_are_of_live_rows_in_order(table: Table) -> None:
    times = {"old": datetime(2026, 1, 1, tzinfo=timezone.utc), "new": datetime(2026, 1, 2, tzinfo=timezone.utc)}
    for item, status in (("SD-C", "stale"), ("SD-B", None), ("SD-A", "stale"), ("SD-1", "released"), (None, "idle")):
        for name in ("new", "old"):
            table.insert(f"{item}-{name}", sd_id=item, status=status, claimed_at=times[name])
    table.insert("single", sd_id="SD-2", status="stale")
    doubles = [(item, [f"{item}-old", f"{item}-new"]) for item in ("SD-A", "SD-B", "SD-C")]
    for limit in (9, 2):
        found = table.ask("list_double_claims", row_limit=limit)
        assert [(row["sd_id"], row["sessions"]) for row in found] == doubles[:limit]
