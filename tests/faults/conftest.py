"""Fixtures of the races: worker processes, and a database of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Server

from faults import pool as racing
from faults.pool import Pool, Watch


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Return worker processes that live as long as a module's tests."""
    with racing.workers() as started:
        yield started


@pytest.fixture(scope="module", params=racing.SCHEMAS)
def racing_dsn(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """Return a database of the module's own, on both kinds of schema."""
    with racing.racing_database(server.create, f"cs_{request.path.stem}", racing.SCHEMAS[request.param]) as dsn:
        yield dsn


@pytest.fixture
def watch(racing_dsn: str, pool: Pool) -> Iterator[Watch]:
    """Return a view of the table, with the workers connected."""
    with racing.watched(racing_dsn, pool) as seen:
        yield seen
