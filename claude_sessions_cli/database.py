"""Transactions on a Postgres connection, in as few messages as their judgement allows."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from claude_sessions_cli import adapters, connection, names, queries
from claude_sessions_cli.connection import Connection, Patience, Row
from claude_sessions_cli.errors import AGAIN, HeldByAnother, SessionsError, Unreachable
from claude_sessions_cli.failures import (
    CONSTRAINTS,
    HIDDEN,
    MISSING,
    OUT_OF_STEP,
    STATEMENT_MODE,
    first_line,
    hidden_rows,
    refused_by_constraint,
    table_elsewhere,
    translate,
)
from claude_sessions_cli.model import Actor, Session

STATEMENT_TIMEOUT_MS = 10_000
# limit_schema.sql gives its statements five minutes.
SCHEMA_ANSWER_TIMEOUT_S = 305.0
ATTEMPTS = 8
NOBODY = Actor()
PARAMETER = re.compile(rb"%\((\w+)\)s")
# Parameters that tell people where a session is. Nothing is found by them, so an encoding may cut them.
DECORATIONS = frozenset({"hostname", "codebase", "tty", "own", "actor_host", "machine_id"})
# A parameter that takes another value each time; see Transaction.for_each.
EACH = object()
UNIQUE_CLAIM = "idx_claude_sessions_unique_active_claim"

T = TypeVar("T")
P = ParamSpec("P")


class ClaimConflict(HeldByAnother):
    """The unique index refused a claim at each attempt: another program, which takes no locks, was faster."""


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


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a transaction may do: the query that opens it, and the commands that row security must let through.

    The commands are the letters of pg_policy.polcmd: r to read, a to add, w to write, d to delete. `durable` says that
    its COMMIT waits for the disk.
    """

    opening: str
    commands: str = ""
    writes: bool = False
    durable: bool = False


_READ = _Kind("begin", "r")
# A standby would answer from the past, and takes no transaction that may write.
_PROVE = _Kind("begin_writing", "r")
_RENEW = _Kind("begin_writing", "raw", writes=True)
_WRITE = _Kind("begin_writing", "raw", writes=True, durable=True)
_DELETE = _Kind("begin_writing", "rawd", writes=True)
# Of the schema: there may be no table yet.
_INSPECT = _Kind("begin")
_ALTER = _Kind("begin_writing", writes=True)


class Transaction:
    """One transaction, in as few messages as its judgement allows: each waits for an answer, however distant.

    The statements of a message run one after another, each with a snapshot of its own; an error skips the rest. BEGIN
    goes with the first message. What a transaction looks at goes into `send`, what it then writes into `commit`.
    """

    def __init__(self, connection: Connection, kind: _Kind, actor: Actor) -> None:
        self._connection = connection
        self._kind = kind
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
            if self._kind.writes and self._connection.closed and isinstance(lost, Unreachable):
                lost.hint = "the change may have been made: the same command again settles it"
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
        begin = Statement(self._kind.opening)
        if not self._kind.commands:
            turns = [Statement("lock_schema")] if self._kind.writes else []
            return [begin, Statement("limit_schema"), *turns]
        limits = Statement(
            "limit_transaction",
            timeout_ms=str(STATEMENT_TIMEOUT_MS),
            durable=self._kind.durable,
            actor=self._actor.session_id,
            actor_host=self._actor.hostname,
        )
        return [begin, limits, Statement("require_access", commands=list(self._kind.commands))]

    def _exchange(self, statements: Sequence[Statement]) -> list[Rows]:
        return _exchange(self._connection, [self._text(statement) for statement in statements])

    def _text(self, statement: Statement) -> bytes:
        text = queries.get(statement.query).rstrip(";").encode()
        return PARAMETER.sub(lambda found: self._literal(name := found[1].decode(), statement.parameters[name]), text)

    def _literal(self, name: str, value: object) -> bytes:
        if value is EACH:
            return b"$1"
        if name in DECORATIONS and isinstance(value, str):
            value = adapters.fit(value, self._connection)
        return sql.Literal(value).as_bytes(self._connection)


def _exchange(connection: Connection, statements: Sequence[bytes]) -> list[Rows]:
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


