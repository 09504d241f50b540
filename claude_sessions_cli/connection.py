"""A connection: what a DSN means to libpq, how it is opened, and how long an answer is awaited."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import dict_row

from claude_sessions_cli import adapters, failures
from claude_sessions_cli.errors import Unreachable, UsageError
from claude_sessions_cli.failures import NoAnswerError

CONNECT_TIMEOUT_S = 5
# How long an answer is awaited: the server's own time-outs come first, unless the server, a pooler or the network is
# silent.
ANSWER_TIMEOUT_S = 15.0
# The least that the last answer before a deadline gets: a distant server is not a silent one.
LAST_ANSWER_S = 1.0
# libpq's, for connections that wait for a notification. Unix sockets ignore them.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
# Seconds between two attempts to connect to a server that is full.
RETRY_S = (0.5, 1.5)
EXAMPLE = "postgresql://user@host/database"
# Of a malformed DSN: as a shell's file, another driver or a person writes it.
QUOTED = re.compile(r"\s*[\"'`].*[\"'`]\s*", re.DOTALL)
ASSIGNED = re.compile(r"\s*(?:export\s+)?([A-Z][A-Z0-9_]{0,40})=")
SCHEME = re.compile(r"\s*(jdbc:[a-z]{1,30}|[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://))")
UNKNOWN_PARAMETER = re.compile('invalid (?:URI query parameter|connection option):? "([A-Za-z_][A-Za-z0-9_]{0,40})"')

T = TypeVar("T")
Row = dict[str, Any]


@dataclass
class Patience:
    """How long an answer is awaited: `limit_s` seconds, less if the whole command has a `deadline`."""

    limit_s: float | None = None
    deadline: float | None = None

    def seconds(self) -> float:
        """Return the seconds left for an answer."""
        limit = ANSWER_TIMEOUT_S if self.limit_s is None else self.limit_s
        if self.deadline is None:
            return limit
        return min(limit, max(LAST_ANSWER_S, self.deadline - time.monotonic()))


class Connection(psycopg.Connection[Row]):
    """A connection that awaits no answer longer than its patience allows, and is closed after that."""

    patience: Patience = Patience()

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Run one of psycopg's generators until it returns. Raises NoAnswerError if that takes too long."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        seconds = self.patience.seconds()
        deadline = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                # psycopg resumes a generator several times a second, with or without data. Data alone are no answer:
                # notices may come without an end.
                ready = yield wanted
                if time.monotonic() > deadline:
                    # Not rolled back: that would wait for the same server.
                    self.close()
                    raise NoAnswerError(f"no answer for {seconds:.2g} s")
                wanted = gen.send(ready)
        except StopIteration as stop:
            value: T = stop.value
            return value


def open_by(
    dsn: str, source: str, deadline: float | None = None, note: Callable[[str], None] = lambda text: None
) -> Connection:
    """As `open_once`; try a server that is full or starting again until the `deadline`, and tell `note` once."""
    is_noted = False
    while True:
        try:
            return open_once(dsn, source, deadline)
        except Unreachable as error:
            pause = random.uniform(*RETRY_S)
            if deadline is None or not error.passing or time.monotonic() + pause >= deadline:
                raise
            if not is_noted:
                note(f"{error.message}; waiting")
            is_noted = True
        time.sleep(pause)


def open_once(dsn: str, source: str, deadline: float | None = None) -> Connection:
    """Connect to the database that `dsn` names, by the `deadline` of the monotonic clock.

    Errors name the DSN's `source`, such as `--dsn`. libpq reads service files, password files and its environment
    itself. Raises UsageError if the DSN is malformed, Unreachable if the server does not answer in time.
    """
    given = parse_dsn(dsn, source)
    parameters = {**given, **_defaults(given)}
    if deadline is not None:
        left = max(1, round(deadline - time.monotonic()))
        parameters["connect_timeout"] = min(_connect_timeout(parameters), left)
    try:
        connection = _open(parameters)
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Such a database stores any bytes, and refuses to send others than UTF-8 as UTF-8. The encoding is a
            # parameter of the connection: set afterwards, it would stay in a pool.
            connection.close()
            connection = _open({**parameters, "client_encoding": "SQL_ASCII"})
            adapters.accept_any_text(connection)
    except psycopg.Error as error:
        raise failures.no_connection(error, source, parameters.get("password")) from None
    adapters.register(connection)
    return connection


def parse_dsn(dsn: str, source: str) -> dict[str, Any]:
    """Return libpq's parameters in a DSN. Raises UsageError, without quoting it, if the DSN is malformed."""
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(dsn)
        # libpq would read a text only as far as a NUL.
        if "\0" in dsn or ("://" in dsn and _is_misread(parameters)):
            raise psycopg.ProgrammingError
    except (psycopg.Error, UnicodeError) as error:
        # libpq's own message would quote the text, password and all.
        reason, hint = _misreading(dsn, str(error))
        raise UsageError(f"the DSN from {source} cannot be read{reason}", hint) from None
    return parameters


