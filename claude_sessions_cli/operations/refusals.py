"""Changes of many rows, some of which the table may refuse: the others are changed without them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.failures import may_concern_one_row
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.transaction import Statement, Transaction

if TYPE_CHECKING:
    from uuid import UUID

    from claude_sessions_cli.connection import Row

DROPPED = "a trigger of the table dropped the change"


# What the table said, and its SQLSTATE.
Said = tuple[str, "str | None"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A session that the table refuses to change, the item that it holds, and what the table says."""

    session: JudgedSession
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """A query that changes many rows: `parameter` takes them as JSON, each with its `id`; `others` are the rest."""

    query: str
    parameter: str
    rows: list[dict[str, Any]]
    others: Mapping[str, Any]

    @property
    def whole(self) -> Statement:
        """The statement that changes all rows together."""
        return self._statement(self.rows)

    @property
    def empty(self) -> Statement:
        """The statement for no rows: no row causes an error of it."""
        return self._statement([])

    @property
    def items(self) -> list[str]:
        """The values of the parameter for one row at a time."""
        return [_as_json([row]) for row in self.rows]

    def _statement(self, rows: list[dict[str, Any]]) -> Statement:
        return Statement(self.query, **{self.parameter: _as_json(rows)}, **self.others)


def _as_json(rows: list[dict[str, Any]]) -> str:
    # Not as ASCII: a database in another encoding accepts the character, but not its escape.
    return json.dumps(rows, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Changed:
    """The rows that a change has written, and what the table said of those that it refused; both by id."""

    written: dict[UUID, Row] = field(default_factory=dict)
    refused: dict[UUID, Said] = field(default_factory=dict)

    @property
    def sessions(self) -> dict[UUID, Session]:
        """The rows written, as sessions."""
        return {row_id: Session(**row) for row_id, row in self.written.items()}


Write = Callable[..., Changed]


def change_rows(write: Write, caller: Caller, change: Change) -> Changed:
    """Change rows by one statement; if the table refuses any of them, each row by itself.

    `write` is the database's method for the kind of change. Raises the error of the statement if no row caused it.
    """
    try:
        return write(caller.actor, _change_all, change)
    except SessionsError as error:
        if not may_concern_one_row(error):
            raise
    # Each row stays locked until COMMIT, so they too are locked in the order of id.
    in_order = replace(change, rows=sorted(change.rows, key=lambda row: row["id"]))
    return write(caller.actor, _change_each, caller, in_order)


def _change_all(tx: Transaction, change: Change) -> Changed:
    tx.expects_refusal = True
    [answered] = tx.commit(change.whole)
    changed = Changed()
    for row in answered:
        row_id, is_written = row.pop("row_id"), row.pop("is_written")
        if is_written:
            changed.written[row_id] = row
        else:
            changed.refused[row_id] = (DROPPED, None)
    return changed


def _change_each(tx: Transaction, caller: Caller, change: Change) -> Changed:
    written, refused = send_each(tx, change)
    [found] = tx.commit(Statement("list_sessions_by_id", ids=written, now=caller.now))
    by_id = {row["id"]: row for row in found}
    # A row that another program has deleted since is not there any more.
    return Changed({row_id: by_id[row_id] for row_id in written if row_id in by_id}, refused)


def send_each(tx: Transaction, change: Change) -> tuple[list[UUID], dict[UUID, Said]]:
    """Change each row by itself, in one message; return the ids written, and what the table said of the refused ones.

    The statement runs for no rows first: an error that no row causes aborts the message.
    """
    *_, outcomes = tx.send(change.empty, *tx.for_each(change.empty, change.parameter, change.items))
    written = [outcome["row_id"] for outcome in outcomes if outcome["is_written"]]
    refused = {
        outcome["row_id"] or change.rows[outcome["place"] - 1]["id"]: (outcome["reason"] or DROPPED, outcome["state"])
        for outcome in outcomes
        if not outcome["is_written"]
    }
    return written, refused


def refusals_of(refused: Mapping[UUID, Said], seen: Iterable[JudgedSession]) -> list[Refusal]:
    """Return the refusals of sessions that were judged before."""
    return [Refusal(judged, refused[judged.session.id][0]) for judged in seen if judged.session.id in refused]


def read_refusals(database: Database, caller: Caller, refused: Mapping[UUID, Said]) -> list[Refusal]:
    """Return the refusals of sessions of which only the ids are known."""
    if not refused:
        return []
    return refusals_of(refused, [caller.judge(session) for session in database.read(_read, caller, list(refused))])


def _read(tx: Transaction, caller: Caller, ids: list[UUID]) -> list[Session]:
    [found] = tx.commit(Statement("list_sessions_by_id", ids=ids, now=caller.now))
    return found.sessions
