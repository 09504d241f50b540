"""Heartbeats: which columns they write, which claims they restore, which losses they report."""

from __future__ import annotations

from datetime import datetime
from subprocess import Popen
from typing import Any

import pytest
from clock import NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import _restorable_item, heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.times import fence_of


def test_heartbeat_writes_only_heartbeat_at(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1", track="A")
    before = table.row("a")
    result = heartbeat(table.database, make_caller("a", now=at(1)))
    assert result.outcome == "renewed"
    assert table.row("a") == {**before, "heartbeat_at": at(1)}


@pytest.mark.parametrize("pid", [None, 7])
def test_heartbeat_of_a_row_without_process_writes_one_column(table: Table, sleeper: Sleeper, pid: int | None) -> None:
    # A job without a terminal claimed, or another program registered the session.
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute("UPDATE public.claude_sessions SET pid = %s", pid)
    before = table.row("a")
    caller = make_caller("a", now=at(1), anchor=process.read(sleeper().pid))
    assert heartbeat(table.database, caller).outcome == "renewed"
    assert table.row("a") == {**before, "heartbeat_at": at(1)}


def test_heartbeat_of_a_caller_without_process_writes_one_column(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, make_caller("a", now=NOON, anchor=process.read(sleeper().pid)), "SD-1")
    before = table.row("a")
    assert heartbeat(table.database, make_caller("a", now=at(1))).outcome == "renewed"
    assert table.row("a") == {**before, "heartbeat_at": at(1)}


@pytest.mark.parametrize("claims", [True, False])
def test_heartbeat_after_a_loss_writes_one_column(table: Table, claims: bool) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=NOON), "SD-1", force_reason="urgent")
    if claims:
        claim(table.database, make_caller("a", now=NOON), "SD-2")
    before = table.row("a")
    assert heartbeat(table.database, make_caller("a", now=at(1))).outcome == ("renewed" if claims else "lost")
    assert table.row("a") == {**before, "heartbeat_at": at(1)}


def test_row_of_older_version_gets_machine_id_once(table: Table, sleeper: Sleeper) -> None:
    anchor = process.read(sleeper().pid)

    def caller(now: datetime) -> Caller:
        made = make_caller("a", now=now, anchor=anchor)
        host = made.identity.host._replace(machine_id="57e36840")
        return made._replace(identity=made.identity._replace(host=host))

    fence = claim(table.database, caller(NOON), "SD-1").session.session.fence
    path = "'{claude_sessions_cli,process,machine_id}'"
    table.execute(f"UPDATE public.claude_sessions SET metadata = metadata #- {path}")
    renewed = heartbeat(table.database, caller(at(1)))
    assert (renewed.outcome, renewed.session.session.fence) == ("renewed", fence)
    assert table.own("a")["process"]["machine_id"] == "57e36840"
    before = table.row("a")
    assert (before["sd_id"], before["status"], before["heartbeat_at"]) == ("SD-1", "active", at(1))
    assert heartbeat(table.database, caller(at(2))).outcome == "renewed"
    assert table.row("a") == {**before, "heartbeat_at": at(2)}


def test_unregistered_session_is_refused(table: Table) -> None:
    with pytest.raises(NotHeld, match="not registered"):
        heartbeat(table.database, make_caller("a"))
    assert table.execute("SELECT session_id FROM public.claude_sessions") == []


def test_register_inserts_idle_session(table: Table) -> None:
    assert heartbeat(table.database, make_caller("a", now=NOON), register=True).outcome == "registered"
    row = table.row("a")
    assert (row["status"], row["sd_id"], row["heartbeat_at"], row["hostname"]) == (
        "idle",
        None,
        NOON,
        this_host().hostname,
    )
    assert table.own("a")["cwd"] == "/tmp/codebase"


