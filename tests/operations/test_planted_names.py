"""Functions and operators that a role plants in public, closer to each use than pg_catalog's: none is ever called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import predicates
import psycopg
import pytest
from clock import DAY, at
from conftest import Cli, Server, Sleeper, Table, make_caller
from psycopg import sql

from claude_sessions_cli import database, process, queries
from claude_sessions_cli.errors import HeldByAnother, SessionsError
from claude_sessions_cli.operations import schema, term
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.history import read
from claude_sessions_cli.operations.list import Filters, list_sessions
from claude_sessions_cli.operations.park import park, unpark
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other
from claude_sessions_cli.operations.wait import claim_any
from operations.claims import RUNNER

PLANTER = "cs_planter"
# Of columns, parameters, literals and the catalog.
TYPES = [
    *("text", "name", '"char"', "varchar", "bpchar", "jsonb", "json", "smallint", "integer", "bigint", "numeric"),
    *("float8", "timestamptz", "interval", "uuid", "boolean", "oid", "xid", "regclass", "regproc", "pg_node_tree"),
    *("text[]", "uuid[]", "integer[]", "oid[]", "name[]", '"char"[]', "jsonb[]"),
]
# Of calls with three arguments or more.
FEW_TYPES = ["text", "name", "jsonb", "boolean", "bigint", "oid"]
# Of the function that the triggers call.
OWN_TYPES = ["text", "varchar", "name"]

# Each planted function notes its number in a sequence, which no rollback resets. An operator's function is named for
# its result.
PLANT = """
GRANT CREATE ON SCHEMA public TO {planter};
CREATE SEQUENCE public.planted_calls;
GRANT ALL ON SEQUENCE public.planted_calls TO PUBLIC;
SET check_function_bodies = off;
SET search_path = pg_catalog;
SET ROLE {planter};
DO $plant$
DECLARE
    planted record;
    number integer := 0;
BEGIN
    FOR planted IN
        WITH types AS MATERIALIZED (
            SELECT type, type::regtype::oid::text AS id FROM unnest({types}::text[]) AS type
        ),
        few AS (SELECT type FROM unnest({few_types}::text[]) AS type),
        symbols AS (
            SELECT oprname AS symbol,
                CASE WHEN count(DISTINCT oprresult) = 1 THEN min(oprresult::regtype::text) END AS same
            FROM pg_operator WHERE oprname = ANY({symbols}::text[]) AND oprleft <> 0 GROUP BY oprname
        ),
        operators AS (
            SELECT symbol, l.type AS l, r.type AS r, coalesce(same, l.type) AS result,
                'operator_to_' || coalesce(same, 'its_left_type') AS name
            FROM symbols CROSS JOIN types AS l CROSS JOIN types AS r
            WHERE NOT EXISTS (
                SELECT FROM pg_operator
                WHERE oprname = symbol AND oprleft::text = l.id AND oprright::text = r.id
            )
        ),
        functions AS (
            SELECT proname AS name, min(CASE WHEN typtype = 'p' THEN 'text' ELSE typname END) AS result
            FROM pg_proc JOIN pg_type ON pg_type.oid = prorettype
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY({functions}::text[])
            GROUP BY proname
        ),
        lists AS (
            SELECT name, coalesce({labels}::jsonb ->> name || ' ', '') || type AS list, id AS ids
            FROM functions CROSS JOIN types
            UNION ALL
            SELECT name, l.type || ', ' || r.type, l.id || ' ' || r.id
            FROM functions CROSS JOIN types AS l CROSS JOIN types AS r
            UNION ALL
            SELECT name, concat_ws(', ', a.type, b.type, c.type), NULL
            FROM unnest({long}::text[]) AS name CROSS JOIN few AS a CROSS JOIN few AS b CROSS JOIN few AS c
            UNION ALL
            SELECT name, concat_ws(', ', a.type, b.type, c.type, d.type), NULL
            FROM unnest({long}::text[]) AS name CROSS JOIN few AS a CROSS JOIN few AS b
                CROSS JOIN few AS c CROSS JOIN few AS d
            WHERE NOT ARRAY[a.type, b.type, c.type, d.type] && ARRAY['name', 'boolean', 'oid']
            UNION ALL
            SELECT name, format('%s, %s, VARIADIC %s[]', a.type, b.type, b.type), NULL
            FROM unnest({long}::text[]) AS name CROSS JOIN few AS a CROSS JOIN few AS b
        )
        SELECT 1 AS step, format('FUNCTION public.%I(%s, %s) RETURNS %s', name, l, r, result) AS text
        FROM (SELECT DISTINCT name, l, r, result FROM operators) AS served
        UNION ALL
        SELECT 2, format('OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)', symbol, l, r, name)
        FROM operators
        UNION ALL
        SELECT 3, format('FUNCTION public.%I(%s) RETURNS %s', name, list, result)
        FROM lists JOIN functions USING (name)
        WHERE ids IS NULL OR NOT EXISTS (SELECT FROM pg_proc WHERE proname = name AND proargtypes::text = ids)
        ORDER BY step
    LOOP
        number := number + 1;
        EXECUTE 'CREATE ' || planted.text || CASE WHEN planted.step <> 2 THEN format(
            $text$ LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_catalog.setval('public.planted_calls', %s); RAISE 'a planted function was called'; END
            $$ $text$, number) ELSE '' END;
    END LOOP;
