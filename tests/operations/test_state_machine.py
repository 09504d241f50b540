"""The state machine of tests/faults/machine.py: short in each run, long with the faults."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest
from conftest import Server
from faults import machine
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from claude_sessions_cli import transaction

SETTINGS = settings(database=None, deadline=None, print_blob=False, suppress_health_check=list(HealthCheck))
SHORT = settings(SETTINGS, max_examples=8, stateful_step_count=40, derandomize=True)
LONG = settings(SETTINGS, max_examples=40, stateful_step_count=60)


@pytest.fixture(scope="module", params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def stage(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[str, bool]]:
    """Return a database for the machine, and whether it has a history."""
    with machine.stage_database(server.create, "cs_machine", request.param) as dsn:
        yield dsn, request.param == "whole schema"


def operate(stage: tuple[str, bool], how: settings, number: int) -> None:
    """Run the machine, and print the counts of its events."""
    lease = machine.LeaseMachine
    for counts in (lease.tally, lease.tried, lease.wrong):
        counts.clear()
    make = seed(number)(functools.partial(lease, *stage))
    try:
        run_state_machine_as_test(make, settings=how)  # type: ignore[arg-type]
    finally:
        print(f"\nseed {number}:", *(f"{what} {count}" for what, count in sorted(lease.tally.items())), sep="\n  ")
        print(machine.report(lease.tried, lease.wrong))


@pytest.fixture(autouse=True)
def patient_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the timeout of statements that wait for a stopped operation."""
    monkeypatch.setattr(transaction, "STATEMENT_TIMEOUT_MS", 60_000)


def test_random_events_keep_lease_exclusive(stage: tuple[str, bool]) -> None:
    operate(stage, SHORT, 0)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(2))
def test_many_random_events_keep_lease_exclusive(stage: tuple[str, bool], number: int) -> None:
    operate(stage, LONG, int(os.environ.get("CLAUDE_SESSIONS_TEST_SEED", "0")) + number)