def test_register_keeps_a_claim(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    assert heartbeat(table.database, make_caller("a", now=at(1)), register=True).outcome == "renewed"
    assert table.row("a")["sd_id"] == "SD-1"


def test_ended_session_stays_ended_without_register(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-OLD", claimed_at=NOON, heartbeat_at=NOON)
    before = table.row("a")
    with pytest.raises(NotHeld, match="has ended"):
        heartbeat(table.database, make_caller("a", now=at(1)))
    assert table.row("a") == before


def test_register_reopens_session_without_old_claim(table: Table) -> None:
    table.insert("a", status="released", sd_id="SD-OLD", track="A", claimed_at=NOON, heartbeat_at=NOON)
    assert heartbeat(table.database, make_caller("a", now=at(1)), register=True).outcome == "registered"
    row = table.row("a")
    assert (row["status"], row["sd_id"], row["track"], row["claimed_at"]) == ("idle", None, None, None)


@pytest.mark.parametrize("status", ["active", "idle", None])
def test_status_is_kept(table: Table, status: str | None) -> None:
    table.insert("a", status=status, heartbeat_at=NOON)
    heartbeat(table.database, make_caller("a", now=at(1)))
    assert table.row("a")["status"] == status


def test_stale_session_without_claim_becomes_idle(table: Table) -> None:
    table.insert("a", status="stale", heartbeat_at=NOON)
    assert heartbeat(table.database, make_caller("a", now=at(60))).outcome == "renewed"
    assert table.row("a")["status"] == "idle"


def _reaped(table: Table) -> int:
    first = claim(table.database, make_caller("a", now=NOON), "SD-1", track="C")
    reap(table.database, make_caller(None, now=at(16)))
    assert (table.row("a")["status"], table.row("a")["sd_id"]) == ("stale", None)
    assert first.session.session.fence is not None
    return first.session.session.fence


def test_claim_lost_to_silence_is_restored_with_new_fence(table: Table) -> None:
    fence = _reaped(table)
    result = heartbeat(table.database, make_caller("a", now=at(17)))
    row = table.row("a")
    assert result.outcome == "restored"
    assert (row["sd_id"], row["track"], row["status"], row["claimed_at"]) == ("SD-1", "C", "active", at(17))
    assert (result.session.session.fence or 0) > fence
    assert "tombstone" not in table.own("a")


def test_restored_fence_grows_when_clock_steps_back(table: Table) -> None:
    fence = _reaped(table)
    result = heartbeat(table.database, make_caller("a", now=at(-60)))
    assert result.session.session.fence == fence + 1


def test_reaped_item_of_new_holder_is_lost(table: Table) -> None:
    _reaped(table)
    claim(table.database, make_caller("b", now=at(17)), "SD-1")
    result = heartbeat(table.database, make_caller("a", now=at(18)))
    assert result.outcome == "lost"
    assert result.tombstone is not None
    assert (result.tombstone.sd_id, result.tombstone.by, result.tombstone.reason) == ("SD-1", "b", "silent")
    row = table.row("a")
    assert (row["sd_id"], row["status"], row["heartbeat_at"]) == (None, "idle", at(18))


def test_reaped_item_held_since_is_lost_though_free(table: Table) -> None:
    _reaped(table)
    claim(table.database, make_caller("b", now=at(17)), "SD-1")
    release(table.database, make_caller("b", now=at(18)))
    result = heartbeat(table.database, make_caller("a", now=at(19)))
    assert result.outcome == "lost"
    assert table.row("a")["sd_id"] is None


def test_reaped_item_of_other_program_stays_lost(table: Table) -> None:
    _reaped(table)
    table.insert("old", sd_id="SD-1", status="active", claimed_at=at(17), heartbeat_at=at(17))
    result = heartbeat(table.database, make_caller("a", now=at(18)))
    assert result.outcome == "lost"
    assert table.own("a")["tombstone"]["by"] == "old"
    table.execute("UPDATE public.claude_sessions SET sd_id = NULL WHERE session_id = 'old'")
    assert heartbeat(table.database, make_caller("a", now=at(19))).outcome == "lost"


def test_claim_of_ended_session_is_not_restored(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    for minutes in (16, 2 * 24 * 60):
        reap(table.database, make_caller(None, now=at(minutes)))
    assert table.row("a")["status"] == "released"
    # A new holder does not update the tombstones of ended sessions.
    claim(table.database, make_caller("b", now=at(3000)), "SD-1")
    release(table.database, make_caller("b", now=at(3001)), end=True)
    for minutes in (3002, 3003):
        lost = heartbeat(table.database, make_caller("a", now=at(minutes)), register=True)
        assert (lost.outcome, lost.session.session.sd_id) == ("lost", None)
    assert lost.tombstone and lost.tombstone.reason == "silent until it ended"


def test_history_of_foreign_holder_prevents_restore(full_table: Table) -> None:
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    reap(full_table.database, make_caller(None, now=at(16)))
    full_table.insert("theirs", sd_id="SD-1", status="active", claimed_at=at(17), heartbeat_at=at(17))
    full_table.execute("UPDATE public.claude_sessions SET sd_id = NULL, claimed_at = NULL WHERE session_id = 'theirs'")
    for minutes in (18, 19):
        lost = heartbeat(full_table.database, make_caller("a", now=at(minutes)))
        assert (lost.outcome, lost.session.session.sd_id) == ("lost", None)
        assert lost.tombstone and (lost.tombstone.by, lost.tombstone.new_fence) == ("theirs", fence_of(at(17)))


def test_older_term_in_history_allows_restore(full_table: Table) -> None:
    claim(full_table.database, make_caller("b", now=at(-9)), "SD-1")
    release(full_table.database, make_caller("b", now=at(-8)))
    claim(full_table.database, make_caller("a", now=NOON), "SD-1")
    reap(full_table.database, make_caller(None, now=at(16)))
    assert heartbeat(full_table.database, make_caller("a", now=at(17))).outcome == "restored"


def test_forced_claim_is_not_restored(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    release(table.database, make_caller("b", now=at(2)))
    result = heartbeat(table.database, make_caller("a", now=at(3)))
    assert result.outcome == "lost"
    assert result.tombstone is not None
    assert result.tombstone.note == "urgent"


def test_claim_lost_to_max_age_is_not_restored(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    heartbeat(table.database, make_caller("a", now=at(60)))
    reap(table.database, make_caller(None, now=at(61)), max_age=3600)
    assert table.row("a")["sd_id"] is None
    assert heartbeat(table.database, make_caller("a", now=at(62))).outcome == "lost"


def test_foreign_stale_claim_is_renewed_while_free(table: Table) -> None:
    table.insert("a", status="stale", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    assert heartbeat(table.database, make_caller("a", now=at(60))).outcome == "renewed"
    row = table.row("a")
    assert (row["status"], row["sd_id"], row["claimed_at"]) == ("active", "SD-1", NOON)


@pytest.mark.parametrize("told", [True, False])
def test_earlier_loss_stays_beside_renewed_stale_claim(table: Table, told: bool) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    reap(table.database, make_caller("cron", now=at(16)))
    if told:
        claim(table.database, make_caller("a", now=at(17)), "SD-2")
        table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    else:
        table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-2', claimed_at = %s", (at(17),))
    lost = table.own("a")["tombstone"]
    result = heartbeat(table.database, make_caller("a", now=at(18)))
    assert (result.outcome, table.own("a")["tombstone"]) == ("renewed" if told else "lost", lost)
    assert (table.row("a")["sd_id"], table.row("a")["status"]) == ("SD-2", "active")


def test_foreign_stale_claim_is_lost_to_holder(table: Table) -> None:
    table.insert("a", status="stale", sd_id="SD-1", claimed_at=NOON, heartbeat_at=NOON)
    table.insert("b", status="active", sd_id="SD-1", claimed_at=at(1), heartbeat_at=at(1))
    result = heartbeat(table.database, make_caller("a", now=at(2)))
    assert result.outcome == "lost"
    assert table.row("a")["sd_id"] is None
    assert table.row("b")["sd_id"] == "SD-1"


def test_new_process_of_session_is_recorded(table: Table, sleeper: Sleeper) -> None:
    first = sleeper()
    claim(table.database, make_caller("a", now=NOON, anchor=process.read(first.pid)), "SD-1")
    second = process.read(sleeper().pid)
    first.kill()
    first.wait()
    assert heartbeat(table.database, make_caller("a", now=at(1), anchor=second)).outcome == "moved"
    assert table.row("a")["pid"] == second.pid
    assert reap(table.database, make_caller(None, now=at(2))).changed == []
    assert table.row("a")["sd_id"] == "SD-1"


def test_pid_overwritten_by_other_program_is_corrected(table: Table, sleeper: Sleeper) -> None:
    anchor = process.read(sleeper().pid)
    claim(table.database, make_caller("a", now=NOON, anchor=anchor), "SD-1")
    table.execute("UPDATE public.claude_sessions SET pid = 1")
    heartbeat(table.database, make_caller("a", now=at(1), anchor=anchor))
    assert table.row("a")["pid"] == anchor.pid


def test_reap_during_heartbeat_is_restored(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    reap(table.database, make_caller(None, now=at(16)))
    # The first look happens before the reap.
    looks, look = iter([lambda _: None]), _restorable_item
    target = "claude_sessions_cli.operations.heartbeat._restorable_item"
    monkeypatch.setattr(target, lambda session: next(looks, look)(session))
    assert heartbeat(table.database, make_caller("a", now=at(17))).outcome == "restored"
    assert table.row("a")["sd_id"] == "SD-1"


def test_acknowledged_loss_is_not_restored(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    reap(table.database, make_caller(None, now=at(16)))
    assert release(table.database, make_caller("a", now=at(17))).tombstone
    for minute in (18, 19):
        assert heartbeat(table.database, make_caller("a", now=at(minute))).outcome == "lost"
        assert table.row("a")["sd_id"] is None
    assert release(table.database, make_caller("a", now=at(20))).tombstone
    assert heartbeat(table.database, make_caller("a", now=at(21))).outcome == "renewed"


@pytest.mark.parametrize("has_ended", [False, True])
def test_heartbeat_after_process_end_opens_no_session(table: Table, has_ended: bool) -> None:
    with Popen(["sleep", "600"]) as child:
        late = make_caller("a", anchor=process.read(child.pid), now=at(2))
        if has_ended:
            heartbeat(table.database, make_caller("a", anchor=late.identity.anchor, now=NOON), register=True)
            release(table.database, make_caller("a", anchor=late.identity.anchor, now=at(1)), end=True)
        child.kill()
    before = table.execute("SELECT * FROM public.claude_sessions")
    with pytest.raises(NotHeld, match="process of session a is gone"):
        heartbeat(table.database, late, register=True)
    assert table.execute("SELECT * FROM public.claude_sessions") == before
    assert [row["status"] for row in before] == ["released"] * has_ended


def _beat(table: Table, minutes: float, older_than: float = 30, **options: Any) -> str:
    caller = options.pop("caller", None) or make_caller("a", now=at(minutes))
    return heartbeat(table.database, caller, if_older_than=older_than, **options).outcome


def test_younger_heartbeat_is_kept(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    assert _beat(table, 0.4) == "fresh"
    assert table.execute("SELECT *, xmin::text FROM public.claude_sessions") == before
    assert _beat(table, 0.5) == "renewed"
    assert table.row("a")["heartbeat_at"] == at(0.5)


def test_future_heartbeat_is_not_fresh(table: Table) -> None:
    table.insert("a", status="idle", heartbeat_at=at(60))
    assert _beat(table, 1) == "renewed"
    assert table.row("a")["heartbeat_at"] == at(1)


def test_new_stale_ended_or_evicted_session_is_not_fresh(table: Table) -> None:
    with pytest.raises(NotHeld, match="not registered"):
        _beat(table, 0)
    assert _beat(table, 0, register=True) == "registered"
    assert _beat(table, 0, register=True) == "fresh"
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    assert _beat(table, 0.1) == "renewed"
    assert table.row("a")["status"] == "idle"
    table.execute("UPDATE public.claude_sessions SET status = 'released'")
    with pytest.raises(NotHeld, match="has ended"):
        _beat(table, 0.2)
    assert _beat(table, 0.2, register=True) == "registered"
    claim(table.database, make_caller("a", now=at(1)), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    assert _beat(table, 1) == "lost"


def test_session_in_new_process_is_not_fresh(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    first, second = (make_caller("a", now=NOON, anchor=process.read(pid)) for pid in (child.pid, sleeper().pid))
    assert _beat(table, 0, register=True, caller=first) == "registered"
    assert _beat(table, 0, caller=first) == "fresh"
    child.kill()
    child.wait()
    assert _beat(table, 0, caller=second) == "moved"
    assert table.row("a")["pid"] == second.identity.pid
