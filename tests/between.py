"""Another program's turn between two statements of one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from claude_sessions_cli.transaction import Rows, Statement, Transaction


@contextmanager
def acting_before(query: str, act: Callable[[], object]) -> Iterator[None]:
    """Run `act` before the first statement of a query file, which has a snapshot of its own."""
    exchange, turns = Transaction._exchange, [act]

    def send_singly(tx: Transaction, statements: Sequence[Statement]) -> list[Rows]:
        answers = []
        for statement in statements:
            if turns and statement.query == query:
                turns.pop()()
            answers += exchange(tx, [statement])
        return answers

    with mock.patch.object(Transaction, "_exchange", send_singly):
        yield
    assert not turns, f"nothing sent {query}"
