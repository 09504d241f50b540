"""The proxy that counts and breaks messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from wire import FAULTS, LATE, Fault, Wire


@pytest.fixture
def wire(dsn: str) -> Iterator[Wire]:
    """Return a proxy before the database."""
    with Wire(dsn) as made:
        yield made


@contextmanager
def _connect(dsn: str) -> Iterator[psycopg.Connection[tuple[int]]]:
    with closing(psycopg.connect(dsn, autocommit=True, prepare_threshold=None)) as connection:
        yield connection


def test_each_awaited_request_is_one_message(wire: Wire) -> None:
    with _connect(wire.dsn) as connection:
        assert wire.messages == []
        connection.execute("SELECT 1; SELECT 2")
        connection.execute("BEGIN")
        connection.execute("SELECT %s::int", [1])
        with connection.pipeline():
            connection.execute("SELECT 3")
            connection.execute("SELECT 4")
    assert [message.kinds for message in wire.messages] == ["Q", "Q", "PBDES", "PBDEPBDES"]
    assert [message.statements for message in wire.messages] == [
        ["SELECT 1; SELECT 2"],
        ["BEGIN"],
        ["SELECT $1::int"],
        ["SELECT 3", "SELECT 4"],
    ]
    assert [message.status for message in wire.messages] == ["I", "T", "T", "T"]


def test_answer_awaited_before_sync_is_a_message(wire: Wire) -> None:
    with _connect(wire.dsn) as connection, connection.pipeline():
        assert connection.execute("SELECT 3").fetchone() == (3,)
        connection.execute("SELECT 4")
    assert [message.kinds for message in wire.messages] == ["PBDEH", "PBDES"]


def test_requests_of_connecting_are_counted_apart(wire: Wire) -> None:
    for _ in range(2):
        with _connect(wire.tcp_dsn) as connection:
            connection.execute("SELECT 1")
    requests = [(number, request) for number, request in wire.connecting if request != "password"]
    assert requests == [(number, request) for number in range(2) for request in ("SSLRequest", "startup")]
    assert [message.connection for message in wire.messages] == [0, 1]


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_comes_at_its_message_alone(wire: Wire, kind: str) -> None:
    fault = wire.arm(Fault(kind, 2, seconds=0.1))
    with _connect(wire.dsn) as connection:
        connection.execute("SELECT 1")
        assert not fault.came.is_set()
        if kind == LATE:
            connection.execute("SELECT 2")
        elif kind == "unknown error":
            with pytest.raises(psycopg.Error, match="nobody knows"):
                connection.execute("SELECT 2")
        elif kind in ("request lost", "answer lost", "long length", "endless notices"):
            # The client would wait for good.
            connection.pgconn.send_query(b"SELECT 2")
            assert fault.came.wait(10)
            return
        else:
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT 2")
            return
        connection.execute("SELECT 3")
    assert fault.came.is_set()