END
$plant$;
"""
# Another program's trigger finds its table and function only through the role's search_path.
FOREIGN = """
CREATE TABLE public.update_log (session_id text);
CREATE FUNCTION public.shown(name text) RETURNS text LANGUAGE sql AS 'SELECT name';
CREATE FUNCTION public.log_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO update_log VALUES (shown(NEW.session_id));
    RETURN NEW;
END
$$;
CREATE TRIGGER log_update BEFORE UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.log_update();
"""
# Rivals of the function that the triggers call. Their numbers are above those of the others.
RIVALS = """
SET ROLE {planter};
DO $plant$
DECLARE
    number integer := 1000000;
    types text;
BEGIN
    FOR types IN
        SELECT pg_catalog.format('%s, public.claude_sessions, %s, %s, %s', a, b, c, d)
        FROM pg_catalog.unnest({types}::text[]) AS a, pg_catalog.unnest({types}::text[]) AS b,
            pg_catalog.unnest({types}::text[]) AS c, pg_catalog.unnest({types}::text[]) AS d
        WHERE 'text'::text <> ANY(ARRAY[a, b, c, d])
    LOOP
        number := number + 1;
        EXECUTE pg_catalog.format($text$
            CREATE FUNCTION public.claude_sessions_append(%s) RETURNS void LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_catalog.setval('public.planted_calls', %s); RAISE 'a planted function was called'; END
            $$ $text$, types, number);
    END LOOP;
END
$plant$;
"""
CALLED = "SELECT last_value FROM public.planted_calls WHERE is_called"
SIGNATURE = "SELECT oid::regprocedure::text FROM pg_catalog.pg_proc WHERE pg_catalog.strpos(prosrc, %s::text) > 0"
# What the function `probe` refers to, of all that a role owns.
MEANT = """
SELECT pg_catalog.pg_describe_object(refclassid, refobjid, 0)
FROM pg_catalog.pg_depend
JOIN pg_catalog.pg_proc ON pg_proc.oid = objid AND proname = 'probe'
WHERE pg_catalog.pg_get_userbyid(coalesce(
    (SELECT proowner FROM pg_catalog.pg_proc AS p WHERE refclassid = 'pg_proc'::regclass::oid AND p.oid = refobjid),
    (SELECT oprowner FROM pg_catalog.pg_operator AS o
        WHERE refclassid = 'pg_operator'::regclass::oid AND o.oid = refobjid)
)) = %s::name
"""


def _used() -> dict[str, Any]:
    """Return the names and operators in the SQL: of all calls, of long ones, and of labelled arguments."""
    symbols, functions, long, labels = {"=", "<>"}, set(), set(), {}
    for path in queries.directory().glob("*/*.sql"):
        source = predicates.Source(path)
        for i, token in enumerate(source.tokens[:-1]):
            if re.fullmatch(r"[-+*/<>=~!@#%^&|`?]+", token):
                symbols.add(token)
            if source.tokens[i + 1] == "(" and re.match("[a-z]", token):
                functions.add(token)
                if len(source.split(i + 2, source.closing[i + 1], ",")) > 2:
                    long.add(token)
                if source.tokens[i + 3] == "=>":
                    labels[token] = source.tokens[i + 2]
    found = {
        "symbols": [*symbols],
        "functions": [*functions],
        "long": [*long],
        "labels": psycopg.types.json.Json(labels),
    }
    return {name: sql.Literal(value) for name, value in found.items()}


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[str]:
    """Return the name of a database with planted names, to be copied."""
    made = "cs_planted"
    dsn, planter = server.create(made), sql.Identifier(PLANTER)
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(planter))
        admin.execute(sql.SQL("CREATE ROLE {}").format(planter))
    with psycopg.connect(dsn) as admin:
        types = {"types": sql.Literal(TYPES), "few_types": sql.Literal(FEW_TYPES)}
        admin.execute(sql.SQL(PLANT).format(planter=planter, **types, **_used()))
    yield made
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {made} WITH (FORCE)")
        admin.execute(sql.SQL("DROP ROLE {}").format(planter))


@pytest.fixture
def planted(template: str, fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a database with planted names and without a table."""
    return fresh_database(f"TEMPLATE {template}")


