"""A transaction as messages of several statements: Statement, what it returns, and when each is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from claude_sessions_cli import adapters, names, queries
from claude_sessions_cli.connection import Connection, Row
from claude_sessions_cli.errors import Unreachable
from claude_sessions_cli.failures import translate
from claude_sessions_cli.model import Actor, Session

STATEMENT_TIMEOUT_MS = 10_000
PARAMETER = re.compile(rb"%\((\w+)\)s")
# Parameters that tell people where a session is. Nothing is found by them, so an encoding may cut them.
DECORATIONS = frozenset({"hostname", "codebase", "tty", "own", "actor_host", "machine_id"})
# A parameter that takes another value each time; see Transaction.for_each.
EACH = object()


class Statement:
    """A query file and its parameters, to be sent as part of a message."""

    __slots__ = ("parameters", "query")

    def __init__(self, query: str, /, **parameters: Any) -> None:
        self.query = query
        self.parameters = parameters


class Rows(list[Row]):
    """The rows that a statement returned, and the number that it `touched`."""

    touched = 0

    @property
    def first(self) -> Row | None:
        """The first row, if there is one."""
        return self[0] if self else None

    @property
    def sessions(self) -> list[Session]:
        """The rows as sessions."""
        return [Session(**row) for row in self]

    @property
    def session(self) -> Session | None:
        """The first row as a session, if there is one."""
        return Session(**self[0]) if self else None


class Kind(NamedTuple):
    """What a transaction may do: the query that opens it, and the commands that row security must let through.

    The commands are the letters of pg_policy.polcmd: r to read, a to add, w to write, d to delete. `durable` says that
    its COMMIT waits for the disk.
    """

    opening: str
    commands: str = ""
    writes: bool = False
    durable: bool = False


class Transaction:
    """One transaction, in as few messages as its judgement allows: each waits for an answer, however distant.

    The statements of a message run one after another, each with a snapshot of its own; an error skips the rest. BEGIN
    goes with the first message. What a transaction looks at goes into `send`, what it then writes into `commit`.
    """

    def __init__(self, connection: Connection, kind: Kind, actor: Actor) -> None:
        self.kind = kind
        self._connection = connection
        self._actor = actor
        self._has_begun = False
        self.has_history = False
        self.has_terminals = False
        # Set by work that goes on without a row which the table refuses, and need not know why.
        self.expects_refusal = False

    def send(self, *statements: Statement) -> list[Rows]:
        """Send statements as one message; return the rows of each."""
        opening = [] if self._has_begun else self._opening()
        self._has_begun = True
        answers = self._exchange([*opening, *statements])
        if opening:
            access = answers[len(opening) - 1].first
            self.has_history = bool(access and access.get("has_history"))
            self.has_terminals = bool(access and access.get("has_terminals"))
        return answers[len(opening) :]

    def forms(self, item: str | None) -> list[str] | None:
        """Return the forms of an item that this database can hold, at least the one that is stored; None for None."""
        if item is None:
            return None
        encoding = self._connection.info.parameter_status("server_encoding")
        return [form for form in names.forms(item) if adapters.is_storable(form, encoding)] or [names.nfc(item)]

    def for_each(self, statement: Statement, parameter: str, items: Sequence[str]) -> list[Statement]:
        """Return the statements that run another one once for each value of a parameter; the last returns what it did.

        A value for which it fails is undone alone. See change_each for the columns that it must return.
        """
        once = Statement(statement.query, **{**statement.parameters, parameter: EACH})
        return self.run_each(self._text(once).decode(), items)

    def run_each(self, text: str, items: Sequence[str]) -> list[Statement]:
        """As `for_each`, for a text in which $1 stands for the value."""
        given = Statement("give_change", change=text, items=json.dumps(items, ensure_ascii=False))
        return [given, Statement("change_each"), Statement("read_outcome")]

    def commit(self, *statements: Statement) -> list[Rows]:
        """Send the last statements and COMMIT as one message; return the rows of each.

        If the answer is lost, the error says that the same command again settles whether the change was made.
        """
        try:
            return self.send(*statements, Statement("commit"))[:-1]
        except psycopg.Error as error:
            lost = translate(error)
            if self.kind.writes and self._connection.closed and isinstance(lost, Unreachable):
                lost.hint = "the change may have been made; run the same command again to settle it"
                raise lost from error
            raise

    def script(self, text: str, **parameters: Any) -> None:
        """Send the statements of a text that is no query file."""
        self.send()
        psycopg.ClientCursor(self._connection).execute(text, parameters or None)

    def end(self) -> None:
        """Commit, if the work has not."""
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            self.commit()

    def _opening(self) -> list[Statement]:
        begin = Statement(self.kind.opening)
        if not self.kind.commands:
            turns = [Statement("lock_schema")] if self.kind.writes else []
            return [begin, Statement("limit_schema"), *turns]
        limits = Statement(
            "limit_transaction",
            timeout_ms=str(STATEMENT_TIMEOUT_MS),
            durable=self.kind.durable,
            actor=self._actor.session_id,
            actor_host=self._actor.hostname,
        )
        return [begin, limits, Statement("require_access", commands=list(self.kind.commands))]

    def _exchange(self, statements: Sequence[Statement]) -> list[Rows]:
        return exchange(self._connection, [self._text(statement) for statement in statements])

    def _text(self, statement: Statement) -> bytes:
        text = queries.get(statement.query).rstrip(";").encode()
        return PARAMETER.sub(lambda found: self._literal(name := found[1].decode(), statement.parameters[name]), text)

    def _literal(self, name: str, value: object) -> bytes:
        if value is EACH:
            return b"$1"
        if name in DECORATIONS and isinstance(value, str):
            value = adapters.fit(value, self._connection)
        return sql.Literal(value).as_bytes(self._connection)


def exchange(connection: Connection, statements: Sequence[bytes]) -> list[Rows]:
    """Send statements as one message of the simple protocol; return the rows of each."""
    cursor = psycopg.ClientCursor(connection, row_factory=dict_row)
    try:
        cursor.execute(b";\n".join(statements))
    except psycopg.Error as error:
        if not error.sqlstate:
            # The connection is cut, silent, or out of step: it can take no ROLLBACK.
            connection.close()
        raise
    answers = []
    for _ in statements:
        adapters.require_zones(cursor.description or ())
        rows = Rows(cursor.fetchall() if cursor.description else ())
        rows.touched = cursor.rowcount
        answers.append(rows)
        cursor.nextset()
    return answers
