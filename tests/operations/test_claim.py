"""Claims at chosen times: winners, losers, and the state they leave."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from clock import NOON, at
from conftest import Server, Sleeper, Table, make_caller
from poll import until_waiting

from claude_sessions_cli import database, process, transaction
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable, UsageError
from claude_sessions_cli.model import Liveness
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.times import fence_of


def test_claim_registers_session_and_takes_item(table: Table) -> None:
    result = claim(table.database, make_caller("a", now=NOON, tty="/dev/pts/9"), "SD-1", track="A")
    row = table.row("a")
    assert result.outcome == "claimed"
    assert (row["sd_id"], row["track"], row["status"]) == ("SD-1", "A", "active")
    assert row["claimed_at"] == row["heartbeat_at"] == row["updated_at"] == NOON
    assert result.session.session.fence == fence_of(NOON)
    assert table.own("a")["stale_after"] == 900


def test_repeated_claim_keeps_fence(table: Table) -> None:
    first = claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
    again = claim(table.database, make_caller("a", now=at(5)), "SD-1")
    assert again.outcome == "already_yours"
    assert again.session.session.fence == first.session.session.fence
    assert table.row("a")["heartbeat_at"] == at(5)
    assert table.row("a")["track"] == "A"


def test_live_holder_keeps_item(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    before = table.row("a")
    with pytest.raises(HeldByAnother) as caught:
        claim(table.database, make_caller("b", now=at(15)), "SD-1")
    assert caught.value.holder is not None
    assert caught.value.holder.session.session_id == "a"
    assert table.row("a") == before
    assert table.execute("SELECT session_id FROM public.claude_sessions WHERE session_id = 'b'") == []


@pytest.mark.parametrize("status", ["active", "idle", "stale", None])
def test_foreign_claim_excludes_unless_released(table: Table, status: str | None) -> None:
    table.insert("old", sd_id="SD-1", status=status, claimed_at=NOON, heartbeat_at=NOON)
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(1)), "SD-1")


def test_released_row_excludes_no_claim(table: Table) -> None:
    table.insert("old", sd_id="SD-1", status="released", claimed_at=NOON, heartbeat_at=NOON)
    assert claim(table.database, make_caller("b", now=at(1)), "SD-1").outcome == "claimed"


def test_silent_holder_is_replaced_and_gets_tombstone(table: Table) -> None:
    lost = claim(table.database, make_caller("a", now=NOON), "SD-1", track="B")
    result = claim(table.database, make_caller("b", now=at(15.1)), "SD-1")
    assert result.outcome == "took_over"
    assert result.evicted is not None
    assert result.evicted.session.session_id == "a"
    row, tombstone = table.row("a"), table.own("a")["tombstone"]
    assert (row["sd_id"], row["track"], row["claimed_at"], row["status"]) == (None, None, None, "stale")
    assert row["heartbeat_at"] == NOON
    assert row["updated_at"] == at(15.1)
    assert tombstone["by"] == "b"
    assert tombstone["reason"] == "silent"
    assert tombstone["fence"] == lost.session.session.fence
    assert result.session.session.fence is not None
    assert result.session.session.fence > tombstone["fence"]


def test_longer_patience_of_holder_counts(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON, stale_after=3600), "SD-1")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(59)), "SD-1")
    assert claim(table.database, make_caller("b", now=at(61)), "SD-1").outcome == "took_over"


def test_longer_patience_of_caller_counts(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON, stale_after=180), "SD-1")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(14), stale_after=900), "SD-1")


def test_future_heartbeat_counts_as_now(table: Table) -> None:
    table.insert("old", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=at(1000))
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(60)), "SD-1")


@pytest.mark.parametrize("times", [{"claimed_at": NOON}, {"created_at": NOON}], ids=["claimed_at", "created_at"])
def test_row_without_heartbeat_is_judged_by_other_times(table: Table, times: dict[str, Any]) -> None:
    columns = {"heartbeat_at": None, "claimed_at": None, "created_at": None, **times}
    table.insert("old", sd_id="SD-1", status="active", **columns)
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(14)), "SD-1")
    assert claim(table.database, make_caller("b", now=at(16)), "SD-1").outcome == "took_over"


def test_dead_process_loses_claim_at_once(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    holder = make_caller("a", now=NOON, anchor=process.read(child.pid))
    claim(table.database, holder, "SD-1")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(0.1)), "SD-1")
    child.kill()
    child.wait()
    result = claim(table.database, make_caller("b", now=at(0.2)), "SD-1")
    assert result.outcome == "took_over"
    assert table.row("a")["status"] == "released"
    assert table.own("a")["tombstone"]["reason"] == "process gone"


def test_live_process_keeps_claim_however_silent(table: Table, sleeper: Sleeper) -> None:
    holder = make_caller("a", now=NOON, anchor=process.read(sleeper().pid))
    claim(table.database, holder, "SD-1")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(60 * 24 * 30)), "SD-1")


def test_one_session_holds_one_item(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    with pytest.raises(UsageError, match="already holds SD-1"):
        claim(table.database, make_caller("a", now=NOON), "SD-2")
    assert table.row("a")["sd_id"] == "SD-1"


def test_holder_is_refused_second_item_before_waiting(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=NOON), "SD-2")
    with pytest.raises(UsageError, match="already holds SD-1"):
        claim(table.database, make_caller("a", now=NOON), "SD-2")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("a", now=NOON), "SD-2", switch=True)


def test_switch_releases_old_item_first(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    try:
        table.execute("CREATE TABLE public.seen (old text, new text)")
        table.execute(
            "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN INSERT INTO public.seen VALUES (OLD.sd_id, NEW.sd_id); RETURN NULL; END$$"
        )
        table.execute(
            "CREATE TRIGGER note AFTER UPDATE OF sd_id ON public.claude_sessions"
            " FOR EACH ROW EXECUTE FUNCTION public.note()"
        )
        result = claim(table.database, make_caller("a", now=at(1)), "SD-2", switch=True)
        assert result.outcome == "switched"
        seen = table.execute("SELECT old, new FROM public.seen")
        assert seen == [{"old": "SD-1", "new": None}, {"old": None, "new": "SD-2"}]
    finally:
        # CASCADE drops the trigger: other tests use this database too.
        table.execute("DROP FUNCTION IF EXISTS public.note() CASCADE")
        table.execute("DROP TABLE IF EXISTS public.seen")
    assert claim(table.database, make_caller("b", now=at(2)), "SD-1").outcome == "claimed"


def test_refused_switch_keeps_old_item(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=NOON), "SD-2")
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("a", now=at(1)), "SD-2", switch=True)
    assert table.row("a")["sd_id"] == "SD-1"


def test_force_evicts_live_holder_with_reason(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    result = claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="a is on holiday")
    assert result.outcome == "forced"
    assert table.row("a")["status"] == "idle"
    tombstone = table.own("a")["tombstone"]
    assert (tombstone["by"], tombstone["reason"], tombstone["note"]) == ("b", "forced", "a is on holiday")


def test_holder_dying_during_force_keeps_force_reason(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    looks = iter([Liveness.ALIVE])
    monkeypatch.setattr("claude_sessions_cli.operations.caller.liveness", lambda *_: next(looks, Liveness.DEAD))
    result = claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="a is on holiday")
    assert result.outcome == "forced"
    tombstone = table.own("a")["tombstone"]
    assert (tombstone["reason"], tombstone["note"]) == ("forced", "a is on holiday")


def test_fence_grows_when_clock_steps_back(table: Table) -> None:
    first = claim(table.database, make_caller("a", now=at(60)), "SD-1")
    second = claim(table.database, make_caller("b", now=at(0)), "SD-1", force_reason="test")
    assert (first.session.session.fence or 0) + 1 == second.session.session.fence


@pytest.mark.parametrize("status", ["active", "stale"])
def test_claim_outbids_second_holder_of_other_program(seed_dsn: str, status: str) -> None:
    # Without 002, other programs can insert a second holder.
    table = Table(seed_dsn)
    with table.stack:
        first = claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
        table.insert("old", sd_id="SD-1", status=status, claimed_at=at(1), heartbeat_at=at(1))
        again = claim(table.database, make_caller("a", now=at(30)), "SD-1")
        fence = again.session.session.fence
        assert (again.outcome, table.row("old")["sd_id"], table.row("a")["track"]) == ("took_over", None, "A")
        assert fence is not None
        assert first.session.session.fence is not None
        assert fence > (fence_of(at(1)) or 0) > first.session.session.fence


def test_fence_exceeds_successors_when_clock_steps_back(table: Table) -> None:
    claim(table.database, make_caller("a", now=at(60)), "SD-1")
    forced = claim(table.database, make_caller("b", now=at(60)), "SD-1", force_reason="urgent")
    release(table.database, make_caller("b", now=at(60)))
    again = claim(table.database, make_caller("a", now=NOON), "SD-1")
    assert (again.session.session.fence or 0) > (forced.session.session.fence or 0)


def test_foreign_claim_without_time_gets_fence_from_claim(table: Table) -> None:
    claim(table.database, make_caller("b", now=at(60)), "SD-1")
    release(table.database, make_caller("b", now=at(61)))
    table.insert("a", sd_id="SD-1", status="active", track="A", heartbeat_at=NOON)
    claimed = claim(table.database, make_caller("a", now=at(62)), "SD-1")
    assert (claimed.outcome, claimed.session.session.fence) == ("already_yours", fence_of(at(62)))
    assert (table.row("a")["track"], table.row("a")["status"]) == ("A", "active")


def test_claim_reopens_released_session(table: Table) -> None:
    table.insert("a", sd_id="SD-OLD", status="released", claimed_at=NOON, heartbeat_at=NOON)
    result = claim(table.database, make_caller("a", now=at(1)), "SD-1")
    assert result.outcome == "claimed"
    assert table.row("a")["sd_id"] == "SD-1"


def test_metadata_of_other_programs_is_kept(table: Table) -> None:
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, status, metadata) VALUES"
        """ ('a', 'idle', '{"theirs": {"x": 1}, "claude_sessions_cli": {"cwd": "/old", "kept": true}}')"""
    )
    claim(table.database, make_caller("a"), "SD-1")
    release(table.database, make_caller("a"))
    metadata = table.row("a")["metadata"]
    assert metadata["theirs"] == {"x": 1}
    assert metadata["claude_sessions_cli"]["kept"] is True
    assert metadata["claude_sessions_cli"]["cwd"] == "/tmp/codebase"


@pytest.mark.parametrize("metadata", ["null", "[1, 2]", '"text"'])
def test_metadata_other_than_object_is_kept(table: Table, metadata: str) -> None:
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, status, metadata) VALUES ('a', 'idle', %s::jsonb)", metadata
    )
    before = table.row("a")["metadata"]
    claim(table.database, make_caller("a"), "SD-1")
    assert table.row("a")["metadata"] == before
    assert heartbeat(table.database, make_caller("a")).outcome == "renewed"


def test_null_metadata_is_filled(table: Table) -> None:
    table.execute("INSERT INTO public.claude_sessions (session_id, status, metadata) VALUES ('a', 'idle', NULL)")
    claim(table.database, make_caller("a"), "SD-1")
    assert table.own("a")["stale_after"] == 900


@pytest.mark.parametrize("value", ["", "x" * 257], ids=["empty", "too long"])
def test_malformed_work_item_is_refused(full_table: Table, value: str) -> None:
    with pytest.raises(UsageError, match="not a work item"):
        claim(full_table.database, make_caller("a"), value)


def test_work_items_are_case_sensitive(table: Table) -> None:
    claim(table.database, make_caller("a"), "SD-1")
    assert claim(table.database, make_caller("b"), "sd-1").outcome == "claimed"


def test_claim_without_process_keeps_recorded_process(table: Table, sleeper: Sleeper) -> None:
    seen = process.read(sleeper().pid)
    claim(table.database, make_caller("a", anchor=seen, tty="/dev/pts/9"), "SD-1")
    before = table.row("a")
    claim(table.database, make_caller("a"), "SD-1")
    after = table.row("a")
    assert after["metadata"]["claude_sessions_cli"]["process"]["pid"] == seen.pid
    for column in ("pid", "tty", "hostname"):
        assert after[column] == before[column] is not None


def test_release_is_compare_and_set(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=NOON), "SD-2")
    before = table.row("a")
    with pytest.raises(NotHeld, match="held by a"):
        release(table.database, make_caller("b", now=at(1)), "SD-1")
    assert table.row("a") == before
    assert table.row("b")["sd_id"] == "SD-2"


# Their hashes, by which they are locked, have different signs.
@pytest.mark.parametrize("item", ["SD-1", "SD-4"])
def test_refusal_names_holder_of_advisory_lock(
    make_role: Callable[..., str],
    fresh_database: Callable[..., str],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    item: str,
) -> None:
    guest, worker = make_role("cs_guest"), make_role("cs_worker")
    dsn = fresh_database()
    with database.connect(dsn, "the test") as opened:
        schema.apply(opened, grant=worker)
    monkeypatch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 100)
    as_worker = psycopg.conninfo.make_conninfo(dsn, options=f"-c role={worker}")
    lock = "SELECT pg_advisory_lock(hashtext(%s))"
    with (
        psycopg.connect(server.dsn, autocommit=True) as elsewhere,
        psycopg.connect(dsn, autocommit=True) as waiter,
        psycopg.connect(dsn, autocommit=True) as holder,
        psycopg.connect(dsn, autocommit=True) as looking,
        database.connect(as_worker, "the test") as opened,
        ThreadPoolExecutor(1) as pool,
    ):
        login = holder.info.user
        holder.execute(f"SET SESSION AUTHORIZATION {guest}".encode())
        # None of these is the item's: another number, the same one in two halves, with another half, elsewhere.
        holder.execute("SELECT pg_advisory_lock(hashtext('SD-3')), pg_advisory_lock(-1, hashtext(%s))", [item])
        holder.execute("SELECT pg_advisory_lock(hashtext(%s)::bigint # (1::bigint << 40))", [item])
        elsewhere.execute(lock, [item])
        assert claim(opened, make_caller("a"), item).outcome == "claimed"
        with waiter.transaction():
            waiter.execute("SELECT FROM claude_sessions FOR UPDATE")
            with pytest.raises(Unreachable, match="did not answer in time"):
                claim(opened, make_caller("a"), item)
        holder.execute(lock, [item])
        waiting = pool.submit(waiter.execute, lock, [item])
        until_waiting(looking)
        pid = holder.info.backend_pid
        with pytest.raises(Unreachable, match=rf"{item} is locked: another connection, pid {pid} \(role {login}") as no:
            claim(opened, make_caller("a"), item)
        assert no.value.exit_code == 6
        assert f"SELECT pg_terminate_backend({pid})" in str(no.value.hint)
        holder.execute("SELECT pg_advisory_unlock_all()")
        waiting.result()