@dataclass
class Watch:
    """Steps, the planted functions that they called, and the steps that did not end as expected."""

    dsn: str
    called: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def step(self, name: str, work: Callable[[], Any], expected: Any = None) -> None:
        """Run a step; unless `expected` is None, it has to return this."""
        try:
            result = work()
        except (SessionsError, psycopg.Error) as error:
            result = error
        if isinstance(result, Exception) or (expected is not None and result != expected):
            self.wrong.append(f"{name}: {result!r}")
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            for (number,) in admin.execute(CALLED).fetchall():
                found = admin.execute(SIGNATURE, [f"planted_calls', {number})"]).fetchall()
                self.called.append(f"{name}: {', '.join(signature for (signature,) in found)}")
                admin.execute("SELECT pg_catalog.setval('public.planted_calls', 1, false)")

    def expect_none_called(self) -> None:
        """Fail with the calls of planted functions; without any, with the wrong steps."""
        assert not self.called, "\n".join(self.called)
        assert not self.wrong, "\n".join(self.wrong)


def _run_files(dsn: str, *names: str) -> Callable[[], None]:
    """Return a function that runs files of the schema as psql would, under the role's own search_path."""

    def run() -> None:
        with psycopg.connect(dsn, autocommit=True) as admin:
            for path in [*schema.ddl_files(), *schema.optional_files()]:
                if not names or path.name[:3] in names:
                    admin.execute(path.read_bytes())

    return run


def _apply(dsn: str) -> None:
    with database.connect(dsn, "the test") as opened:
        schema.apply(opened)


def _reap_by_silence(dsn: str) -> list[str]:
    own = '{"claude_sessions_cli": {"stale_after": 900, "parked_until": "2026-01-01T12:00:00"}}'
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at, heartbeat_at, metadata)"
            " VALUES ('silent', 'SD-2', '2026-01-01Z', '2026-01-01Z', %s)",
            [own],
        )
        # Names of `public` come first, as on a role's own search_path.
        admin.execute("SET search_path = public, pg_catalog")
        rows = admin.execute("SELECT reaped_session FROM public.claude_sessions_reap_by_silence()").fetchall()
        admin.execute("DELETE FROM public.claude_sessions")
    return [name for (name,) in rows]


