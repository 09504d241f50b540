"""What is told of a connection that could not be opened, from the messages of libpq and psycopg."""

from __future__ import annotations

import psycopg
import pytest

from claude_sessions_cli.failures import no_connection

AT = 'connection to server at "{}", port 5432 failed: '
WRONG_PASSWORD = AT.format("127.0.0.1") + 'FATAL:  password authentication failed for user "me"'
NOT_ADMITTED = AT.format("127.0.0.1") + 'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "me", database "x", {}'
REFUSED = AT.format("127.0.0.1") + "Connection refused\n\tIs the server running on that host and accepting connections?"
STARTING = AT.format("::1") + "FATAL:  the database system is starting up"
NO_ROUTE = "Network is unreachable\n\tIs the server running on that host and accepting TCP/IP connections?"
NO_ROOT = AT.format("10.0.0.1") + 'root certificate file "/home/me/.postgresql/root.crt" does not exist'
ADVICE = (
    "Either provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable."
)
POOLER = "pooler"
PASSWORD, START, DOCTOR = "correct the user, or the password", "start the server", "claude-sessions doctor"


def _several(*attempts: str) -> str:
    """Return psycopg's message of several attempts."""
    lines = "".join(
        f"\n- host: 'h{number}', port: '5432', hostaddr: {'None' if number else repr('10.0.0.1')}: {attempt}"
        for number, attempt in enumerate(attempts)
    )
    return f"{attempts[-1]}\nMultiple connection attempts failed. All failures were:{lines}"


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        (f"connection failed: {WRONG_PASSWORD}", WRONG_PASSWORD, PASSWORD),
        (
            f"connection failed: {WRONG_PASSWORD}\n{NOT_ADMITTED.format('no encryption')}",
            WRONG_PASSWORD,
            PASSWORD,
        ),
        (
            f"connection failed: {NOT_ADMITTED.format('SSL encryption')}\n{WRONG_PASSWORD}",
            WRONG_PASSWORD,
            PASSWORD,
        ),
        (
            f"connection failed: {NOT_ADMITTED.format('SSL encryption')}\n{NOT_ADMITTED.format('no encryption')}",
            NOT_ADMITTED.format("SSL encryption"),
            "pg_hba.conf",
        ),
        (f"connection failed: {NO_ROOT}\n{ADVICE}", NO_ROOT, "sslrootcert"),
        (f"connection failed: {REFUSED}", REFUSED.splitlines()[0], START),
        (
            _several(f"connection failed: {REFUSED}", f"connection failed: {REFUSED.replace('0.1', '0.2')}"),
            f"{REFUSED.splitlines()[0]}; {REFUSED.splitlines()[0].replace('0.1', '0.2')}",
            START,
        ),
        (_several(f"connection failed: {WRONG_PASSWORD}", f"connection failed: {REFUSED}"), WRONG_PASSWORD, PASSWORD),
        (_several(f"connection failed: {REFUSED}", f"connection failed: {STARTING}"), STARTING, "try again"),
        (
            f"connection failed: {AT.format('2600:1f18::7')}{NO_ROUTE}",
            AT.format("2600:1f18::7") + NO_ROUTE.splitlines()[0],
            POOLER,
        ),
        (
            'connection failed: connection to server at "db.x.co" (2600:1f18::7), port 5432 failed: No route to host',
            'connection to server at "db.x.co" (2600:1f18::7), port 5432 failed: No route to host',
            POOLER,
        ),
        (
            _several(
                f"connection failed: {AT.format('2600:1f18::7')}{NO_ROUTE}",
                f"connection failed: {AT.format('2600:1f18::8')}Cannot assign requested address",
            ),
            f"{AT.format('2600:1f18::7')}{NO_ROUTE.splitlines()[0]};"
            f" {AT.format('2600:1f18::8')}Cannot assign requested address",
            POOLER,
        ),
        (
            _several(f"connection failed: {AT.format('2600:1f18::7')}{NO_ROUTE}", f"connection failed: {REFUSED}"),
            f"{AT.format('2600:1f18::7')}{NO_ROUTE.splitlines()[0]}; {REFUSED.splitlines()[0]}",
            START,
        ),
        ('connection is bad: invalid sslmode value: "foo"', 'invalid sslmode value: "foo"', "sslmode"),
        ("connection timeout expired", "connection timeout expired", "correct host and port"),
        (
            AT.format("h") + 'FATAL:  database "x" does not exist',
            AT.format("h") + 'FATAL:  database "x" does not exist',
            "name",
        ),
        ("[Errno -2] Name or service not known", "[Errno -2] Name or service not known", "correct the host"),
        ("no password supplied", "no password supplied", "~/.pgpass"),
        ("", "no reason given", DOCTOR),
    ],
)
def test_connection_error_reports_the_decisive_failure(text: str, told: str, hint: str) -> None:
    error = no_connection(psycopg.OperationalError(text), "--dsn")
    assert error.message == f"cannot connect to the database from --dsn: {told}"
    assert error.passing == (told == STARTING)
    assert hint in error.hint
