"""The database that an operation works on: the kinds of transactions, what is tried again, and notifications."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from claude_sessions_cli import connection, queries
from claude_sessions_cli.connection import Connection, Patience
from claude_sessions_cli.diagnosis import diagnose
from claude_sessions_cli.errors import AGAIN, HeldByAnother, SessionsError, Unreachable
from claude_sessions_cli.failures import OUT_OF_STEP, STATEMENT_MODE, first_line, translate
from claude_sessions_cli.model import Actor
from claude_sessions_cli.transaction import Kind, Rows, Statement, Transaction, exchange

# limit_schema.sql gives its statements five minutes.
SCHEMA_ANSWER_TIMEOUT_S = 305.0
ATTEMPTS = 8
NOBODY = Actor()
UNIQUE_CLAIM = "idx_claude_sessions_unique_active_claim"

T = TypeVar("T")
P = ParamSpec("P")


class ClaimConflict(HeldByAnother):
    """The unique index refused a claim at each attempt: another program, which takes no locks, was faster."""


_READ = Kind("begin", "r")
# A standby would answer from the past, and takes no transaction that may write.
_PROVE = Kind("begin_writing", "r")
_RENEW = Kind("begin_writing", "raw", writes=True)
_WRITE = Kind("begin_writing", "raw", writes=True, durable=True)
_DELETE = Kind("begin_writing", "rawd", writes=True)
# Of the schema: there may be no table yet.
_INSPECT = Kind("begin")
_ALTER = Kind("begin_writing", writes=True)


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
            [[row]] = exchange(self._connection, [queries.get("compare_backend").rstrip(";").encode()])
            self._listening = row["pid"] == self.backend_pid
            if self._listening:
                exchange(self._connection, [b"LISTEN claude_sessions"])

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

    def _of_schema(self, kind: Kind, work: Callable[[Transaction], T]) -> T:
        self._patience.limit_s = SCHEMA_ANSWER_TIMEOUT_S
        try:
            return self._retry(kind, NOBODY, work)
        finally:
            self._patience.limit_s = None

    def _retry(self, kind: Kind, actor: Actor, work: Callable[[Transaction], T]) -> T:
        for number in range(ATTEMPTS):
            tx = Transaction(self._connection, kind, actor)
            try:
                return _attempt(tx, self._connection, work)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
                failure: SessionsError = Unreachable(f"the database gave up on a conflict: {first_line(error)}", AGAIN)
            except psycopg.errors.UniqueViolation as error:
                if error.diag.constraint_name != UNIQUE_CLAIM:
                    raise diagnose(error, tx, self._look_up) from error
                failure = ClaimConflict("another program claimed the work item at the same moment", AGAIN)
            except psycopg.Error as error:
                raise self._statement_mode(error) or diagnose(error, tx, self._look_up) from error
            time.sleep(random.uniform(0, 0.01 * 2**number))
        raise failure

    def _look_up(self, statement: Statement) -> Rows:
        with _translated():
            return Transaction(self._connection, _INSPECT, NOBODY).commit(statement)[0]

    def _statement_mode(self, error: psycopg.Error) -> SessionsError | None:
        """Return PgBouncer's own error if it broke off an answer: that of BEGIN alone arrives whole."""
        if error.sqlstate or not OUT_OF_STEP.search(str(error)):
            return None
        with suppress(SessionsError), closing(self._reopen(self._patience.deadline)) as probe:
            try:
                exchange(probe, [b"BEGIN"])
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
            exchange(connection, [b"ROLLBACK"])
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