def _refused_by_doubles(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1'), ('b', 'SD-1')")
        try:
            _run_files(dsn, "002")()
        except psycopg.errors.UniqueViolation as error:
            return str(error.diag.message_primary)
        finally:
            admin.execute("DELETE FROM public.claude_sessions WHERE session_id = 'b'")
    return ""


@pytest.mark.faults
def test_no_file_of_schema_calls_planted_name(planted: str, cli: Cli) -> None:
    watch = Watch(planted)
    watch.step("001", _run_files(planted, "001"))
    doubles = "work items with more than one holder: SD-1 held by a, b"
    watch.step("002 on double claims", lambda: _refused_by_doubles(planted), doubles)
    watch.step("002", _run_files(planted, "002"))
    watch.step("003", _run_files(planted, "003"))
    env = {"CLAUDE_SESSIONS_DSN": planted}
    watch.step("apply", lambda: cli("schema", "apply", "--grant", "authenticated", env=env).returncode, 0)
    watch.step("all again", _run_files(planted))
    as_shipped = "".join(f"optional/{path.name} is in force\n" for path in schema.optional_files())
    as_shipped += "the table is as shipped\n"
    watch.step("check", lambda: cli("schema", "check", env=env).stdout, as_shipped)
    watch.step("reap by silence", lambda: _reap_by_silence(planted), ["silent"])
    watch.step("apply again", lambda: cli("schema", "apply", "--grant", PLANTER, env=env).returncode, 0)
    watch.expect_none_called()


def _statements(name: str) -> list[str]:
    """Return the statements of a query that read or write tables, with NULL for each parameter."""
    text = re.sub(r"--[^\n]*", "", queries.get(name)).partition("DO $$")[0]
    text = re.sub(r"%\(\w+\)s", "NULL", text)
    return [part for part in text.split(";") if re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", part)]


def test_no_query_means_planted_name(planted: str) -> None:
    _apply(planted)
    names = sorted(path.stem for path in (queries.directory() / "queries").glob("*.sql"))
    wrong = []
    with psycopg.connect(planted, autocommit=True) as admin:
        # Of later forms of the table.
        admin.execute("ALTER TABLE public.claude_sessions ADD terminal_id text, ADD machine_id text")
        for name in names:
            for statement in _statements(name) if name not in queries.FRAGMENTS else []:
                try:
                    # A body that is parsed at once depends on what its names mean.
                    probe = f"CREATE OR REPLACE FUNCTION public.probe() RETURNS void BEGIN ATOMIC {statement}; END"
                    admin.execute(probe.encode())
                    wrong += [f"{name}: {found}" for (found,) in admin.execute(MEANT, [PLANTER]).fetchall()]
                except psycopg.Error as error:
                    wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_no_command_calls_planted_name(planted: str, cli: Cli, sleeper: Sleeper) -> None:
    _apply(planted)
    with psycopg.connect(planted, autocommit=True) as admin:
        admin.execute(FOREIGN)
        admin.execute(sql.SQL(RIVALS).format(planter=sql.Identifier(PLANTER), types=sql.Literal(OWN_TYPES)))
    watch, table = Watch(planted), Table(planted)
    with table.stack:
        _claim_and_release(watch, table)
        _keep(watch, table)
        _lose_and_restore(watch, table)
        _judge_processes(watch, table, sleeper)
        _look(watch, table)
        _clean_up(watch, table)
        env = {"CLAUDE_SESSIONS_DSN": planted, "CLAUDE_SESSIONS_SESSION_ID": "z"}
        watch.step("run", lambda: cli("run", "SD-RUN", "--", "true", env=env).returncode, 0)
        watch.expect_none_called()
        [logged] = table.execute("SELECT pg_catalog.count(*) AS number FROM public.update_log")
        assert logged["number"] > 20


def _claim(table: Table, session: str, item: str, minutes: float, **how: Any) -> str:
    return claim(table.database, make_caller(session, now=at(minutes)), item, **how).outcome


def _claim_and_release(watch: Watch, table: Table) -> None:
    def refused() -> str:
        with pytest.raises(HeldByAnother) as error:
            _claim(table, "b", "SD-1", 2)
        return error.value.message.split(" (")[0]

    def one_of_two() -> str:
        caller = make_caller("d", now=at(5))
        return claim_any(
            table.database, caller, ["SD-2", "SD-3"], lambda item: claim(table.database, caller, item)
        ).outcome

    def give_back(session: str, **how: Any) -> str:
        return release(table.database, make_caller(session, now=at(6)), **how).outcome

    def give_back_other(prefix: str) -> str:
        caller = make_caller("x", now=at(7), cwd="/elsewhere")
        return release_other(table.database, caller, prefix, "SD-3", end=True, reason="stuck").outcome

    watch.step("claim a free item", lambda: _claim(table, "a", "SD-1", 0, track="A"), "claimed")
    watch.step("claim it again", lambda: _claim(table, "a", "SD-1", 1, track="B"), "already_yours")
    watch.step("claim a held item", refused, "SD-1 is held by a")
    watch.step("claim by force", lambda: _claim(table, "b", "SD-1", 3, force_reason="urgent"), "forced")
    watch.step("claim another item", lambda: _claim(table, "b", "SD-2", 4, switch=True), "switched")
    watch.step("claim one of two", one_of_two, "claimed")
    watch.step("listen for a free item", table.database.listen)
    watch.step("acknowledge a loss", lambda: give_back("a"), "nothing_held")
    watch.step("release", lambda: give_back("b", reason="completed"), "released")
    watch.step("release and end", lambda: give_back("b", end=True), "ended")
    watch.step("release another session", lambda: give_back_other("d"), "ended")


def _keep(watch: Watch, table: Table) -> None:
    def caller(minutes: float) -> Caller:
        return make_caller("k", now=at(minutes))

    def fence() -> int:
        found = check(table.database, caller(10), "SD-K").session.fence
        assert found is not None
        return found

    opened = table.database
    watch.step("claim to keep", lambda: _claim(table, "k", "SD-K", 10), "claimed")
    watch.step("check", lambda: check(opened, caller(10), "SD-K", fence=fence()))
    watch.step("park", lambda: park(opened, caller(11), 60))
    watch.step("unpark", lambda: unpark(opened, caller(11)))
    watch.step("enter a term", lambda: term.enter(opened, caller(12), RUNNER, "SD-K"))
    watch.step("renew a term", lambda: term.renew(opened, caller(13), "SD-K", fence()))
    watch.step("leave a term", lambda: term.leave(opened, caller(14), RUNNER, "SD-K", fence()))
    watch.step("outlive the process", lambda: term.outlive_process(opened, caller(15), "SD-K", fence()))
    watch.step("end a term", lambda: term.release(opened, caller(15), "SD-K", fence(), reason="completed"))


def _lose_and_restore(watch: Watch, table: Table) -> None:
    def beat(session: str, minutes: float, **how: Any) -> str:
        return heartbeat(table.database, make_caller(session, now=at(minutes)), **how).outcome

    watch.step("claim before silence", lambda: [_claim(table, name, f"SD-{name}", 20) for name in "lmn"])
    watch.step("reap", lambda: len(reap(table.database, make_caller(None, now=at(40))).changed) > 2, True)
    watch.step("claim what silence lost", lambda: _claim(table, "o", "SD-m", 41), "claimed")
    watch.step("restore", lambda: beat("l", 41), "restored")
    watch.step("lose", lambda: beat("m", 41), "lost")
    watch.step("take over", lambda: _claim(table, "p", "SD-l", 60), "took_over")
    watch.step("register", lambda: beat("q", 60, register=True), "registered")
    watch.step("renew", lambda: beat("q", 61), "renewed")
    watch.step("renew none", lambda: beat("q", 61, if_older_than=60), "fresh")
    watch.step("renew an old one", lambda: beat("q", 65, if_older_than=60), "renewed")
    watch.step("end", lambda: release(table.database, make_caller("q", now=at(66)), end=True).outcome, "ended")
    watch.step("register again", lambda: beat("q", 67, register=True), "registered")


def _judge_processes(watch: Watch, table: Table, sleeper: Sleeper) -> None:
    def here(minutes: float) -> tuple[int, int]:
        found = heartbeat_here(table.database, make_caller(None, now=at(minutes)))
        return found.renewed, len(found.released)

    living, dying = sleeper(), sleeper()
    for name, child in [("r", living), ("s", dying)]:
        caller = make_caller(name, anchor=process.read(child.pid), now=at(70))
        watch.step("claim by a process", partial(claim, table.database, caller, f"SD-{name}"))
        watch.step("renew a process", partial(heartbeat, table.database, caller, if_older_than=0.0))
    watch.step("renew all here", lambda: here(71), (2, 0))
    dying.kill()
    dying.wait()
    watch.step("release the dead here", lambda: here(72), (1, 1))


def _look(watch: Watch, table: Table) -> None:
    every = Filters(["SD-r"], True, ["active"], ["A", "B"], "host", "codebase", "r", 5)

    def listed(filters: Filters) -> int:
        return len(list_sessions(table.database, make_caller(None, now=at(73)), filters).sessions)

    def offered() -> list[bool]:
        limits = {"prefix": "", "prefixes": [""], "row_limit": 99, "event_limit": 99}
        names = ("complete_held_items", "complete_past_items", "complete_session_ids")
        return [bool(table.ask(name, **limits)) for name in names]

    watch.step("list", lambda: listed(Filters(all_statuses=True)) > 9, True)
    watch.step("list with each filter", lambda: listed(every), 0)
    watch.step("history of an item", lambda: len(read(table.database, "SD-1", limit=9).terms), 2)
    watch.step("history of a session", lambda: bool(read(table.database, "a").events), True)
    watch.step("complete", offered, [True, True, True])


def _clean_up(watch: Watch, table: Table) -> None:
    def reaped(minutes: float, **how: Any) -> bool:
        found = reap(table.database, make_caller(None, now=at(minutes)), prune=3600, **how)
        return bool(found.changed) and bool(found.pruned)

    table.insert("t", status="idle", heartbeat_at=at(9 * DAY))
    watch.step("reap by age, for show", lambda: reaped(2 * DAY, max_age=60, dry_run=True), True)
    watch.step("reap by age, and prune", lambda: reaped(2 * DAY, max_age=60), True)
    table.insert("bad", status="idle", heartbeat_at=at(0))
    table.insert("over", status="released", heartbeat_at=at(0), updated_at=at(0), created_at=at(0))
    table.execute("ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id <> 'bad') NOT VALID")
    table.execute("CREATE TABLE public.notes (session uuid REFERENCES public.claude_sessions ON DELETE CASCADE)")
    table.execute("INSERT INTO public.notes SELECT id FROM public.claude_sessions WHERE session_id = 'over'")

    def careful() -> tuple[int, int]:
        found = reap(table.database, make_caller(None, now=at(3 * DAY)), prune=3600)
        return len(found.refused), found.referenced

    watch.step("reap and prune row by row", careful, (1, 1))
    table.execute("DROP TABLE public.notes")
    table.execute("ALTER TABLE public.claude_sessions DROP CONSTRAINT good")
