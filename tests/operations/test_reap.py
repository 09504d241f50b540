"""Reaping: which sessions end or go stale, on which evidence, and which stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from between import acting_before
from clock import DAY, NOON, at
from conftest import Sleeper, Table, make_caller
from plans import recorded
from poll import until
from psycopg.types.json import Jsonb

from claude_sessions_cli import process
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.park import park
from claude_sessions_cli.operations.reap import reap


def _reap(table: Table, minutes: float, **options: Any) -> dict[str, tuple[str | None, str]]:
    result = reap(table.database, make_caller(None, now=at(minutes)), **options)
    return {verdict.session.session.session_id: (verdict.to, verdict.reason) for verdict in result.changed}


def test_silent_session_goes_stale_and_frees_item(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
    assert _reap(table, 15) == {}
    assert _reap(table, 15.1) == {"a": ("stale", "silent")}
    row, tombstone = table.row("a"), table.own("a")["tombstone"]
    assert (row["status"], row["sd_id"], row["track"], row["claimed_at"]) == ("stale", None, None, None)
    assert (row["heartbeat_at"], row["updated_at"]) == (NOON, at(15.1))
    assert (tombstone["sd_id"], tombstone["reason"], tombstone.get("by")) == ("SD-1", "silent", None)


def test_dead_process_ends_session_at_once(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    claim(table.database, make_caller("a", now=NOON, anchor=process.read(child.pid)), "SD-1")
    assert _reap(table, 0) == {}
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    assert _reap(table, 0) == {"a": ("released", "process gone")}
    assert table.row("a")["sd_id"] is None
    child.wait()


def test_live_process_is_never_reaped(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, make_caller("a", now=NOON, anchor=process.read(sleeper().pid)), "SD-1")
    before = table.row("a")
    assert _reap(table, 30 * DAY, max_age=60) == {}
    assert table.row("a") == before


def test_dead_pid_of_other_host_proves_nothing(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    claim(table.database, make_caller("a", now=NOON, anchor=process.read(child.pid)), "SD-1")
    child.kill()
    child.wait()
    table.execute("UPDATE public.claude_sessions SET hostname = 'elsewhere'")
    assert _reap(table, 1) == {}
    assert _reap(table, 16) == {"a": ("stale", "silent")}


def test_park_is_honoured_until_it_ends(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,parked_until}', %s)",
        f'"{at(30).isoformat()}"',
    )
    assert _reap(table, 29) == {}
    assert _reap(table, 31) == {"a": ("stale", "silent")}
    assert "parked_until" not in table.own("a")


def test_patience_of_holder_is_honoured(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON, stale_after=7200), "SD-1")
    assert _reap(table, 119) == {}
    assert _reap(table, 121) == {"a": ("stale", "silent")}


def test_max_age_takes_only_old_claims(table: Table) -> None:
    claim(table.database, make_caller("old", now=NOON), "SD-1")
    heartbeat(table.database, make_caller("idle", now=NOON), register=True)
    for name in ("old", "idle"):
        heartbeat(table.database, make_caller(name, now=at(70)))
    claim(table.database, make_caller("young", now=at(70)), "SD-2")
    assert _reap(table, 71) == {}
    assert _reap(table, 71, max_age=3600) == {"old": ("stale", "max age")}


def test_max_age_spares_parked_session(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    park(table.database, make_caller("a", now=at(70)), 30 * 60)
    assert _reap(table, 99, max_age=3600) == {}
    assert _reap(table, 101, max_age=3600) == {"a": ("stale", "silent")}


def test_max_age_spares_beating_process_elsewhere(table: Table, sleeper: Sleeper) -> None:
    for name in ("here", "there"):
        claim(table.database, make_caller(name, now=NOON, anchor=process.read(sleeper().pid)), f"SD-{name}")
        heartbeat(table.database, make_caller(name, now=at(70), anchor=process.read(table.row(name)["pid"])))
    boot = "metadata = jsonb_set(metadata, '{claude_sessions_cli,process,boot_id}', '\"another\"')"
    table.execute(f"UPDATE public.claude_sessions SET {boot} WHERE session_id = 'there'")
    assert _reap(table, 72, max_age=3600) == {}
    assert _reap(table, 72.1, max_age=3600) == {"there": ("stale", "max age")}


def test_max_age_honours_patience_of_holder(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON, stale_after=7200), "SD-1")
    heartbeat(table.database, make_caller("a", now=at(115)))
    assert _reap(table, 119, max_age=3600) == {}
    assert _reap(table, 121, max_age=3600) == {"a": ("stale", "max age")}


def _limit(table: Table, minutes: float, **options: Any) -> tuple[str | None, float | None]:
    [verdict] = reap(table.database, make_caller(None, now=at(minutes)), **options).changed
    return verdict.evidence["limit"], verdict.evidence["limit_s"]


def test_evidence_names_the_limit_that_applied(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, make_caller("own", now=NOON, stale_after=7200), "SD-1")
    assert _limit(table, 121, dry_run=True) == ("recorded", 7200)
    heartbeat(table.database, make_caller("own", now=at(115)))
    assert _limit(table, 121, dry_run=True, max_age=3600) == ("recorded", 7200)
    assert _limit(table, 121, max_age=7260 - 1) == ("max_age", 7259)
    assert _limit(table, 122 + DAY) == ("stale", 86400)
    claim(table.database, make_caller("caller", now=NOON, stale_after=300), "SD-2")
    assert _limit(table, 16) == ("stale_after", 900)
    child = sleeper()
    claim(table.database, make_caller("dead", now=NOON, anchor=process.read(child.pid)), "SD-3")
    child.kill()
    child.wait()
    assert _limit(table, 1) == (None, None)


def test_session_stale_for_a_day_ends(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    _reap(table, 16)
    assert _reap(table, 16 + DAY) == {}
    assert _reap(table, 17 + DAY) == {"a": ("released", "stale for a day")}
    assert table.own("a")["tombstone"]["sd_id"] == "SD-1"
    assert _reap(table, 90 * DAY) == {}


def test_silent_idle_session_goes_stale_without_tombstone(table: Table) -> None:
    heartbeat(table.database, make_caller("a", now=NOON), register=True)
    assert _reap(table, 16) == {"a": ("stale", "silent")}
    assert "tombstone" not in table.own("a")


def test_foreign_stale_claim_is_reaped(table: Table) -> None:
    table.insert("a", status="stale", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    assert _reap(table, 16) == {"a": ("stale", "silent")}
    assert table.row("a")["sd_id"] is None


def test_foreign_rows_are_judged_only_by_time(table: Table) -> None:
    # Without boot and start time, a missing pid proves nothing.
    table.insert("a", status="active", sd_id="SD-1", pid=2**22 + 1, hostname=this_host().hostname, heartbeat_at=NOON)
    assert _reap(table, 14) == {}
    assert _reap(table, 16) == {"a": ("stale", "silent")}


@pytest.mark.parametrize(
    "columns",
    [
        {"status": None, "heartbeat_at": NOON},
        {"status": "active", "heartbeat_at": None, "claimed_at": NOON},
        {"status": "active", "heartbeat_at": None, "claimed_at": None, "created_at": NOON},
        {"status": "active", "heartbeat_at": None, "claimed_at": None, "created_at": None},
        {"status": "active", "heartbeat_at": NOON, "metadata": None},
        {"status": "active", "heartbeat_at": NOON, "metadata": Jsonb([1])},
        {"status": "active", "heartbeat_at": NOON, "metadata": Jsonb({"claude_sessions_cli": 7})},
        {
            "status": "active",
            "heartbeat_at": NOON,
            "metadata": Jsonb({"claude_sessions_cli": {"process": {"start": 1}}}),
        },
    ],
)
def test_odd_rows_are_reaped_like_others(table: Table, columns: dict[str, Any]) -> None:
    table.insert("a", sd_id="SD-1", **columns)
    assert _reap(table, 16) == {"a": ("stale", "silent")}
    assert table.row("a")["sd_id"] is None
    assert table.row("a")["heartbeat_at"] == columns["heartbeat_at"]


def test_future_heartbeat_counts_as_now(table: Table) -> None:
    table.insert("a", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=at(100))
    assert _reap(table, 50) == {}
    assert _reap(table, 50, max_age=60) == {"a": ("stale", "max age")}
    assert table.row("a")["heartbeat_at"] == at(50)


def test_future_heartbeat_is_corrected_and_ages(table: Table) -> None:
    future = at(99 * DAY)
    table.insert("held", sd_id="SD-1", status="active", claimed_at=NOON, heartbeat_at=future, updated_at=NOON)
    table.insert("stale", status="stale", heartbeat_at=future, updated_at=NOON)
    table.insert("over", status="released", heartbeat_at=future, updated_at=NOON, created_at=NOON)
    table.insert("none", sd_id="SD-2", status="active", claimed_at=at(50), heartbeat_at=None, updated_at=NOON)
    assert _reap(table, 50, dry_run=True) == {}
    assert table.row("held")["heartbeat_at"] == future
    with psycopg.connect(table.dsn) as holder:
        holder.execute("SELECT FROM public.claude_sessions WHERE session_id = 'held' FOR UPDATE")
        assert _reap(table, 50) == {}
        assert table.row("held")["heartbeat_at"] == future
    table.insert("past", sd_id="SD-3", status="active", claimed_at=NOON, heartbeat_at=at(49), updated_at=NOON)
    assert _reap(table, 51) == {}
    times = {row["session_id"]: row["heartbeat_at"] for row in table.execute("SELECT * FROM public.claude_sessions")}
    # A stale session that holds nothing is not looked at before it is due, and an ended one never.
    assert times == {"held": at(51), "stale": future, "over": future, "none": None, "past": at(49)}
    assert table.row("held")["updated_at"] == NOON, "it is a heartbeat"
    assert _reap(table, 65.5) == {"none": ("stale", "silent"), "past": ("stale", "silent")}
    assert _reap(table, 67) == {"held": ("stale", "silent")}
    assert "stale" not in _reap(table, DAY + 1)
    assert table.row("stale")["heartbeat_at"] == at(DAY + 1)
    assert _reap(table, 2 * DAY + 2)["stale"] == ("released", "stale for a day")
    pruned = reap(table.database, make_caller(None, now=at(2 * DAY + 3)), prune=86400).pruned
    assert pruned == 1


def test_server_clock_decides_on_future_heartbeat(table: Table) -> None:
    table.execute(
        "INSERT INTO public.claude_sessions (session_id, heartbeat_at)"
        " VALUES ('a', clock_timestamp() + interval '1 hour'), ('b', clock_timestamp() - interval '1 hour')"
    )
    before = table.row("b")
    reap(table.database, make_caller(None))
    assert (
        table.execute("SELECT heartbeat_at <= clock_timestamp() AS is_over FROM public.claude_sessions")
        == [{"is_over": True}] * 2
    )
    assert table.row("b")["heartbeat_at"] == before["heartbeat_at"]


def test_future_heartbeats_are_corrected_in_batches(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 3)
    for number in range(7):
        table.insert(f"s-{number}", heartbeat_at=at(60))
    reap(table.database, make_caller(None, now=NOON))
    assert table.execute("SELECT count(DISTINCT xmin::text) AS n FROM public.claude_sessions") == [{"n": 3}]


def test_dry_run_changes_nothing(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    assert _reap(table, 16, dry_run=True) == {"a": ("stale", "silent")}
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before


def test_verdict_shows_its_evidence(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    [verdict] = reap(table.database, make_caller(None, now=at(5)), explain=True).kept
    assert verdict.reason == "last sign of life 5m ago"
    assert verdict.evidence["heartbeat_age_s"] == 300
    assert verdict.evidence["stale_after_s"] == 900
    assert verdict.evidence["process"] == "unknown"


class _Interrupted:
    """A database that runs a function between the verdict of a reaper and its update."""

    def __init__(self, table: Table, between: Callable[[], object]) -> None:
        self._database, self._between = table.database, between

    def renew(self, actor: Any, work: Any, *args: Any) -> Any:
        return self._database.renew(actor, work, *args)

    def write(self, actor: Any, work: Any, *args: Any) -> Any:
        self._between()
        return self._database.write(actor, work, *args)


def _reap_interrupted(table: Table, minutes: float, between: Callable[[], object]) -> list[str]:
    interrupted: Any = _Interrupted(table, between)
    changed = reap(interrupted, make_caller(None, now=at(minutes))).changed
    return [verdict.session.session.session_id for verdict in changed]


def test_heartbeat_after_verdict_saves_session(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    beat = lambda: heartbeat(table.another(), make_caller("a", now=at(16)))  # noqa: E731
    assert _reap_interrupted(table, 16, beat) == []
    assert table.row("a")["sd_id"] == "SD-1"


def test_claim_after_verdict_is_kept(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")

    def switch() -> None:
        # Another program moves the claim without a heartbeat.
        table.execute("UPDATE public.claude_sessions SET sd_id = NULL")
        table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-2', claimed_at = now()")

    assert _reap_interrupted(table, 16, switch) == []
    assert table.row("a")["sd_id"] == "SD-2"


def test_two_reapers_change_a_session_once(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    other = lambda: reap(table.another(), make_caller(None, now=at(16)))  # noqa: E731
    assert _reap_interrupted(table, 16, other) == []
    assert table.row("a")["status"] == "stale"


def test_locked_row_is_left_to_next_reap(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=NOON), "SD-2")
    with psycopg.connect(table.dsn) as holder:
        holder.execute("SELECT FROM public.claude_sessions WHERE session_id = 'a' FOR UPDATE")
        assert _reap(table, 16) == {"b": ("stale", "silent")}
    assert _reap(table, 16) == {"a": ("stale", "silent")}


def test_session_is_judged_once_over_many_pages(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 2)
    monkeypatch.setattr("claude_sessions_cli.operations.reap.IDS", 3)
    for number in range(8):
        table.insert(f"s{number}", sd_id=f"SD-{number}", status="active", heartbeat_at=NOON)
        # Several of one moment, and two without any.
        changed = None if number > 5 else at(number // 4)
        table.insert(f"t{number}", status="stale", heartbeat_at=NOON, updated_at=changed)
    table.insert("holder", sd_id="SD-8", status="stale", heartbeat_at=NOON, updated_at=NOON)
    table.insert("ended", status="released", heartbeat_at=NOON)
    result = reap(table.database, make_caller(None, now=at(5)), dry_run=True, explain=True)
    kept = [verdict.session.session.session_id for verdict in result.kept]
    assert kept == [*(f"s{number}" for number in range(8)), "holder", *(f"t{number}" for number in range(8))]
    assert reap(table.database, make_caller(None, now=at(5)), dry_run=True).kept == []
    lists: dict[str, dict[str, Any]] = {
        "list_live_sessions": {"after": None, "now": NOON},
        "list_live_ids": {"after": UUID(int=0)},
        "list_stale_sessions": {"stale_for_s": None, "after_at": None, "after_id": None, "now": NOON},
    }
    for query, more in lists.items():
        assert len(table.ask(query, row_limit=2, **more)) == 2, query
    assert len(_reap(table, DAY + 5)) == 17


def test_stale_session_is_judged_by_time_alone(table: Table, sleeper: Sleeper) -> None:
    alive, child = sleeper(), sleeper()
    for name, anchor in (("alive", alive), ("dead", child)):
        heartbeat(table.database, make_caller(name, now=NOON, anchor=process.read(anchor.pid)), register=True)
    child.kill()
    child.wait()
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    for explain in (True, False):
        assert _reap(table, DAY, explain=explain) == {}
    assert _reap(table, DAY + 1, dry_run=True) == {"dead": ("released", "stale for a day")}
    assert [verdict.reason for verdict in reap(table.database, make_caller(None)).changed] == ["stale for a day"]


def test_session_released_between_pages_is_not_judged(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 1)
    for number in range(3):
        table.insert(f"s{number}", sd_id=f"SD-{number}", status="active", heartbeat_at=NOON)
    end = "UPDATE public.claude_sessions SET status = 'released', heartbeat_at = '2026-01-01' WHERE status = 'active'"
    assert len(_reap_interrupted(table, 16, lambda: table.execute(end))) == 0


def test_session_released_while_ids_are_read_hides_no_other(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 2)
    for number in range(6):
        row_id = f"{number}0000000-0000-0000-0000-000000000000"
        table.insert(f"s{number}", id=row_id, sd_id=f"SD-{number}", status="active", heartbeat_at=NOON)
    end = "UPDATE public.claude_sessions SET status = 'released', sd_id = NULL WHERE session_id = 's2'"
    with acting_before("list_live_ids", lambda: table.execute(end)):
        assert set(_reap(table, 16)) == {"s0", "s1", "s3", "s4", "s5"}


def test_session_made_stale_by_this_run_is_not_kept_by_it(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 1)
    table.insert("before", status="stale", heartbeat_at=NOON, updated_at=at(1))
    table.insert("now", status="active", sd_id="SD-1", heartbeat_at=NOON)
    result = reap(table.database, make_caller(None, now=at(16)), explain=True)
    assert [verdict.session.session.session_id for verdict in result.changed] == ["now"]
    assert [verdict.session.session.session_id for verdict in result.kept] == ["before"]


def test_many_sessions_are_reaped_in_batches(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.reap.PAGE", 3)
    for number in range(10):
        table.insert(f"s-{number}", status="active", sd_id=f"SD-{number}", heartbeat_at=NOON)
    assert len(_reap(table, 16)) == 10
    assert table.execute("SELECT count(DISTINCT xmin::text) AS n FROM public.claude_sessions") == [{"n": 4}]


def test_page_is_changed_without_comparing_all_its_rows(full_table: Table) -> None:
    full_table.execute(
        "INSERT INTO public.claude_sessions (session_id, heartbeat_at, sd_id)"
        " SELECT 's-' || n, %s, 'SD-' || n FROM generate_series(1, 300) AS n",
        NOON,
    )
    full_table.execute("ANALYZE public.claude_sessions")
    with recorded() as plans:
        assert len(_reap(full_table, 16)) == 300
    assert max(plan.rows_of_busiest_node for plan in plans) <= 3 * 300
