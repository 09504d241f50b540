"""How many messages each command exchanges with the server after the connection: over a distance, each costs its time.

A message is a request that awaits an answer; see `wire`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Cli, Sleeper, Table, dsn_of
from faults import pool as racing
from faults import servers
from wire import Wire, report

from claude_sessions_cli.operations import reap
from commands.answers import Inside
from commands.scenes import (
    OTHER,
    OWN,
    REAP_PAGE,
    Prepare,
    Scene,
    fresh,
    held,
    holding,
    lapsed,
    living,
    nothing,
    parked,
    reaped,
    recorded,
    robbed,
    silent,
)


@dataclass
class Case:
    """A command line, its messages at most, the table before it, and its answer."""

    name: str
    most: int
    argv: tuple[str, ...]
    prepare: Prepare
    code: int = 0
    data: dict[str, Any] = field(default_factory=dict)


def _case(most: int, line: str, prepare: Prepare, code: int = 0, outcome: str | None = None) -> Case:
    return Case(f"{line} ({prepare.__name__})", most, tuple(line.split()), prepare, code, {"outcome": outcome})


FORCE = "claim SD-1 --force --reason urgent"
HEARTBEATS = [
    _case(1, "heartbeat", recorded, 0, "renewed"),
    _case(1, "heartbeat --if-older-than 1h", recorded, 0, "fresh"),
    _case(1, "heartbeat", nothing, 4),
    _case(2, "heartbeat --register", nothing, 0, "registered"),
    _case(1, "heartbeat --register", recorded, 0, "renewed"),
    _case(3, "heartbeat", reaped, 0, "restored"),
    _case(1, "heartbeat", robbed, 4, "lost"),
    _case(2, "heartbeat --here", living),
]
READERS = [
    _case(1, "check", holding),
    _case(1, "check SD-1", holding),
    _case(1, "check", nothing, 4),
    _case(1, "check SD-1", held, 4),
    _case(1, "check", robbed, 4),
    _case(1, "list", holding),
    _case(1, "list SD-1", held),
    _case(1, "list", nothing),
    _case(1, "whoami", holding),
    _case(1, "whoami", nothing),
    _case(1, "whoami", robbed),
    _case(1, "status", holding),
    _case(1, "status", nothing),
]
HISTORIES = [
    _case(1, "history SD-1", holding),
    _case(1, f"history {OWN}", holding),
    _case(2, f"history {OWN[:4]}", holding),
    _case(1, "history unknown", holding, 4),
]
CLAIMS = [
    _case(2, "claim SD-1", nothing, 0, "claimed"),
    _case(2, "claim SD-1", holding, 0, "already_yours"),
    _case(2, "claim SD-1", held, 3),
    _case(2, "claim SD-1", lapsed, 0, "took_over"),
    _case(2, "claim SD-2", holding, 2),
    _case(2, "claim SD-2 --switch", holding, 0, "switched"),
    _case(2, FORCE, held, 0, "forced"),
    _case(2, "claim SD-1", reaped, 0, "claimed"),
]
RELEASES = [
    _case(2, "release", holding, 0, "released"),
    _case(2, "release", nothing, 0, "nothing_held"),
    _case(2, "release SD-1", held, 4),
    _case(2, "release", robbed, 4, "nothing_held"),
    _case(2, "release --end", holding, 0, "ended"),
    _case(2, f"release --session {OWN}", holding, 0, "released"),
    _case(3, f"release --session {OTHER} --reason why", held, 0, "released"),
]
PARKS = [
    _case(2, "park 20m", holding),
    _case(2, "park 20m", nothing, 4),
    _case(2, "unpark", parked),
    _case(2, "unpark", nothing, 4),
]
REAPS = [
    _case(1, "reap", nothing),
    _case(1, "reap", fresh),
    _case(1, "reap --dry-run", silent),
    _case(2, "reap", silent),
    _case(2, "reap --prune 1d", fresh),
    _case(2, "reap --prune 1d --dry-run", fresh),
]
CASES = [*HEARTBEATS, *READERS, *CLAIMS, *RELEASES, *PARKS, *REAPS]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@pytest.fixture
def scene(table: Table, cli: Cli, sleeper: Sleeper) -> Scene:
    """Return an empty table, on both kinds of schema."""
    return Scene(table, cli, sleeper)


@pytest.fixture
def wire(table: Table) -> Iterator[Wire]:
    """Return a proxy before the database."""
    with Wire(table.dsn) as made:
        yield made


def _assert_messages(case: Case, scene: Scene, wire: Wire, dsn: str) -> None:
    """Run a command through the proxy, and compare its answer and its messages."""
    case.prepare(scene)
    wire.reset()
    done = scene.cli(*case.argv, "--json", env={"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": OWN})
    assert (done.returncode, done.stderr) == (case.code, ""), done.stdout
    data = json.loads(done.stdout)["data"] or {}
    assert case.data == {"outcome": data.get("outcome")}
    _assert_at_most(case.most, wire, case.name)
    assert {number for number, _ in wire.connecting} == {message.connection for message in wire.messages}


def _assert_at_most(most: int, wire: Wire, name: str) -> None:
    print(f"\n{len(wire.messages):3} of {most}: {name}")
    assert len(wire.messages) <= most, f"{name}: {len(wire.messages)} messages, not {most}\n{report(wire)}"


@pytest.mark.faults
@each_case
def test_command_costs_few_messages(case: Case, scene: Scene, wire: Wire) -> None:
    _assert_messages(case, scene, wire, wire.dsn)


@pytest.mark.faults
@pytest.mark.parametrize("case", HISTORIES, ids=lambda case: case.name)
def test_history_costs_few_messages(case: Case, full_table: Table, cli: Cli, sleeper: Sleeper) -> None:
    with Wire(full_table.dsn) as wire:
        _assert_messages(case, Scene(full_table, cli, sleeper), wire, wire.dsn)


@pytest.mark.parametrize(
    ("line", "prepare", "most"), [("reap", silent, 4), ("reap", fresh, 2), ("reap --dry-run", silent, 2)]
)
def test_page_of_reap_costs_one_message_or_two(
    scene: Scene, wire: Wire, inside: Inside, monkeypatch: pytest.MonkeyPatch, line: str, prepare: Prepare, most: int
) -> None:
    monkeypatch.setattr(reap, "PAGE", REAP_PAGE)
    prepare(scene)
    wire.reset()
    done = inside(*line.split(), "--json", env={"CLAUDE_SESSIONS_DSN": wire.dsn})
    assert done.returncode == 0, done.stdout
    assert len(json.loads(done.stdout)["data"]["changed"]) == (0 if prepare is fresh else REAP_PAGE + 1)
    _assert_at_most(most, wire, f"{line}, two pages ({prepare.__name__})")


def test_refused_rows_cost_few_messages(scene: Scene, wire: Wire, inside: Inside) -> None:
    silent(scene)
    scene.table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id = '') NOT VALID")
    try:
        wire.reset()
        done = inside("reap", "--json", env={"CLAUDE_SESSIONS_DSN": wire.dsn})
        assert len(json.loads(done.stdout)["data"]["refused"]) == REAP_PAGE + 1
        # The page, its failure, ROLLBACK, every row by itself, and COMMIT; however many are refused.
        _assert_at_most(5, wire, "reap, every row refused")
    finally:
        scene.table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")


@pytest.mark.faults
def test_connecting_has_no_superfluous_round_trip(scene: Scene, wire: Wire) -> None:
    recorded(scene)
    for argv in (["heartbeat"], ["check"], ["list"], ["claim", "SD-1"], ["heartbeat", "--here"], ["reap"]):
        wire.reset()
        env = {"CLAUDE_SESSIONS_DSN": wire.tcp_dsn, "CLAUDE_SESSIONS_SESSION_ID": OWN}
        assert scene.cli(*argv, env=env).returncode == 0
        requests = [request for _, request in wire.connecting if request != "password"]
        assert requests == ["SSLRequest", "startup"], report(wire)
        # Scram takes two.
        assert len(wire.connecting) <= len(requests) + 2
        settings = re.compile(r"\s*(SET|RESET|SHOW|DISCARD|DEALLOCATE|SELECT (pg_catalog\.)?set_config)\b", re.I)
        assert not settings.match(wire.messages[0].statements[0]), report(wire)


def test_unix_socket_is_not_asked_for_encryption(scene: Scene, wire: Wire) -> None:
    done = scene.cli("list", "--dsn", wire.dsn)
    assert done.returncode == 0
    assert [request for _, request in wire.connecting if request != "password"] == ["startup"]


@pytest.mark.faults
@pytest.mark.parametrize("schema", racing.SCHEMAS)
def test_pgbouncer_costs_no_more_messages(schema: str, cli: Cli, sleeper: Sleeper) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(servers.private_server())
        through = stack.enter_context(servers.pgbouncer(server))
        dsn = stack.enter_context(racing.racing_database(server.create, "counted", racing.SCHEMAS[schema]))
        table = Table(dsn, stack)
        wire = stack.enter_context(Wire(through(dsn)))
        failures = []
        for case in [*HEARTBEATS, *READERS[:4], *CLAIMS, *RELEASES, *REAPS]:
            table.execute("TRUNCATE public.claude_sessions")
            try:
                _assert_messages(case, Scene(table, cli, sleeper), wire, wire.dsn)
            except AssertionError as error:
                failures.append(str(error).partition("\n")[0])
        assert failures == []
