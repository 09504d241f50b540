"""Short races of real processes: always one winner, no deadlock, no claim lost silently.

The default tests run one of them; CI runs all of them on each kind of server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import pool as racing
from faults.pool import Pool, Watch


@pytest.mark.faults
def test_one_of_sixteen_commands_wins(watch: Watch) -> None:
    racing.race_of_commands(watch, rounds=1)


@pytest.mark.faults
def test_one_of_sixteen_wins_at_repeatable_read(pool: Pool, watch: Watch) -> None:
    # The long races take every isolation level.
    watch.set_isolation("repeatable read")
    pool.all("connect", dsn=watch.dsn)
    racing.race_for_one_item(pool, watch, rounds=8)


@pytest.mark.faults
def test_one_of_sixteen_takes_over_from_silent_holders(pool: Pool, watch: Watch) -> None:
    racing.race_for_lapsed_item(pool, watch, rounds=5, holders=["active"])
    # Older writers left more than one holder; the unique index allows these statuses side by side.
    racing.race_for_lapsed_item(pool, watch, rounds=5, holders=["idle", "stale", None])


@pytest.mark.faults
def test_crossing_switches_are_serialized(pool: Pool, watch: Watch) -> None:
    with watch.sampling():
        racing.cross_switches(pool, watch, rounds=5)


@pytest.mark.faults
def test_heartbeat_behind_reaper_does_not_deadlock_with_claim(pool: Pool, watch: Watch) -> None:
    racing.heartbeat_behind_reaper(pool, watch, rounds=8)


@pytest.mark.faults
def test_mixed_operations_neither_deadlock_nor_lose_claims(pool: Pool, watch: Watch) -> None:
    counts = racing.churn(pool, watch, count=60)
    assert counts["claim: took_over"] and counts["heartbeat: lost"], counts
    assert watch.samples


@pytest.mark.faults
def test_believed_holder_is_alone(pool: Pool, watch: Watch, tmp_path: Path) -> None:
    counts = racing.contend(pool, tmp_path / "locks", items=2, attempts=480)
    assert counts["attempts"] == 480 == counts["held"] + counts["claimed"]
    assert counts["held"] and counts["claimed"], counts
