"""How the statements find their rows in a large table: none reads it in full, and few rows more than it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from conftest import Server, make_caller
from fleet import fill
from plans import Plan, recorded

from claude_sessions_cli import completion, database
from claude_sessions_cli.database import Database
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.operations import heartbeat_here, history, reap, release, schema, timeline
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.list import Filters, list_sessions
from claude_sessions_cli.transaction import Statement

pytestmark = pytest.mark.faults

SEED = ("001_claude_sessions",)
FLEET = ("001_claude_sessions", "002_exclusive_claims", "003_history", "large_tables", "hot_heartbeats")
RELEASED, STALE, LIVE = 30_000, 6_000, 1_000
ME, HERE = make_caller("me"), this_host()


def _ask(query: str, **parameters: Any) -> Callable[[Database], object]:
    return lambda opened: opened.read(lambda tx: tx.commit(Statement(query, **parameters)))


def _list(**filters: Any) -> Callable[[Database], object]:
    return lambda opened: list_sessions(opened, ME, Filters(**filters))


LIMIT = {"row_limit": completion.ROW_LIMIT}
OPERATIONS: dict[str, Callable[[Database], object]] = {
    "claim": lambda opened: claim(opened, ME, "SD-MINE"),
    "claim of a lost item": lambda opened: claim(opened, make_caller("other"), "SD-LOST-10"),
    "heartbeat": lambda opened: heartbeat(opened, ME),
    "check": lambda opened: check(opened, ME, "SD-MINE"),
    "release": lambda opened: release.release(opened, ME),
    "heartbeat --here": lambda opened: heartbeat_here.heartbeat_here(opened, ME),
    "reap": lambda opened: reap.reap(opened, ME),
    "list": _list(),
    "list --limit": _list(limit=20),
    "list --here": _list(hostname=HERE.hostname, boot_id=HERE.boot_id),
    "list of an item": _list(sd_ids=["SD-LIVE-5"]),
}
ONLY_WITH_INDEXES: dict[str, Callable[[Database], object]] = {
    "list --all": _list(all_statuses=True, limit=20),
    "list --status stale": _list(statuses=["stale"], limit=20),
    "list --status released": _list(statuses=["released"], limit=20),
    "release of another": lambda opened: release.release_other(opened, ME, "active-e4da3b7f", None, reason="a test"),
    "sessions by a common beginning": _ask("find_sessions", prefix="released-", now=None),
    "history of an item": lambda opened: history.read(opened, "SD-OLD-7"),
    "latest history of an item": lambda opened: history.read(opened, "SD-OLD-8", limit=5),
    "history of a session": lambda opened: history.read(opened, "released-c4ca4238"),
    "timeline": lambda opened: timeline.timeline(opened, ME, 3600.0),
    "complete items": _ask("complete_held_items", prefixes=["SD-"], **LIMIT),
    "complete sessions": _ask("complete_session_ids", prefix="", **LIMIT),
    "complete past items": _ask("complete_past_items", prefixes=["SD-"], event_limit=completion.EVENT_LIMIT, **LIMIT),
}


def _made(server: Server, name: str, files: tuple[str, ...]) -> str:
    paths = {path.stem: path for path in [*schema.ddl_files(), *schema.optional_files()]}
    dsn = server.create(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for file in files:
            connection.execute(paths[file].read_bytes())
        fill(connection, HERE, released=RELEASED, stale=STALE, live=LIVE)
    return dsn


@pytest.fixture(scope="module")
def seed_fleet(server: Server) -> str:
    """Return the DSN of a large table that has only `001`."""
    return _made(server, "cs_fleet_seed", SEED)


@pytest.fixture(scope="module")
def fleet_dsn(server: Server) -> str:
    """Return the DSN of a large table with every file that is for one."""
    return _made(server, "cs_fleet", FLEET)


@pytest.fixture
def opened(fleet_dsn: str) -> Iterator[Database]:
    """Return the large table with every file."""
    with database.connect(fleet_dsn, "the test") as connection:
        yield connection


def _plans(opened: Database, run: Callable[[Database], object]) -> list[Plan]:
    heartbeat(opened, ME, register=True)
    with recorded() as plans:
        run(opened)
    assert plans
    return plans


@pytest.mark.parametrize("name", [*OPERATIONS, *ONLY_WITH_INDEXES])
def test_operation_reads_few_rows_of_large_table(opened: Database, name: str) -> None:
    for plan in _plans(opened, {**OPERATIONS, **ONLY_WITH_INDEXES}[name]):
        assert not plan.read_in_full, plan.statement
        assert plan.rows_read <= 3 * plan.rows_returned + 1000, plan.statement


@pytest.mark.parametrize("name", OPERATIONS)
def test_seed_reads_no_released_row(seed_fleet: str, name: str) -> None:
    with database.connect(seed_fleet, "the test") as opened:
        plans = _plans(opened, OPERATIONS[name])
    for plan in plans:
        assert not plan.read_in_full, plan.statement
        assert plan.rows_read <= 2 * (STALE + LIVE) + 1000, plan.statement