class Database:
    """A connection. Each operation is one short transaction, or a few, and leaves no session state."""

    def __init__(
        self, first: Connection, reopen: Callable[[float | None], Connection], place: tuple[str, str, str]
    ) -> None:
        self._reopen = reopen
        self._patience = Patience()
        self._use(first)
        self._place = place

    @property
    def name(self) -> str:
        """A name of the database for files, which tells nothing about it: a hash of its host, port and name."""
        import hashlib  # late: it loads OpenSSL

        return hashlib.sha256("\n".join(self._place).encode()).hexdigest()[:16]

    @property
    def description(self) -> str:
        """What people call the database: its name, host and port."""
        host, port, name = self._place
        return f"{name} at {host or 'the default socket'}:{port}"

    @property
    def host(self) -> str:
        """The host as libpq resolved it, or the directory of its socket."""
        return self._place[0]

    @property
    def server_version(self) -> str:
        """The version of Postgres, as the server or a pooler gave it with the connection."""
        return (self._connection.info.parameter_status("server_version") or "").partition(" ")[0]

    @property
    def backend_pid(self) -> int:
        """The server process that libpq was told of; through a pooler another one answers."""
        return self._connection.info.backend_pid

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def beside(self, seconds: float) -> Iterator[Database]:
        """Open one more connection, which awaits no answer for longer than `seconds` in all. Raises Unreachable."""
        deadline = time.monotonic() + seconds
        other = Database(self._reopen(deadline), self._reopen, self._place)
        try:
            with other.bounded(deadline):
                yield other
        finally:
            other.close()

    def reconnect(self) -> None:
        """Open a new connection after the server went away. Raises Unreachable."""
        self.close()
        self._use(self._reopen(self._patience.deadline))

    def _use(self, opened: Connection) -> None:
        self._connection = opened
        opened.patience = self._patience
        self._listening = False

    @contextmanager
    def bounded(self, deadline: float | None) -> Iterator[None]:
        """Await no answer beyond `deadline` inside the block, by the monotonic clock; the last one has a second."""
        self._patience.deadline = deadline
        try:
            yield
        finally:
            self._patience.deadline = None

    def read(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, *args)` in a READ COMMITTED transaction that writes nothing.

        Deadlocks, serialisation failures and lost races for the unique index are retried. Raises PermissionDenied
        before any statement of `work` if row security would hide rows from this role: a hidden holder would be a hidden
        conflict. Otherwise raises what `work` raises, or the database's errors in the tool's own terms.
        """
        return self._retry(_READ, NOBODY, lambda tx: work(tx, *args, **kwargs))

    def prove(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, on a server that takes writes: a standby knows only the past."""
        return self._retry(_PROVE, NOBODY, lambda tx: work(tx, *args, **kwargs))

    def renew(
        self, actor: Actor, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(tx, *args)` in a transaction that writes signs of life; the history names `actor`.

        A server crash may lose its last second, if the database has `synchronous_commit` off. Otherwise as `read`.
        """
        return self._retry(_RENEW, actor, lambda tx: work(tx, *args, **kwargs))

    def write(
        self, actor: Actor, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `renew`, in a transaction that begins or ends terms: it is on disk when this returns."""
        return self._retry(_WRITE, actor, lambda tx: work(tx, *args, **kwargs))

    def delete(
        self, actor: Actor, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `renew`, in a transaction that may also delete rows."""
        return self._retry(_DELETE, actor, lambda tx: work(tx, *args, **kwargs))

    def inspect(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, *args)`, which reads the catalog only."""
        return self._of_schema(_INSPECT, lambda tx: work(tx, *args, **kwargs))

    def alter(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, *args)`, which may create the table; such transactions run one after another."""
        return self._of_schema(_ALTER, lambda tx: work(tx, *args, **kwargs))

    def listen(self) -> None:
        """Listen for work items that become free, if the connection is direct.

        Through a pooler, LISTEN would stay on a server connection that another client gets next. A pooler is recognised
        by its backend: libpq was given another pid than the one that answers.
        """
        with _translated():
            [[row]] = _exchange(self._connection, [queries.get("compare_backend").rstrip(";").encode()])
            self._listening = row["pid"] == self.backend_pid
            if self._listening:
                _exchange(self._connection, [b"LISTEN claude_sessions"])

    def notified(self, words: Collection[str], seconds: float) -> bool:
        """Wait up to `seconds` for a notification that carries one of `words`; return whether one came."""
        if not self._listening:
            time.sleep(seconds)
            return False
        # Waiting for a notification is not waiting for an answer.
        self._connection.patience = Patience(seconds + connection.ANSWER_TIMEOUT_S)
        try:
            with _translated():
                return any(notice.payload in words for notice in self._connection.notifies(timeout=seconds))
        finally:
            self._connection.patience = self._patience

    def _of_schema(self, kind: _Kind, work: Callable[[Transaction], T]) -> T:
        self._patience.limit_s = SCHEMA_ANSWER_TIMEOUT_S
        try:
            return self._retry(kind, NOBODY, work)
        finally:
            self._patience.limit_s = None

    def _retry(self, kind: _Kind, actor: Actor, work: Callable[[Transaction], T]) -> T:
        for number in range(ATTEMPTS):
            tx = Transaction(self._connection, kind, actor)
            try:
                return _attempt(tx, self._connection, work)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
                failure: SessionsError = Unreachable(f"the database gave up on a conflict: {first_line(error)}", AGAIN)
            except psycopg.errors.UniqueViolation as error:
                if error.diag.constraint_name != UNIQUE_CLAIM:
                    raise self._constraint(tx, error) or translate(error) from error
                failure = ClaimConflict("another program claimed the work item at the same moment", AGAIN)
            except psycopg.Error as error:
                found = self._missing_table(error) or self._hidden(kind, error) or self._constraint(tx, error)
                raise found or self._statement_mode(error) or translate(error) from error
            time.sleep(random.uniform(0, 0.01 * 2**number))
        raise failure

    def _missing_table(self, error: psycopg.Error) -> SessionsError | None:
        """Return the error that names the schema of a table that is not in `public`."""
        if error.sqlstate not in MISSING:
            return None
        return table_elsewhere(**self._look_up("find_table")[0])

    def _constraint(self, tx: Transaction, error: psycopg.Error) -> SessionsError | None:
        """Return the error that says what the constraint asks for which refused a row."""
        refused = error.diag
        # A trigger can raise such an error without a table, and a domain has none.
        names = (refused.schema_name, refused.table_name, refused.constraint_name)
        if tx.expects_refusal or error.sqlstate not in CONSTRAINTS or not all(names):
            return None
        found = self._look_up(
            "find_constraint",
            schema_name=refused.schema_name,
            table_name=refused.table_name,
            constraint_name=refused.constraint_name,
        )
        return refused_by_constraint(error, **found[0]) if found else None

    def _hidden(self, kind: _Kind, error: psycopg.Error) -> SessionsError | None:
        """Return the error that names the policy which is missing or limits the role."""
        if error.sqlstate != "22P02" or HIDDEN not in first_line(error):
            return None
        return hidden_rows(**self._look_up("read_access", commands=list(kind.commands))[0])

    def _look_up(self, query: str, **parameters: Any) -> Rows:
        """Return the rows of a query of the catalog that says more about an error."""
        with _translated():
            return Transaction(self._connection, _INSPECT, NOBODY).commit(Statement(query, **parameters))[0]

    def _statement_mode(self, error: psycopg.Error) -> SessionsError | None:
        """Return PgBouncer's own error if it broke off an answer: that of BEGIN alone arrives whole."""
        if error.sqlstate or not OUT_OF_STEP.search(str(error)):
            return None
        with suppress(SessionsError), closing(self._reopen(self._patience.deadline)) as probe:
            try:
                _exchange(probe, [b"BEGIN"])
            except psycopg.Error as refusal:
                return translate(refusal) if STATEMENT_MODE in str(refusal) else None
        return None


def _attempt(tx: Transaction, connection: Connection, work: Callable[[Transaction], T]) -> T:
    try:
        result = work(tx)
        tx.end()
        return result
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: Connection) -> None:
    if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
        try:
            _exchange(connection, [b"ROLLBACK"])
        except psycopg.Error:
            connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


@contextmanager
def connect(
    dsn: str, source: str, deadline: float | None = None, note: Callable[[str], None] = lambda text: None
) -> Iterator[Database]:
    """Open the database that `dsn` names; see `connection.open_by` for the parameters and the errors."""
    first = connection.open_by(dsn, source, deadline, note)
    database = Database(first, lambda by: connection.open_once(dsn, source, by), connection.place_of(first, dsn))
    try:
        yield database
    finally:
        database.close()
