"""The plans of the statements that an operation sends: which tables they read in full, and how many rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import psycopg

from claude_sessions_cli import transaction

EXPLAIN = b"EXPLAIN (ANALYZE, FORMAT JSON) "
TABLES = ("claude_sessions", "claude_session_events")
PLANNED = re.compile(rb"(?:\s|--[^\n]*\n)*(SELECT|WITH|UPDATE|INSERT|DELETE)\b")


@dataclass(frozen=True)
class Plan:
    """The plan of a statement that ran."""

    statement: str
    root: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield every node."""
        waiting = [self.root["Plan"]]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    @property
    def scans(self) -> list[dict[str, Any]]:
        """The nodes that read the tables."""
        return [node for node in self.nodes() if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]]

    @property
    def read_in_full(self) -> list[str]:
        """The tables that were read from one end to the other."""
        return [node["Relation Name"] for node in self.scans if node["Node Type"] == "Seq Scan"]

    @property
    def rows_read(self) -> int:
        """The number of rows read from the tables; those that an index alone answers are left out."""
        kinds = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        nodes = [node for node in self.scans if node["Node Type"] != "Index Only Scan"]
        found = [float(node.get(kind, 0) * node["Actual Loops"]) for node in nodes for kind in kinds]
        return round(sum(found))

    @property
    def rows_of_busiest_node(self) -> int:
        """The number of rows that a node returned, all its loops together."""
        return int(max(node["Actual Rows"] * node["Actual Loops"] for node in self.nodes()))

    @property
    def rows_returned(self) -> int:
        """The number of rows that the statement returned."""
        return int(self.root["Plan"]["Actual Rows"])


@contextmanager
def recorded() -> Iterator[list[Plan]]:
    """Yield the plans of all statements that are sent inside the block; each runs as usual too."""
    plans: list[Plan] = []
    exchange = transaction.exchange

    def explain(connection: Any, statements: Sequence[bytes]) -> list[transaction.Rows]:
        answers = []
        for statement in statements:
            in_transaction = connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
            if in_transaction and PLANNED.match(statement):
                *_, planned, _ = exchange(
                    connection, [b"SAVEPOINT explained", EXPLAIN + statement, b"ROLLBACK TO explained"]
                )
                plans.append(Plan(statement.decode(), planned[0]["QUERY PLAN"][0]))
            answers += exchange(connection, [statement])
        return answers

    with mock.patch.object(transaction, "exchange", explain):
        yield plans
