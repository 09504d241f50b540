"""The races of test_races.py at full length."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import pool as racing
from faults.pool import Pool, Watch

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("isolation", racing.ISOLATION)
def test_one_of_sixteen_wins_200_times(isolation: str, pool: Pool, watch: Watch) -> None:
    watch.set_isolation(isolation)
    pool.all("connect", dsn=watch.dsn)
    racing.race_for_one_item(pool, watch, rounds=200)


@pytest.mark.parametrize("isolation", racing.ISOLATION)
def test_one_of_sixteen_commands_wins_each_round(isolation: str, watch: Watch) -> None:
    watch.set_isolation(isolation)
    racing.race_of_commands(watch, rounds=4)


def test_one_of_sixteen_takes_over_200_times(pool: Pool, watch: Watch) -> None:
    racing.race_for_lapsed_item(pool, watch, rounds=100, holders=["active"])
    racing.race_for_lapsed_item(pool, watch, rounds=100, holders=["idle", "stale", None])


def test_crossing_switches_are_serialized(pool: Pool, watch: Watch) -> None:
    with watch.sampling():
        counts = racing.cross_switches(pool, watch, rounds=100)
    print(f"\n{dict(counts)}, {watch.samples} samples")


def test_heartbeat_behind_reaper_does_not_deadlock_with_claim(pool: Pool, watch: Watch) -> None:
    racing.heartbeat_behind_reaper(pool, watch, rounds=100)


def test_mixed_operations_neither_deadlock_nor_lose_claims(pool: Pool, watch: Watch) -> None:
    counts = racing.churn(pool, watch, count=1000)
    print(f"\n{dict(counts)}, {watch.samples} samples")
    for answer in ("claim: took_over", "switch: switched", "force: forced", "heartbeat: lost", "heartbeat: restored"):
        assert counts[answer], counts


def test_believed_holder_is_alone(pool: Pool, watch: Watch, tmp_path: Path) -> None:
    attempts = racing.CONTENDED * 2 // 5 // len(pool) * len(pool)
    with watch.sampling():
        counts = racing.contend(pool, tmp_path / "locks", items=3, attempts=attempts)
    print(f"\n{dict(counts)}, {watch.samples} samples")
    assert counts["attempts"] == attempts == counts["held"] + counts["claimed"]
