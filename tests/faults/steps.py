"""A message in steps: to the server, its statements one by one are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from claude_sessions_cli.transaction import Statement

# They set the time-outs of the transaction, so nothing may come between them.
OPENING = {"begin", "begin_writing", "limit_transaction", "require_access"}


def steps(statements: Sequence[Statement]) -> Iterator[list[Statement]]:
    """Yield the statements that open a transaction together, and each other one alone."""
    opening = [statement for statement in statements if statement.query in OPENING]
    if opening:
        yield opening
    for statement in statements[len(opening) :]:
        yield [statement]
