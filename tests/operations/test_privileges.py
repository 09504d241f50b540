"""Every role and every deed that the catalog offers on our objects: tried, and compared with what is promised.

The objects, their columns and the deeds are those of the catalog. An object without a promise fails the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import pytest
from conftest import make_caller
from psycopg import sql
from psycopg.rows import namedtuple_row

from claude_sessions_cli import database
from claude_sessions_cli.errors import SchemaMismatch
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release

OWNER = "cs_owner"
# The role that may only connect, only create in public, only write the table; that schema apply --grant names; that an
# administrator lets read.
MADE = ("cs_guest", "cs_creator", "cs_writer", "cs_worker", "cs_auditor")
ROLES = ("anon", "authenticated", *MADE, OWNER)
STRANGERS = tuple(role for role in ROLES if role != OWNER)

READ = frozenset({"SELECT"})
WRITE = READ | {"INSERT", "UPDATE", "DELETE"}
EVERYTHING = None
Promise = dict[str, "frozenset[str] | None"]
HISTORY = dict.fromkeys(("authenticated", "cs_writer", "cs_worker", "cs_auditor"), READ)
TABLE: Promise = {"cs_writer": WRITE, "cs_worker": WRITE}
# What each role may do, besides the owner; nothing if it is not named.
PROMISED: dict[str, dict[str, Promise]] = {
    # An auditor is admitted by a membership in authenticated.
    "plain": {"claude_sessions": {**TABLE, "cs_auditor": READ}, "claude_session_events": dict(HISTORY)},
    # As created by default privileges of hosted databases. The seed's policies admit both roles, and their members.
    "hosted": {
        "claude_sessions": dict.fromkeys(("anon", *HISTORY), EVERYTHING),
        "claude_session_events": dict(HISTORY),
    },
    "least": {
        "claude_sessions": {**TABLE, "authenticated": READ, "cs_auditor": READ},
        "claude_session_events": {role: READ for role in HISTORY if role != "authenticated"},
    },
}
PROMISED["hosted least"] = PROMISED["least"]
for promised in PROMISED.values():
    promised |= {
        "claude_session_events_id_seq": {},
        "claude_sessions_record": {},
        "claude_sessions_append": {},
        "claude_sessions_reap_by_silence": {},
    }

OBJECTS = """
WITH ours AS (
    SELECT oid, relname AS name, relowner AS owner, CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind,
        oid::regclass::text AS address, '' AS arguments, false AS is_trigger
    FROM pg_class
    WHERE relkind NOT IN ('i', 'I') AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
    UNION ALL
    SELECT oid, proname, proowner, 'function', oid::regprocedure::regproc::text,
        array_to_string(ARRAY(SELECT 'NULL::' || unnest(proargtypes)::regtype::text), ', '),
        prorettype = 'trigger'::regtype
    FROM pg_proc
    WHERE pronamespace::regnamespace::text !~ '^(pg_|information_schema$)'
)
SELECT kind, name, address, arguments, is_trigger, privilege_type AS deed, NULL AS "column", NULL AS type
FROM ours
CROSS JOIN aclexplode(acldefault(CASE kind WHEN 'sequence' THEN 's' WHEN 'table' THEN 'r' ELSE 'f' END::"char", owner))
UNION ALL
SELECT kind, name, address, arguments, is_trigger, deed, quote_ident(attname), format_type(atttypid, atttypmod)
FROM ours
JOIN pg_attribute ON attrelid = oid AND attnum > 0 AND NOT attisdropped
CROSS JOIN unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS deed
WHERE kind = 'table'
ORDER BY kind, name, "column" NULLS FIRST, deed
"""
# Which roles grants and policies allow a deed.
ALLOWED = f"""
SELECT role, name, "column", deed
FROM ({OBJECTS}) AS deeds
CROSS JOIN unnest(%s::text[]) AS role
WHERE CASE
        WHEN "column" IS NOT NULL THEN has_column_privilege(role, address, "column", deed)
        WHEN kind = 'table' THEN has_table_privilege(role, address, deed)
        WHEN kind = 'sequence' THEN has_sequence_privilege(role, address, deed)
        ELSE has_function_privilege(role, address::regproc::oid, deed)
    END
    AND (
        kind <> 'table' OR deed NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        OR (SELECT NOT relrowsecurity OR pg_has_role(role, relowner, 'USAGE') FROM pg_class WHERE relname = name)
        OR EXISTS (
            SELECT FROM pg_policies
            WHERE tablename = name AND cmd IN ('ALL', deed) AND permissive = 'PERMISSIVE' AND qual = 'true'
                AND EXISTS (SELECT FROM unnest(roles) AS n WHERE n = 'public' OR pg_has_role(role, n, 'USAGE'))
        ) AND role <> ALL (
            SELECT unnest(roles) FROM pg_policies
            WHERE tablename = name AND permissive = 'RESTRICTIVE' AND qual = 'false'
        )
    )
