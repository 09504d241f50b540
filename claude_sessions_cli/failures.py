"""Database errors in the tool's own terms, by SQLSTATE."""

from __future__ import annotations

import re
import shlex

import psycopg

from claude_sessions_cli.adapters import SEE_WHAT_DIFFERS
from claude_sessions_cli.errors import (
    AGAIN,
    SEE_TRIGGERS,
    PermissionDenied,
    SchemaMismatch,
    SessionsError,
    Unreachable,
)
from claude_sessions_cli.model import Session
from claude_sessions_cli.text import quote_name

# What our own statements raise, by a cast that fails: require_access, require_history, take_claim and written_row.
HIDDEN = "claude_sessions: rows are hidden from "
NO_HISTORY = "claude_sessions: no history"
NO_FENCE = re.compile(r"claude_sessions: no fence is left after (.*)\"")
# As in change_each.sql: the classes of errors that no row causes, and the expired wait for a lock.
OF_THE_SERVER = ("08", "25", "40", "53", "57", "58", "55P03")
TABLE = "public.claude_sessions"
# Of a table or a schema that does not exist.
MISSING = ("42P01", "3F000")
SEE_WHAT_MENDS = (
    "schema apply adds no column to a table that is there; the statement that does: claude-sessions schema check"
)
CREATE = "create it: claude-sessions schema apply"
DIAGNOSE = "see what is wrong: claude-sessions doctor"
# A server or pooler that is full or starting says so before it sends SQLSTATEs to libpq: the text alone is kept.
FULL = re.compile("too many (clients|connections)|connection slots|no more connections|starting up|shutting down")
# PgBouncer's answer to BEGIN, without an SQLSTATE of its own.
STATEMENT_MODE = "statement pooling"
# What libpq says if that answer comes in the middle of another.
OUT_OF_STEP = re.compile(
    "lost synchronization|do not agree with length|without prior row description|unexpected (mess|resp)"
)
# How psycopg introduces an attempt: one of several hosts, or of several addresses of a host.
ATTEMPT = re.compile(r"^- host: .*, port: .*, hostaddr: (?:None|'.*?'): ", re.MULTILINE)
PREFIX = re.compile("connection (?:failed|is bad): ")
# The lines of one attempt may be of several connections: with SSL, and without.
CONNECTION = "connection to server "
NOT_ADMITTED = "no pg_hba.conf entry"
# If the network says so late, psycopg has libpq take the connection for one that was closed.
NO_IPV6 = re.compile(
    r'connection to server at .*?["(][0-9a-fA-F]*:[0-9a-fA-F:.]*[")], port .* failed: (?:Network is unreachable'
    "|No route to host|Cannot assign requested address|Address family not supported|server closed the connection)"
)

# What libpq says of a server of another protocol, such as HTTP: with SSL, and without.
OTHER_PROTOCOL = "invalid response to (SSL|GSSAPI) negotiation|expected authentication request"

# What is wrong with a connection, in libpq's or the server's words, and the next step; the first that fits.
CONNECTING = (
    (FULL, AGAIN),
    ("password authentication failed", "correct the user, or the password in ~/.pgpass or the DSN"),
    ("no password supplied", "write the password into ~/.pgpass"),
    (f"{NOT_ADMITTED}|authentication failed", "ask an administrator to admit this user and host in pg_hba.conf"),
    ('database "?.*"? does not exist', "create that database, or correct its name in the DSN"),
    ('role "?.*"? does not exist', "create that role, or correct the user in the DSN"),
    ("translate host name|resolve host|Name or service", "correct the host in the DSN"),
    (
        "[Cc]onnection refused|No such file|No route|unreachable",
        "start the server, or correct host and port in the DSN",
    ),
    ("timeout|timed out", "correct host and port in the DSN, or look at the network; then try again"),
    ("service file|definition of service", "correct the service in the DSN or PGSERVICE"),
    (OTHER_PROTOCOL, "what answers there is not Postgres: correct host and port in the DSN"),
    ("SSL|sslmode|certificate", "correct sslmode, sslrootcert or sslcert in the DSN"),
    ("", DIAGNOSE),
)


class NoAnswerError(psycopg.OperationalError):
    """The server, a pooler or the network fell silent after the connection."""


class WaitedInVain(Unreachable):
    """The server ended a statement that took too long: it waited for a lock, or worked."""