def _misreading(dsn: str, message: str) -> tuple[str, str]:
    """Return why libpq does not read a DSN, and the remedy; of the DSN only words that cannot be of a password."""
    if QUOTED.match(dsn):
        return ": it is in quotes", "remove the quotes: the file or program that supplied the DSN left them in"
    if assigned := ASSIGNED.match(dsn):
        return f": it begins with {assigned[1]}=", f"give the value of {assigned[1]} alone"
    scheme = SCHEME.match(dsn)
    if scheme and scheme[1] not in ("postgresql", "postgres"):
        return f": libpq does not know the scheme {scheme[1]}:", f"write it like {EXAMPLE}"
    unknown = UNKNOWN_PARAMETER.search(message)
    if unknown and _is_outside_password(dsn, unknown[1]):
        return f": libpq does not know the parameter {unknown[1]}", "remove it: it belongs to another program"
    return "", (
        f"a DSN is like {EXAMPLE} or host=... dbname=...; in the first form @ : / ? # in a password are written"
        " %40 %3A %2F %3F %23"
    )


def _is_outside_password(dsn: str, parameter: str) -> bool:
    """Whether a word that libpq reads as a parameter's name cannot be the rest of a password."""
    given = re.search(rf"(?<!\w){re.escape(parameter)}\s*=", dsn)
    if given is None:
        return False
    before, after = dsn[: given.start()], dsn[given.end() :]
    if "://" in dsn:
        # A password with a question mark ends at a later @.
        before, after = before.partition("?")[2], after + before.partition("?")[2]
        if "@" in after:
            return False
    return "pass" not in before


def place_of(opened: psycopg.Connection[Any], dsn: str) -> tuple[str, str, str]:
    """Return host, port and database of a connection as libpq resolved them: from the DSN, a service, the environment.

    Of several hosts, all: the list names the same database after a fail-over. psycopg tries one after another, so that
    libpq sees only the one that answered.
    """
    found = {option.keyword.decode(): (option.val or b"").decode(errors="replace") for option in opened.pgconn.info}
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    several = {
        name: str(value)
        for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"), ("port", "PGPORT"))
        if "," in str(value := given.get(name) or os.environ.get(variable) or "")
    }
    found |= several
    return found["host"] or found["hostaddr"], found["port"], found["dbname"]


def driver_versions() -> tuple[str, str]:
    """Return the versions of psycopg, with its implementation, and of libpq."""
    libpq = psycopg.pq.version()
    return f"{psycopg.__version__} ({psycopg.pq.__impl__})", f"{libpq // 10_000}.{libpq % 10_000}"


def connection_variables() -> dict[str, str]:
    """Return the environment variables that libpq reads, each with the parameter that it stands for."""
    options = psycopg.pq.Conninfo.get_defaults()
    return {option.envvar.decode(): option.keyword.decode() for option in options if option.envvar}


def _connect_timeout(parameters: Mapping[str, Any]) -> int:
    given = str(parameters.get("connect_timeout", ""))
    # Zero waits for ever.
    return int(given) if given.isdecimal() and int(given) else CONNECT_TIMEOUT_S


def _open(parameters: Mapping[str, Any]) -> Connection:
    conninfo = psycopg.conninfo.make_conninfo("", **parameters)
    return Connection.connect(conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None)


def _is_misread(parameters: Mapping[str, Any]) -> bool:
    """Whether a part of a URL's password was parsed as another parameter, which errors would quote."""
    ports = str(parameters.get("port", "")).split(",")
    return any("@" in str(parameters.get(name, "")) for name in ("host", "dbname")) or not all(
        port.isdecimal() or not port for port in ports
    )


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    # fallback_ keeps a name that the user set in the DSN or in PGAPPNAME.
    defaults: dict[str, Any] = {"fallback_application_name": "claude-sessions", "client_encoding": "UTF8"}
    # Where there is a Kerberos ticket, libpq asks for its encryption first: a round trip that most servers refuse.
    if "gssencmode" not in given and not os.environ.get("PGGSSENCMODE") and not _uses_service(given):
        defaults["gssencmode"] = "disable"
    if "connect_timeout" not in given and not os.environ.get("PGCONNECT_TIMEOUT"):
        defaults["connect_timeout"] = CONNECT_TIMEOUT_S
    if not _uses_service(given):
        defaults |= {name: value for name, value in KEEPALIVES.items() if name not in given}
    return defaults


def _uses_service(given: Mapping[str, Any]) -> bool:
    """Whether a service file may set parameters, whose values ours would replace."""
    return "service" in given or bool(os.environ.get("PGSERVICE"))
