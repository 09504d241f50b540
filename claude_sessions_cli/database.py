"""The connection to Postgres, and transactions on it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import dict_row

from claude_sessions_cli import adapters, queries
from claude_sessions_cli.adapters import SEE_WHAT_DIFFERS
from claude_sessions_cli.errors import PermissionDenied, SchemaMismatch, SessionsError, Unreachable, UsageError
from claude_sessions_cli.model import Actor, Session

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 10_000
# How long an answer is awaited: the server's own time-outs come first, unless the server, a pooler or the network is
# silent. begin_schema.sql gives its statements five minutes.
ANSWER_TIMEOUT_S = 15.0
SCHEMA_ANSWER_TIMEOUT_S = 305.0
# libpq's, for connections that wait for a notification. Unix sockets ignore them.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
ATTEMPTS = 8
NOBODY = Actor()
UNIQUE_CLAIM = "idx_claude_sessions_unique_active_claim"

T = TypeVar("T")
P = ParamSpec("P")
Row = dict[str, Any]


class ClaimConflict(SessionsError):
    """The unique index refused a claim at each attempt: another program, which takes no locks, was faster."""


class _NoAnswerError(psycopg.OperationalError):
    """The server, a pooler or the network fell silent after the connection."""


class _Connection(psycopg.Connection[Row]):
    """A connection that awaits no answer longer than `answer_timeout` seconds, and is closed after that."""

    answer_timeout: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Run one of psycopg's generators until it returns. Raises _NoAnswerError if that takes too long."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        timeout = ANSWER_TIMEOUT_S if self.answer_timeout is None else self.answer_timeout
        deadline = time.monotonic() + timeout
        try:
            wanted = next(gen)
            while True:
                # psycopg resumes a generator several times a second, with or without data.
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    # Not rolled back: that would wait for the same server.
                    self.close()
                    raise _NoAnswerError(f"no answer for {timeout:g} s")
                wanted = gen.send(ready)
        except StopIteration as stop:
            value: T = stop.value
            return value


class Transaction:
    """One open transaction; statements are named by their query files."""

    def __init__(self, connection: psycopg.Connection[Row], has_history: bool = False) -> None:
        self._connection = connection
        self.has_history = has_history

    def all(self, query: str, **parameters: Any) -> list[Row]:
        """Run a query and return its rows."""
        return self._connection.execute(queries.get(query), parameters).fetchall()

    def one(self, query: str, **parameters: Any) -> Row | None:
        """Run a query and return its first row."""
        return self._connection.execute(queries.get(query), parameters).fetchone()

    def session(self, query: str, **parameters: Any) -> Session | None:
        """Run a query whose rows are sessions and return the first."""
        row = self.one(query, **parameters)
        return Session(**row) if row else None

    def sessions(self, query: str, **parameters: Any) -> list[Session]:
        """Run a query whose rows are sessions and return them."""
        return [Session(**row) for row in self.all(query, **parameters)]

    def run(self, query: str, **parameters: Any) -> int:
        """Run a statement and return how many rows it touched."""
        return self._connection.execute(queries.get(query), parameters).rowcount

    def script(self, text: str, **parameters: Any) -> None:
        """Run several statements in one round trip."""
        psycopg.ClientCursor(self._connection).execute(text, parameters or None)


class Database:
    """A connection. Each operation is one short transaction and leaves no session state."""

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self._connect = connect
        self._connection = connect()
        self._listening = False

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def reconnect(self) -> None:
        """Open a new connection after the server went away. Raises Unreachable."""
        self.close()
        self._connection = self._connect()
        self._listening = False

    def read(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, *args)` in a READ COMMITTED transaction that writes nothing.

        Deadlocks, serialisation failures and lost races for the unique index are retried. Raises PermissionDenied
        before `work` starts if row security would hide rows from this role: a hidden holder would be a hidden conflict.
        Otherwise raises what `work` raises, or the database's errors in the tool's own terms.
        """
        return self._retry(lambda: work(self._begin(NOBODY), *args, **kwargs))

    def write(
        self, actor: Actor, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(tx, *args)` in a transaction that writes rows; the history names `actor`. Otherwise as `read`."""
        return self._retry(lambda: work(self._begin(actor, "may_write"), *args, **kwargs), writes=True)

    def delete(
        self, actor: Actor, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(tx, *args)` in a transaction that writes and deletes rows. Otherwise as `write`."""
        return self._retry(lambda: work(self._begin(actor, "may_write", "may_delete"), *args, **kwargs), writes=True)

    def alter(self, work: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, *args)`, which may create the table; such transactions run one after another."""
        self._connection.answer_timeout = SCHEMA_ANSWER_TIMEOUT_S
        try:
            return self._retry(lambda: work(self._begin_schema(), *args, **kwargs), writes=True)
        finally:
            self._connection.answer_timeout = None

    def listen(self) -> None:
        """Listen for work items that become free, if the connection is direct.

        Through a pooler, LISTEN would stay on a server connection that another client gets next. A pooler is recognised
        by its backend: libpq was given another pid than the one that answers.
        """
        with self._translated():
            row = self._connection.execute(queries.get("compare_backend")).fetchone()
            self._listening = row is not None and row["pid"] == self._connection.info.backend_pid
            if self._listening:
                self._connection.execute("LISTEN claude_sessions")

    def notified(self, words: Collection[str], seconds: float) -> bool:
        """Wait up to `seconds` for a notification that carries one of `words`; return whether one came."""
        if not self._listening:
            time.sleep(seconds)
            return False
        # Waiting for a notification is not waiting for an answer.
        self._connection.answer_timeout = seconds + ANSWER_TIMEOUT_S
        try:
            with self._translated():
                return any(notice.payload in words for notice in self._connection.notifies(timeout=seconds))
        finally:
            self._connection.answer_timeout = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translate(error) from error

    def _retry(self, attempt: Callable[[], T], *, writes: bool = False) -> T:
        for number in range(ATTEMPTS):
            try:
                return self._attempt(attempt, writes)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
                failure: SessionsError = Unreachable(f"the database gave up on a conflict: {_first_line(error)}")
            except psycopg.errors.UniqueViolation as error:
                if error.diag.constraint_name != UNIQUE_CLAIM:
                    raise translate(error) from error
                failure = ClaimConflict("another program claimed the work item at the same moment")
            except psycopg.Error as error:
                raise translate(error) from error
            time.sleep(random.uniform(0, 0.01 * 2**number))
        raise failure

    def _attempt(self, work: Callable[[], T], writes: bool) -> T:
        try:
            result = work()
            self._commit(writes)
            return result
        except BaseException:
            self._roll_back()
            raise

    def _commit(self, writes: bool) -> None:
        try:
            self._connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            lost = translate(error)
            if writes and isinstance(lost, Unreachable):
                lost.hint = "the change may have been made: the same command again settles it"
            raise lost from error

    def _begin_schema(self) -> Transaction:
        self._send("begin_schema")
        return Transaction(self._connection)

    def _begin(self, actor: Actor, *needs: str) -> Transaction:
        access = self._send("begin", timeout_ms=STATEMENT_TIMEOUT_MS, actor=actor.session_id, actor_host=actor.hostname)
        if not all(access[need] for need in ("may_read", *needs)):
            raise PermissionDenied(
                f"row security hides rows of claude_sessions from the role {access['role']}",
                f"an administrator must run: claude-sessions schema apply --grant {access['role']}",
            )
        return Transaction(self._connection, access["has_history"])

    def _send(self, query: str, **parameters: Any) -> Row:
        # Several statements fit one round trip only if the client binds the parameters.
        cursor = psycopg.ClientCursor(self._connection, row_factory=dict_row)
        cursor.execute(queries.get(query), parameters or None)
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        return row

    def _roll_back(self) -> None:
        if not self._connection.closed:
            try:
                self._connection.execute("ROLLBACK")
            except psycopg.Error:
                self._connection.close()


@contextmanager
def connect(dsn: str, source: str) -> Iterator[Database]:
    """Open the database that `dsn` names; errors name its `source`, such as `--dsn`.

    libpq reads service files, password files and its environment itself. Raises UsageError if the DSN is malformed,
    Unreachable if the server does not answer in time.
    """
    parameters = parse_dsn(dsn, source)
    given = {**parameters, **_defaults(parameters)}
    database = Database(lambda: _connect(given, source))
    try:
        yield database
    finally:
        database.close()


def parse_dsn(dsn: str, source: str) -> dict[str, Any]:
    """Return libpq's parameters in a DSN. Raises UsageError, without quoting it, if the DSN is malformed."""
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(dsn)
        # libpq would read a text only as far as a NUL.
        if "\0" in dsn or ("://" in dsn and _is_misread(parameters)):
            raise psycopg.ProgrammingError
    except (psycopg.Error, UnicodeError):
        # libpq's own message would quote the text, password and all.
        raise UsageError(
            f"the DSN from {source} cannot be read",
            "a DSN is like postgresql://user@host/database or host=... dbname=...; in the first form @ : / ? # in"
            " a password are written %40 %3A %2F %3F %23",
        ) from None
    return parameters


def connection_variables() -> dict[str, str]:
    """Return the environment variables that libpq reads, each with the parameter that it stands for."""
    options = psycopg.pq.Conninfo.get_defaults()
    return {option.envvar.decode(): option.keyword.decode() for option in options if option.envvar}


def _connect(parameters: Mapping[str, Any], source: str) -> _Connection:
    try:
        connection = _open(parameters)
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Such a database stores any bytes, and refuses to send others than UTF-8 as UTF-8. The encoding is a
            # parameter of the connection: set afterwards, it would stay in a pool.
            connection.close()
            connection = _open({**parameters, "client_encoding": "SQL_ASCII"})
            adapters.accept_any_text(connection)
    except psycopg.Error as error:
        raise Unreachable(
            f"cannot connect to the database from {source}: {_first_line(error, parameters.get('password'))}"
        ) from None
    adapters.register(connection)
    return connection


def _open(parameters: Mapping[str, Any]) -> _Connection:
    conninfo = psycopg.conninfo.make_conninfo("", **parameters)
    return _Connection.connect(conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None)


def _is_misread(parameters: Mapping[str, Any]) -> bool:
    """Whether a part of a URL's password was parsed as another parameter, which errors would quote."""
    ports = str(parameters.get("port", "")).split(",")
    return any("@" in str(parameters.get(name, "")) for name in ("host", "dbname")) or not all(
        port.isdecimal() or not port for port in ports
    )


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    import os

    # fallback_ keeps a name that the user set in the DSN or in PGAPPNAME.
    defaults: dict[str, Any] = {"fallback_application_name": "claude-sessions", "client_encoding": "UTF8"}
    if "connect_timeout" not in given and not os.environ.get("PGCONNECT_TIMEOUT"):
        defaults["connect_timeout"] = CONNECT_TIMEOUT_S
    if "service" not in given and not os.environ.get("PGSERVICE"):
        # A service file may set them, and parameters here would replace its values.
        defaults |= {name: value for name, value in KEEPALIVES.items() if name not in given}
    return defaults


def translate(error: psycopg.Error) -> SessionsError:
    """Return the tool's error for a database error, by its SQLSTATE."""
    state, text = error.sqlstate or "", _first_line(error)
    if isinstance(error, _NoAnswerError):
        return Unreachable(f"the database fell silent: {text}")
    if state in ("42P01", "3F000"):
        return SchemaMismatch(f"the table is missing: {text}", "create it: claude-sessions schema apply")
    if state in ("42703", "42704", "42883", "42P10", "42804", "42809"):
        return SchemaMismatch(f"the table differs from the shipped one: {text}", SEE_WHAT_DIFFERS)
    if state in ("42501", "25006"):
        return PermissionDenied(f"the database does not allow it: {text}", error.diag.message_hint)
    if state in ("57014", "55P03", "25P03", "25P04"):
        return Unreachable(f"the database did not answer in time: {text}")
    if state.startswith(("08", "57P", "53")) or not state:
        return Unreachable(f"the database went away: {text}")
    if state.startswith("23") or state in ("22001", "22P05"):  # too long for the column, not in the encoding
        return SchemaMismatch(f"the database refuses it: {text}", error.diag.message_hint or SEE_WHAT_DIFFERS)
    return SessionsError(f"the database failed: {text} (SQLSTATE {state})")


def _first_line(error: psycopg.Error, password: Any = None) -> str:
    text = error.diag.message_primary or str(error)
    # libpq indents its advice below the error.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    # If libpq tried several hosts, the last line is the last host's answer.
    line = (lines[0] if error.diag.message_primary else lines[-1]) if lines else type(error).__name__
    return line.replace(str(password), "***") if password else line
