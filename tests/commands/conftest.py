"""Fixtures of the tests of commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Table
from runs import Bench, Proxy


@pytest.fixture
def bench(tmp_path: Path, full_table: Table) -> Iterator[Bench]:
    """Return a bench on the whole schema."""
    with Bench(tmp_path, full_table) as made:
        yield made


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """Return a proxy before the database."""
    made = Proxy(dsn)
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close at the end what a test has opened."""
    with ExitStack() as opened:
        yield opened