"""
# The attempt of each deed. One that row security hides every row from touches none.
TRIES = {
    ("table", "SELECT"): "TABLE {address}",
    ("table", "INSERT"): "INSERT INTO {address} DEFAULT VALUES",
    ("table", "UPDATE"): "UPDATE {address} SET {every}",
    ("table", "DELETE"): "DELETE FROM {address}",
    ("table", "TRUNCATE"): "TRUNCATE {address}",
    ("table", "REFERENCES"): "CREATE TABLE bench.own (a {types}, FOREIGN KEY (a) REFERENCES {address} ({first}))",
    ("table", "TRIGGER"): "CREATE TRIGGER own AFTER INSERT ON {address} EXECUTE FUNCTION tsvector_update_trigger()",
    ("table", "MAINTAIN"): "REINDEX TABLE {address}",
    ("column", "SELECT"): "SELECT {column} FROM {address}",
    ("column", "INSERT"): "INSERT INTO {address} ({column}) VALUES (DEFAULT)",
    ("column", "UPDATE"): "UPDATE {address} SET {column} = DEFAULT",
    ("column", "REFERENCES"): "CREATE TABLE bench.own (a {type} REFERENCES {address} ({column}))",
    ("sequence", "SELECT"): "TABLE {address}",
    ("sequence", "UPDATE"): "SELECT setval('{address}', 1, false)",
    ("sequence", "USAGE"): "SELECT nextval('{address}')",
    ("function", "EXECUTE"): "SELECT {address}({arguments})",
    ("trigger", "EXECUTE"): "CREATE TRIGGER own AFTER INSERT ON bench.mine EXECUTE FUNCTION {address}()",
}


class Deed(NamedTuple):
    """A deed that the catalog offers on an object, or on a column of it."""

    kind: str
    name: str
    address: str
    arguments: str
    is_trigger: bool
    deed: str
    column: str | None
    type: str | None


@dataclass
class Scene:
    """A database under one of the schemas, with a row and its history, and every role."""

    kind: str
    dsn: str
    admin: psycopg.Connection[Any]

    def __post_init__(self) -> None:
        with self.admin.cursor(row_factory=namedtuple_row) as cursor:
            self.deeds = [Deed(*row) for row in cursor.execute(OBJECTS).fetchall()]

    def attempt(self, role: str, statement: str) -> bool:
        """Return whether a role may do something, of which nothing is kept, in a transaction."""
        self.admin.execute(f"SAVEPOINT attempt; SET LOCAL SESSION AUTHORIZATION {role}".encode())
        try:
            return self.admin.execute(statement.encode()).rowcount != 0
        except psycopg.errors.InsufficientPrivilege:
            return False
        except psycopg.Error:
            # Allowed, and impossible for another reason, such as a NOT NULL.
            return True
        finally:
            self.admin.execute("ROLLBACK TO attempt")

    def attempt_of(self, deed: Deed) -> str:
        """Return the statement that tries a deed."""
        columns = [other for other in self.deeds if other.address == deed.address and other.column]
        return TRIES["column" if deed.column else "trigger" if deed.is_trigger else deed.kind, deed.deed].format(
            **deed._asdict(),
            every=", ".join(f"{name} = DEFAULT" for name in dict.fromkeys(one.column for one in columns)),
            first=columns[0].column if columns else None,
            types=columns[0].type if columns else None,
        )

    def promised(self, role: str, deed: Deed) -> bool:
        """Return whether a role is promised a deed. Fails for an object of which nothing is promised."""
        allowed = PROMISED[self.kind][deed.name].get(role, frozenset())
        return role == OWNER or allowed is EVERYTHING or deed.deed in allowed

    def allowed(self) -> set[tuple[str, str, str | None, str]]:
        """Return what grants and policies allow: role, object, column and deed."""
        found = self.admin.execute(ALLOWED.encode(), [list(ROLES)]).fetchall()
        return {(role, name, column, deed) for role, name, column, deed in found}


KINDS = ["plain", "hosted least", pytest.param("least", marks=pytest.mark.faults)]


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> Iterator[Scene]:
    """Return the database of each kind. Its owner is no superuser, as on hosted servers."""
    for role in (OWNER, *MADE):
        make_role(role)
    dsn = fresh_database(f"OWNER {OWNER}")
    kind = request.param
    with psycopg.connect(dsn, autocommit=True) as admin:
        for role in ("anon", "authenticated"):
            if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchall():
                admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"GRANT authenticated TO {OWNER} WITH ADMIN OPTION")
        admin.execute("GRANT CREATE ON SCHEMA public TO cs_creator")
        if kind.startswith("hosted"):
            for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
                admin.execute(f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT ALL ON {what} TO anon, authenticated")
        with database.connect(psycopg.conninfo.make_conninfo(dsn, options=f"-c role={OWNER}"), "the test") as opened:
            schema.apply(opened, optional=["reap_by_silence"])
            rights = "ALL" if kind.startswith("hosted") else "SELECT, INSERT, UPDATE, DELETE"
            admin.execute(f"GRANT {rights} ON claude_sessions TO cs_writer".encode())
            admin.execute("GRANT authenticated TO cs_writer")
            if "least" in kind:
                schema.apply(opened, optional=["least_privilege"])
            else:
                admin.execute("GRANT authenticated TO cs_auditor")
            schema.apply(opened, grant="cs_worker")
        admin.execute("GRANT SELECT ON claude_sessions, claude_session_events TO cs_auditor")
        admin.execute("INSERT INTO claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
        admin.execute("DELETE FROM claude_session_events WHERE event = 'registered'")
        yield Scene(kind, dsn, admin)
        admin.execute(f"REVOKE authenticated FROM {OWNER} CASCADE")


@pytest.mark.parametrize("scene", [*KINDS, pytest.param("hosted", marks=pytest.mark.faults)], indirect=True)
def test_each_role_may_do_what_is_promised_and_no_more(scene: Scene) -> None:
    assert {deed.name for deed in scene.deeds} == set(PROMISED[scene.kind])
    allowed, wrong, done = scene.allowed(), [], set()
    with scene.admin.transaction(force_rollback=True):
        scene.admin.execute("CREATE SCHEMA bench; CREATE TABLE bench.mine (); GRANT ALL ON SCHEMA bench TO PUBLIC")
        scene.admin.execute("GRANT ALL ON bench.mine TO PUBLIC")
        # A foreign key needs a unique column; there is one row.
        for deed in scene.deeds:
            if deed.column and deed.deed == "REFERENCES":
                scene.admin.execute(f"ALTER TABLE {deed.address} ADD UNIQUE ({deed.column})".encode())
        for role in ROLES:
            for deed in scene.deeds:
                real = scene.attempt(role, scene.attempt_of(deed))
                if real and not deed.column:
                    done.add((role, deed.name, deed.deed))
                place = (role, deed.name, deed.column, deed.deed)
                if not real == scene.promised(role, deed) == (place in allowed):
                    wrong.append((*place, real))
    assert wrong == []
    with database.connect(scene.dsn, "the test") as opened:
        found = schema.inspect(opened)
    writers = {(found.role, found.object, deed) for found in found.writers for deed in found.deeds}
    assert {one for one in writers if one[0] in ROLES} == {
        one for one in done if one[0] != OWNER and one[2] not in ("SELECT", "MAINTAIN")
    }
    assert found.differences == []


# Deeds against the history, by a role that is admitted to nothing of it.
FORGERIES = [
    "INSERT INTO public.claude_session_events (event, session_id, sd_id, claimed_at)"
    " VALUES ('claimed', 'x', 'SD-1', '9998-12-31 23:59:59Z')",
    "UPDATE public.claude_session_events SET claimed_at = '9998-12-31 23:59:59Z'",
    "DELETE FROM public.claude_session_events",
    "TRUNCATE public.claude_session_events",
    "SELECT setval('public.claude_session_events_id_seq', 1, false)",
    "SELECT public.claude_sessions_append('claimed', NULL, NULL, NULL, 'x')",
    "ALTER TABLE public.claude_session_events DISABLE TRIGGER ALL",
    "ALTER TABLE public.claude_sessions DISABLE TRIGGER USER",
    "SET session_replication_role = replica",
    "CREATE RULE own AS ON INSERT TO public.claude_sessions DO INSTEAD NOTHING",
    "CREATE OR REPLACE FUNCTION public.claude_sessions_record() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE TEMP TABLE forged (session_id text); CREATE TRIGGER forge AFTER INSERT ON forged FOR EACH ROW"
    " EXECUTE FUNCTION public.claude_sessions_record()",
    "CREATE FUNCTION pg_temp.own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE $$mine$$; END';"
    " CREATE TRIGGER own BEFORE UPDATE ON public.claude_sessions EXECUTE FUNCTION pg_temp.own()",
]
# Deeds that a role may do, and that must not matter.
NUISANCES = [
    "SET claude_sessions.fence_floor = '9998-12-31 23:59:59.999998Z'",
    "SELECT pg_advisory_lock(hashtext('SD-2'))",
    # Overloads closer to the calls of the trigger; creating them needs the schema.
    "CREATE FUNCTION public.claude_sessions_append(varchar, public.claude_sessions, varchar, varchar, varchar)"
    " RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE $$mine$$; END'",
    "CREATE FUNCTION public.claude_sessions_record(integer) RETURNS integer LANGUAGE plpgsql AS"
    " 'BEGIN RAISE $$mine$$; END'",
    "CREATE FUNCTION public.hashtext(varchar) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RAISE $$mine$$; END'",
]


# Not as hosted: there, anon may hang triggers on the table, which `schema check` reports.
@pytest.mark.parametrize("scene", KINDS, indirect=True)
def test_strangers_change_no_history_and_repeat_no_fence(scene: Scene) -> None:
    events = "SELECT to_jsonb(e), xmin::text FROM public.claude_session_events AS e ORDER BY id"
    before = scene.admin.execute(events.encode()).fetchall()
    connections = []
    try:
        for role in STRANGERS:
            own = psycopg.connect(scene.dsn, autocommit=True)
            connections.append(own)
            own.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
            for forgery in FORGERIES:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    own.execute(forgery.encode())
            for nuisance in NUISANCES:
                try:
                    own.execute(nuisance.encode())
                except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DuplicateFunction):
                    assert role != "cs_creator" and nuisance.startswith("CREATE FUNCTION")
            own.execute("SELECT pg_advisory_unlock_all()")
        assert scene.admin.execute(events.encode()).fetchall() == before
        for writer in ("cs_writer", "cs_worker"):
            own = connections[STRANGERS.index(writer)]
            own.execute(
                "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at, status)"
                " VALUES (%s, 'SD-2', '9998-12-31 23:59:59.999997Z', 'released')",
                [writer],
            )
            own.execute("UPDATE public.claude_sessions SET status = 'stale' WHERE session_id = %s", [writer])
            own.execute("DELETE FROM public.claude_sessions WHERE session_id = %s", [writer])
        recorded = scene.admin.execute(events.encode()).fetchall()
        assert recorded[: len(before)] == before
        assert {event["actor_role"] for event, _ in recorded[len(before) :]} == {"cs_writer", "cs_worker"}

        fences: list[int | None] = []
        with database.connect(scene.dsn, "the test") as opened:
            assert schema.check(opened) == []
            with pytest.raises(SchemaMismatch, match="no fence is left") as refused:
                for _ in range(5):
                    fences.append(claim(opened, make_caller("b"), "SD-2").session.session.fence)
                    release(opened, make_caller("b"))
            assert "claude-sessions history SD" in str(refused.value.hint)
            assert claim(opened, make_caller("b"), "SD-3").outcome == "claimed"
        assert len(fences) == len(set(fences)) == 2
    finally:
        for own in connections:
            own.close()