def translate(error: psycopg.Error) -> SessionsError:
    """Return the tool's error for a database error, by its SQLSTATE."""
    state, text = error.sqlstate or "", first_line(error)
    if isinstance(error, NoAnswerError):
        return Unreachable(f"the database fell silent: {text}", f"{AGAIN}; {DIAGNOSE}")
    if state == "22P02" and "claude_sessions: " in text:
        return _own_refusal(text)
    if state in MISSING:
        return SchemaMismatch(f"the table is missing: {text}", CREATE)
    if state in ("22P02", "428C9", "42703", "42704", "42804", "42809", "42846", "42883", "42P10"):
        return SchemaMismatch(
            f"the table differs from the shipped one: {text}", SEE_WHAT_MENDS if state == "42703" else SEE_WHAT_DIFFERS
        )
    if state == "23502" and error.diag.column_name:
        return _no_value(f"{error.diag.schema_name}.{error.diag.table_name}", error.diag.column_name)
    if state == "25006" or _is_standby(error):  # a fail-over may make it the primary
        return Unreachable(f"the server takes no writes: {text}", "name the primary in the DSN", passing=True)
    if state == "42501":
        return PermissionDenied(f"the database does not allow it: {text}", error.diag.message_hint or grant("ROLE"))
    # A trigger may raise any code. Its error has a context; an unknown code without one does not come from Postgres.
    if state.startswith(("P0", "09")) or (error.diag.context and (state == "0A000" or not _is_known(state))):
        return PermissionDenied(f"a trigger of the table refused it: {text}", error.diag.message_hint or SEE_TRIGGERS)
    if state in ("57014", "55P03"):
        return WaitedInVain(f"the database did not answer in time: {text}", f"{AGAIN}; {DIAGNOSE}")
    if state in ("25P03", "25P04"):
        return Unreachable(f"the database did not answer in time: {text}", f"{AGAIN}; {DIAGNOSE}")
    if STATEMENT_MODE in text:
        return Unreachable(
            f"PgBouncer is in statement mode, which takes no transactions: {text}",
            "set pool_mode = transaction in pgbouncer.ini, or name another port in the DSN",
        )
    if state.startswith(("08", "57P", "53")) or not state:
        return Unreachable(f"the database went away: {text}", f"{AGAIN}; {DIAGNOSE}", passing=state == "53300")
    if state.startswith("23") or state in ("22001", "22P05"):  # too long for the column, not in the encoding
        return SchemaMismatch(f"the database rejects the change: {text}", error.diag.message_hint or SEE_WHAT_DIFFERS)
    if not _is_known(state):
        message = f"the database gave an answer that Postgres does not give: {text} (SQLSTATE {state})"
        return Unreachable(message, f"name a Postgres in the DSN; {DIAGNOSE}")
    return SessionsError(f"the database failed: {text} (SQLSTATE {state})", DIAGNOSE)


def _no_value(table: str, column: str) -> SchemaMismatch:
    alter = f"ALTER TABLE {table} ALTER COLUMN {quote_name(column)}"
    mend = f"{alter} DROP NOT NULL" if column in Session.__dataclass_fields__ else f"{alter} SET DEFAULT 'value'"
    return SchemaMismatch(
        f"the column {column} of {table} must have a value, and this command has none for it",
        f"as its owner: {mend}; {SEE_WHAT_DIFFERS}",
    )


def may_concern_one_row(error: SessionsError) -> bool:
    """Whether the database failed a statement for one of its rows, so that it may change the others.

    Otherwise the connection, the server's state, a lock or a conflict with another transaction is the cause.
    """
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error) or not cause.sqlstate or cause.sqlstate.startswith(OF_THE_SERVER):
        return False
    if _is_standby(cause):
        return False
    return _is_known(cause.sqlstate) or bool(cause.diag.context)


def _is_standby(error: psycopg.Error) -> bool:
    """Whether a server in recovery refused a transaction that writes; a trigger that raises the same has a context."""
    return error.sqlstate == "0A000" and not error.diag.context


def _own_refusal(text: str) -> SessionsError:
    if NO_HISTORY in text:
        return SchemaMismatch(
            "this table has no history, or this role may not read it", "add it: claude-sessions schema apply"
        )
    if spent := NO_FENCE.search(text):
        return SchemaMismatch(
            f"no fence is left for this work item: a term that another program recorded has {spent[1]}",
            "delete that term from claude_session_events, or from the tombstones that name it, as the table's owner;"
            " find it: claude-sessions history SD",
        )
    return trigger_refused()


def grant(role: str) -> str:
    """Return the hint that gives a role what it needs."""
    return f"an administrator must run: claude-sessions schema apply --grant {shlex.quote(role)}"


def trigger_refused() -> PermissionDenied:
    """Return the error of a write that a trigger of another program dropped."""
    return PermissionDenied("a trigger of the table refused the change, and nothing was changed", SEE_TRIGGERS)


def _is_known(state: str) -> bool:
    try:
        psycopg.errors.lookup(state)
    except KeyError:
        return False
    return True


def first_line(error: psycopg.Error) -> str:
    """Return the first line of an error's message that says something."""
    lines = _lines(error.diag.message_primary or str(error))
    return lines[0] if lines else type(error).__name__


def no_connection(error: psycopg.Error, source: str, password: object = None) -> Unreachable:
    """Return the tool's error for a connection that could not be opened, without the password.

    It names the first failure that a server answered, or else that of each host.
    """
    attempts = [_failure_of(text) for text in _attempts(str(error))]
    answered = [line for line in attempts if "FATAL:" in line]
    text = "; ".join(dict.fromkeys(answered or attempts))
    if password:
        text = text.replace(str(password), "***")
    hint = next(hint for pattern, hint in CONNECTING if re.search(pattern, text))
    if all(map(NO_IPV6.match, attempts)):
        hint = "it has IPv6 addresses only: if this machine has no IPv6, name the provider's pooler in the DSN"
    message = f"cannot connect to the database from {source}: {text}"
    return Unreachable(message, hint, passing=FULL.search(text) is not None)


def _attempts(text: str) -> list[str]:
    """Return the message of each attempt to connect."""
    return ATTEMPT.split(text)[1:] or [text]


def _failure_of(attempt: str) -> str:
    """Return the line that says why an attempt failed.

    A wrong password is what matters if the next connection, without SSL, was not admitted at all.
    """
    lines = [PREFIX.sub("", line, count=1) for line in _lines(attempt)] or ["no reason given"]
    failures = [line for line in lines if line.startswith(CONNECTION)] or lines
    return next((line for line in failures if NOT_ADMITTED not in line), failures[0])


def _lines(text: str) -> list[str]:
    # libpq indents its advice below the error.
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\t")]
