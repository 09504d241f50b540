"""The history: holders, terms, and their ends, written by any program."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from clock import NOON, at
from conftest import Table, make_caller

from claude_sessions_cli import as_text, database, queries
from claude_sessions_cli.errors import NotHeld, SchemaMismatch
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.history import read
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other
from claude_sessions_cli.operations.timeline import timeline
from claude_sessions_cli.text import align
from claude_sessions_cli.times import fence_of


def _terms(table: Table, name: str) -> list[tuple[str, str, str | None, str | None]]:
    """Return the terms of a name, the earliest first: item, session, reason and author of the end."""
    found = read(table.database, name).terms
    return [(term.sd_id, term.session_id, term.reason, term.ended_by) for term in reversed(found)]


def test_term_lasts_from_claim_to_release(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    assert _terms(full_table, "SD-1") == [("SD-1", "a", None, None)]
    release(full_table.database, make_caller("a"), reason="completed")
    assert _terms(full_table, "SD-1") == [("SD-1", "a", "completed", "a")]
    [term] = read(full_table.database, "a").terms
    assert term.ended_at is not None
    assert term.began_at <= term.ended_at
    assert term.ended_from == make_caller("a").identity.host.hostname


def test_history_names_each_reason_of_loss(full_table: Table) -> None:
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    claim(full_table.database, make_caller("b", now=at(16)), "SD-1")
    claim(full_table.database, make_caller("c", now=at(17)), "SD-1", force_reason="urgent")
    claim(full_table.database, make_caller("c", now=at(18)), "SD-2", switch=True)
    reap(full_table.database, make_caller("cron", now=at(60)))
    claim(full_table.database, make_caller("d", now=at(61)), "SD-3")
    release_other(full_table.database, make_caller("me", cwd="/elsewhere"), "d", None, reason="stuck")
    assert _terms(full_table, "SD-1") == [
        ("SD-1", "a", "silent", "b"),
        ("SD-1", "b", "forced", "c"),
        ("SD-1", "c", "switched", "c"),
    ]
    assert _terms(full_table, "SD-2") == [("SD-2", "c", "silent", "cron")]
    assert _terms(full_table, "SD-3") == [("SD-3", "d", "released by another", "me")]
    assert read(full_table.database, "SD-1").terms[1].note == "urgent"


def test_writes_of_other_programs_are_recorded(full_table: Table) -> None:
    full_table.execute("SET application_name = 'old-writer'")
    full_table.insert("old", sd_id="SD-1", status="active", claimed_at=NOON)
    full_table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-2', claimed_at = now()")
    full_table.execute("UPDATE public.claude_sessions SET status = 'released'")
    full_table.execute("DELETE FROM public.claude_sessions")
    full_table.execute("RESET application_name")
    assert _terms(full_table, "old") == [("SD-1", "old", "released", None), ("SD-2", "old", "released", None)]
    found = read(full_table.database, "old")
    assert {term.actor_program for term in found.terms} == {"old-writer"}
    assert [event.event for event in reversed(found.events)] == [
        *("registered", "claimed", "unclaimed", "claimed", "unclaimed", "ended", "deleted")
    ]


CLEAR = "UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL WHERE session_id = 'a'"
GIVE = "UPDATE public.claude_sessions SET sd_id = 'SD-1', claimed_at = now() WHERE session_id = 'a'"


def test_foreign_end_does_not_repeat_earlier_reason(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    release(full_table.database, make_caller("a"), reason="completed")
    full_table.execute(GIVE)
    full_table.execute(CLEAR)
    full_table.execute(GIVE)
    release(full_table.database, make_caller("a"), reason="completed")
    assert [term[2] for term in _terms(full_table, "a")] == ["completed", "released", "completed"]


def test_foreign_end_may_give_reason(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    reason = "jsonb_set(metadata, '{claude_sessions_cli,release_reason}', '\"handover\"')"
    full_table.execute(f"UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL, metadata = {reason}")
    assert [term[2] for term in _terms(full_table, "a")] == ["handover"]


def test_release_without_reason_is_recorded_as_released(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    release(full_table.database, make_caller("a"))
    assert _terms(full_table, "SD-1") == [("SD-1", "a", "released", "a")]


def test_tombstone_of_other_item_is_no_reason(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    loss = """'{"claude_sessions_cli": {"tombstone": {"sd_id": "SD-2", "reason": "forced", "note": "n", "by": "b"}}}'"""
    full_table.execute(f"UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL, metadata = {loss}")
    assert _terms(full_table, "SD-1") == [("SD-1", "a", "released", None)]


def test_foreign_end_does_not_repeat_earlier_loss(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    claim(full_table.database, make_caller("b"), "SD-1", force_reason="urgent")
    release(full_table.database, make_caller("b"))
    full_table.execute(GIVE)
    full_table.execute(CLEAR)
    assert [term[2] for term in _terms(full_table, "a")] == ["forced", "released"]


def test_session_naming_itself_ends_own_term(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    release_other(full_table.database, make_caller(None), "a", None, reason="completed")
    assert _terms(full_table, "SD-1") == [("SD-1", "a", "completed", "a")]


def test_deleted_holder_ends_term(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    full_table.execute("DELETE FROM public.claude_sessions")
    assert _terms(full_table, "SD-1") == [("SD-1", "a", "deleted", None)]


def test_heartbeat_never_calls_trigger(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    full_table.execute("SELECT pg_stat_reset()")
    # The trigger fails if it is called, because its function raises an error.
    full_table.execute("ALTER FUNCTION public.claude_sessions_record() RENAME TO hidden")
    full_table.execute(
        "CREATE OR REPLACE FUNCTION public.hidden() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'the trigger was called'; END$$"
    )
    try:
        assert heartbeat(full_table.database, make_caller("a")).outcome == "renewed"
        with pytest.raises(Exception, match="the trigger was called"):
            release(full_table.database, make_caller("a"))
    finally:
        full_table.execute("ALTER FUNCTION public.hidden() RENAME TO claude_sessions_record")
        full_table.execute((queries.directory() / "ddl/003_history.sql").read_text())


def test_fence_exceeds_history_when_clock_steps_back(full_table: Table) -> None:
    first = claim(full_table.database, make_caller("a", now=at(60)), "SD-1").session.session.fence
    release(full_table.database, make_caller("a", now=at(60)), end=True)
    full_table.execute("DELETE FROM public.claude_sessions")
    second = claim(full_table.database, make_caller("b", now=NOON), "SD-1").session.session.fence
    assert first is not None
    assert second == first + 1
    [latest] = full_table.ask("read_fence_floor", forms=["SD-1"])
    assert (latest["session_id"], fence_of(latest["claimed_at"])) == ("b", second)


def test_claims_work_without_history_table(seed_dsn: str) -> None:
    with database.connect(seed_dsn, "the test") as connection:
        claim(connection, make_caller("a"), "SD-1")
        with pytest.raises(SchemaMismatch, match="no history"):
            read(connection, "SD-1")


def test_unknown_name_has_no_history(full_table: Table) -> None:
    with pytest.raises(NotHeld, match="ever named nobody"):
        read(full_table.database, "nobody")


def test_history_begins_with_existing_claims(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    ddl = queries.directory() / "ddl"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((ddl / "001_claude_sessions.sql").read_bytes())
        connection.execute(
            "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('old', 'SD-1', %s)", [at(60)]
        )
        connection.execute((ddl / "003_history.sql").read_bytes())
        connection.execute((ddl / "003_history.sql").read_bytes())
    with database.connect(dsn, "the test") as opened:
        taken = claim(opened, make_caller("a", now=NOON), "SD-1", force_reason="test")
        assert taken.session.session.claimed_at == at(60) + timedelta(microseconds=1)
        assert len(read(opened, "SD-1").terms) == 2


def test_release_notifies_waiters_and_claim_does_not(full_table: Table) -> None:
    import hashlib

    with psycopg.connect(full_table.dsn, autocommit=True) as listener:
        listener.execute("LISTEN claude_sessions")
        claim(full_table.database, make_caller("a"), "SD-1")
        heartbeat(full_table.database, make_caller("a"))
        assert list(listener.notifies(timeout=0.1)) == []
        release(full_table.database, make_caller("a"))
        [notice] = listener.notifies(timeout=60, stop_after=1)
        assert notice.payload == hashlib.md5(b"SD-1").hexdigest()


def test_writer_of_table_cannot_write_history(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS cs_writer")
        admin.execute("CREATE ROLE cs_writer LOGIN")
        try:
            with database.connect(dsn, "the test") as opened:
                schema.apply(opened, grant="cs_writer")
            with psycopg.connect(dsn, autocommit=True) as writer:
                writer.execute("SET ROLE cs_writer")
                writer.execute("INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('w', 'SD-1')")
                assert writer.execute("SELECT count(*) FROM public.claude_session_events").fetchone() == (2,)
                for statement in (
                    "DELETE FROM public.claude_session_events",
                    "UPDATE public.claude_session_events SET event = 'ended'",
                    "INSERT INTO public.claude_session_events (event, session_id) VALUES ('ended', 'w')",
                    "SELECT public.claude_sessions_append('ended', s, '', '', '') FROM public.claude_sessions AS s",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        writer.execute(statement)
        finally:
            admin.execute("DROP OWNED BY cs_writer")
            admin.execute("DROP ROLE cs_writer")


def test_history_names_other_role_beside_name_it_gave(
    make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> None:
    roles = [make_role("cs_alice"), make_role("cs_bob")]
    dsn = fresh_database()
    with database.connect(dsn, "the test") as opened:
        for role in roles:
            schema.apply(opened, grant=role)
    mine, other = (psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}") for role in roles)
    with database.connect(mine, "the test") as opened:
        claim(opened, make_caller("alice"), "SD-1")
    with psycopg.connect(dsn, autocommit=True) as forger:
        # A login role of its own, which calls itself alice.
        forger.execute("SET SESSION AUTHORIZATION cs_bob")
        forger.execute("SET claude_sessions.actor = 'alice'")
        forger.execute(CLEAR.replace("'a'", "'alice'"))
    with database.connect(other, "the test") as opened:
        claim(opened, make_caller("alice"), "SD-2")
    with database.connect(mine, "the test") as opened:
        found = read(opened, "alice")
    assert found.reader == "cs_alice"
    assert [(term.sd_id, term.claimed_by_role, term.actor_role) for term in found.terms] == [
        ("SD-2", "cs_bob", None),
        ("SD-1", "cs_alice", "cs_bob"),
    ]
    [(terms, _), (changes, _)] = as_text.history_tables(found)
    lines = [re.split(r"  +", line) for line in [*align(terms), "", *align(changes)]]
    assert [(line[1], line[-1]) for line in lines[1:3]] == [("alice as cs_bob", "-"), ("alice", "alice as cs_bob")]
    events = [(line[1], line[-1]) for line in lines[5:]]
    host = make_caller("a").identity.host.hostname
    assert events == [
        ("claimed", f"alice as cs_bob on {host}"),
        ("unclaimed", "alice as cs_bob"),
        ("claimed", f"alice on {host}"),
        ("registered", f"alice on {host}"),
    ]


def test_successor_ended_no_term_that_its_loser_noted(full_table: Table) -> None:
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    # The unique index does not cover it.
    full_table.insert("theirs", sd_id="SD-1", status=None, claimed_at=at(1), heartbeat_at=at(1))
    assert heartbeat(full_table.database, make_caller("a", now=at(2))).outcome == "lost"
    assert _terms(full_table, "SD-1") == [
        ("SD-1", "a", "cleared by another program", "a"),
        ("SD-1", "theirs", None, None),
    ]
    [span] = timeline(full_table.database, make_caller("b", now=at(3)), 3600, "a").items["SD-1"]
    assert span.is_lost
