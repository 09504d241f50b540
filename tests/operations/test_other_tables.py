"""Later forms of the table, and the constraints of other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from between import acting_before
from clock import NOON, at
from commands.answers import apply_schema, as_role, execute
from conftest import Cli, Sleeper, Table, dsn_of, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import DuplicateRefused, PermissionDenied, SchemaMismatch, SessionsError, UnknownItem
from claude_sessions_cli.liveness import Host
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap

ADD = "ALTER TABLE public.claude_sessions ADD"
KEY = "coalesce(machine_id, '') || ':' || coalesce(terminal_id, tty, '')"
# The forms of the field: an index over the expression, for all rows or the live ones, or a generated column.
LATER = {
    "all rows": f"CREATE UNIQUE INDEX theirs ON public.claude_sessions (({KEY}))",
    "live rows": f"CREATE UNIQUE INDEX theirs ON public.claude_sessions (({KEY})) WHERE status IN ('active', 'idle')",
    "generated": f"{ADD} identity text GENERATED ALWAYS AS ({KEY}) STORED;"
    " CREATE UNIQUE INDEX theirs ON public.claude_sessions (identity) WHERE status = 'active'",
}
each_form = pytest.mark.parametrize(
    "form", ["live rows", *(pytest.param(form, marks=pytest.mark.faults) for form in LATER if form != "live rows")]
)
MORE = [f"theirs_{number} text DEFAULT 'x' NOT NULL" for number in range(30)]


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def either_dsn(request: pytest.FixtureRequest) -> str:
    """Return the DSN of an empty table; of the seed alone with the long tests."""
    return dsn_of(request)


@contextmanager
def _with(table: Table, *statements: str, undo: str) -> Iterator[None]:
    for statement in statements:
        table.execute(statement)
    try:
        yield
    finally:
        table.execute("DELETE FROM public.claude_sessions")
        for statement in undo.split(";"):
            table.execute(statement)


@contextmanager
def _later_form(table: Table, form: str = "all rows") -> Iterator[None]:
    columns = [f"{ADD} {column}" for column in ("machine_id text", "terminal_id text", *MORE)]
    names = ["machine_id", "terminal_id", *(column.split()[0] for column in MORE)]
    drop = ", ".join(f"DROP COLUMN {name} CASCADE" for name in names)
    with _with(table, *columns, LATER[form], undo=f"ALTER TABLE public.claude_sessions {drop}"):
        yield


def _caller(session_id: str, host: str | None = None, minute: float = 0) -> Caller:
    made = make_caller(session_id, tty="/dev/pts/3", now=at(minute))
    if host is None:
        return made
    return made._replace(identity=made.identity._replace(host=Host(host, f"boot of {host}", "pid:[1]", host)))


def _places(table: Table) -> dict[str, tuple[str | None, str | None]]:
    rows = table.execute("SELECT session_id, machine_id, terminal_id FROM public.claude_sessions")
    return {row["session_id"]: (row["machine_id"], row["terminal_id"]) for row in rows}


@each_form
def test_terminal_its_runs_and_other_host_share_later_table(table: Table, form: str) -> None:
    with _later_form(table, form):
        assert heartbeat(table.database, _caller("shell"), register=True).outcome == "registered"
        for number, name in enumerate(("shell", "run-1", "run-2")):
            assert claim(table.database, _caller(name), f"SD-{number}").outcome == "claimed"
        claim(table.database, _caller("far", "elsewhere"), "SD-9")
        own = _caller("shell").identity.host
        here = own.machine_id or own.boot_id
        assert _places(table) == {
            **{name: (here, name) for name in ("shell", "run-1", "run-2")},
            "far": ("elsewhere", "far"),
        }


@each_form
def test_stale_session_comes_back_beside_its_successor(table: Table, form: str) -> None:
    with _later_form(table, form):
        claim(table.database, _caller("before"), "SD-1")
        reap(table.database, make_caller(None, now=at(30)))
        claim(table.database, _caller("after", minute=30), "SD-2")
        assert heartbeat(table.database, _caller("before", minute=31)).outcome == "restored"


@each_form
def test_session_of_older_version_gets_its_terminal(table: Table, form: str) -> None:
    with _later_form(table, form):
        # Registered without the columns, when no other row was in the way.
        table.insert("old", status="released", heartbeat_at=NOON, tty="/dev/pts/4")
        table.insert("theirs", status="active", heartbeat_at=NOON, tty="/dev/pts/3", sd_id="SD-2", claimed_at=NOON)
        claim(table.database, _caller("old"), "SD-1")
        assert _places(table) == {"old": (_here(), "old"), "theirs": (None, None)}


def test_moved_session_of_older_version_gets_its_terminal(table: Table, sleeper: Sleeper) -> None:
    child = sleeper()
    before = make_caller("a", anchor=process.read(child.pid), tty="/dev/pts/3", now=NOON)
    claim(table.database, before, "SD-1")
    child.kill()
    child.wait()
    with _later_form(table, "live rows"):
        # In the way, until the empty columns are filled.
        table.execute("UPDATE public.claude_sessions SET status = 'stale'")
        table.insert("theirs", status="active", heartbeat_at=NOON, tty="/dev/pts/3")
        after = make_caller("a", anchor=process.read(sleeper().pid), tty="/dev/pts/3", now=at(1))
        assert heartbeat(table.database, after).outcome == "moved"
        assert _places(table) == {"a": (_here(), "a"), "theirs": (None, None)}


def _here() -> str:
    host = make_caller("a").identity.host
    return host.machine_id or host.boot_id


@pytest.mark.parametrize(("machine", "terminal"), [("m", "t"), ("m", None), (None, "t")])
def test_what_another_program_filled_stays(table: Table, machine: str | None, terminal: str | None) -> None:
    with _later_form(table, "live rows"):
        given = {"machine_id": machine, "terminal_id": terminal, "tty": "/dev/pts/3", "heartbeat_at": NOON}
        table.insert("a", status="stale", **given)
        if not (machine and terminal):
            # In the way, until the empty column is filled.
            table.insert("theirs", status="active", **given)
        claim(table.database, _caller("a"), "SD-1")
        heartbeat(table.database, _caller("a"))
        assert _places(table)["a"] == (machine or _here(), terminal or "a")


def test_two_rows_of_one_terminal_stay_refused(table: Table) -> None:
    with _later_form(table, "live rows"):
        table.insert("a", status="stale", heartbeat_at=NOON, machine_id="m", terminal_id="t")
        table.insert("b", status="active", heartbeat_at=NOON, machine_id="m", terminal_id="t")
        before = table.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY id")
        with pytest.raises(DuplicateRefused, match="the unique index theirs"):
            claim(table.database, _caller("a"), "SD-1")
        assert table.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY id") == before


@pytest.mark.parametrize(
    "columns",
    [
        ["terminal_id text"],
        ["terminal_id text", "machine_id uuid"],
        ["terminal_id text", "machine_id text GENERATED ALWAYS AS ('m') STORED"],
    ],
    ids=["one alone", "another type", "generated"],
)
def test_columns_that_take_no_terminal_are_left_alone(table: Table, columns: list[str]) -> None:
    drop = ", ".join(f"DROP COLUMN {column.split()[0]}" for column in columns)
    with _with(table, *(f"{ADD} {column}" for column in columns), undo=f"ALTER TABLE public.claude_sessions {drop}"):
        heartbeat(table.database, _caller("a"), register=True)
        claim(table.database, _caller("b"), "SD-1")
        assert table.execute("SELECT DISTINCT terminal_id FROM public.claude_sessions") == [{"terminal_id": None}]


def test_role_without_right_to_terminal_registers(
    make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> None:
    role, dsn = make_role("cs_narrow", "NOLOGIN IN ROLE authenticated"), apply_schema(fresh_database())
    columns = ", ".join(name for kind, name in schema.expected_catalog(()) if kind == "column" and "." not in name)
    execute(
        dsn,
        f"GRANT SELECT, UPDATE, INSERT ({columns}) ON claude_sessions TO {role}",
        f"{ADD} terminal_id text, ADD machine_id text",
    )
    narrow = Table(as_role(dsn, role))
    with narrow.stack:
        claim(narrow.database, _caller("a"), "SD-1")
        assert narrow.row("a")["terminal_id"] is None


@pytest.mark.faults
def test_commands_without_terminal_share_later_table(table: Table, cli: Cli) -> None:
    with _later_form(table):
        command = [sys.executable, "-m", "claude_sessions_cli", "claim", "SD-2", "--session", "inner"]
        env = {"CLAUDE_SESSIONS_DSN": table.dsn}
        assert cli("claim", "SD-3", "--session", "outer", env=env).returncode == 0
        done = cli("run", "SD-1", "--", *command, env=env)
        assert done.returncode == 0, done.stderr
        assert len(_places(table)) == 3


CLAIMER = _caller("mine")
Act = Callable[[Table], Any]


def _claim(table: Table) -> None:
    claim(table.database, CLAIMER, "SD-1")


def _register(table: Table) -> None:
    heartbeat(table.database, CLAIMER, register=True)


def _register_terminal(table: Table) -> None:
    heartbeat(table.database, _caller(CLAIMER.session_id), register=True)


# What is on the table, what takes it away, the error, its message and its hint.
CASES: dict[str, tuple[str, str, Act, type[SessionsError], str, str]] = {
    "unique index": (
        "CREATE UNIQUE INDEX theirs ON public.claude_sessions (hostname, lower(tty)) WHERE status <> 'released'",
        "DROP INDEX public.theirs",
        _register,
        DuplicateRefused,
        r"the unique index theirs of public.claude_sessions rejects the row: another row has the same \(hostname,"
        r" lower\(tty\)\) WHERE \(status <> 'released'::text\)",
        "end or prune that session: claude-sessions list --all; another program created the index, so ask its"
        " owner; see it: claude-sessions schema check",
    ),
    "check": (
        f"{ADD} CONSTRAINT theirs CHECK (sd_id <> 'SD-1')",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT theirs",
        _claim,
        SchemaMismatch,
        r"the check theirs of public.claude_sessions rejects the row: CHECK \(\(sd_id <> 'SD-1'::text\)\)",
        "another program created it, so ask its owner; see it: claude-sessions schema check",
    ),
    "changed check": (
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT claude_sessions_status_check;"
        f"{ADD} CONSTRAINT claude_sessions_status_check CHECK (status IN ('active', 'released'))",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT claude_sessions_status_check;"
        f"{ADD} CONSTRAINT claude_sessions_status_check CHECK (status IN ('active', 'idle', 'stale', 'released'))",
        _register,
        SchemaMismatch,
        "the check claude_sessions_status_check of public.claude_sessions rejects the row: CHECK",
        "see what differs: claude-sessions schema check",
    ),
    "key of items": (
        "CREATE TABLE public.items (id text PRIMARY KEY);"
        f"{ADD} CONSTRAINT theirs FOREIGN KEY (sd_id) REFERENCES public.items",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT theirs; DROP TABLE public.items",
        _claim,
        UnknownItem,
        "SD-1: no such work item: the foreign key theirs of public.claude_sessions refers to public.items, which does"
        " not have it",
        "add it to public.items, or correct the name",
    ),
    "deferred key": (
        "CREATE TABLE public.items (id text PRIMARY KEY);"
        f"{ADD} CONSTRAINT theirs FOREIGN KEY (sd_id) REFERENCES public.items DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT theirs; DROP TABLE public.items",
        _claim,
        UnknownItem,
        "SD-1: no such work item",
        "add it to public.items, or correct the name",
    ),
    "another key": (
        "CREATE TABLE public.projects (name text PRIMARY KEY);"
        f"{ADD} CONSTRAINT theirs FOREIGN KEY (codebase) REFERENCES public.projects",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT theirs; DROP TABLE public.projects",
        _register,
        SchemaMismatch,
        r"the foreign key theirs of public.claude_sessions rejects the row: public.projects has no such row:"
        r" FOREIGN KEY \(codebase\) REFERENCES public.projects\(name\)",
        "another program created it, so ask its owner; see it: claude-sessions schema check",
    ),
    # The history's sd_id has the number of this column.
    "key of terminals": (
        "CREATE TABLE public.terminals (name text PRIMARY KEY);"
        f"{ADD} CONSTRAINT theirs FOREIGN KEY (tty) REFERENCES public.terminals",
        "ALTER TABLE public.claude_sessions DROP CONSTRAINT theirs; DROP TABLE public.terminals",
        _register_terminal,
        SchemaMismatch,
        "the foreign key theirs of public.claude_sessions rejects the row: public.terminals has no such row:",
        "another program created it, so ask its owner; see it: claude-sessions schema check",
    ),
    "required column": (
        f'{ADD} "Their own" text; ALTER TABLE public.claude_sessions ALTER COLUMN "Their own" SET NOT NULL',
        'ALTER TABLE public.claude_sessions DROP COLUMN "Their own"',
        _register,
        SchemaMismatch,
        "the column Their own of public.claude_sessions must have a value, and this command has none for it",
        "as its owner: ALTER TABLE public.claude_sessions ALTER COLUMN \"Their own\" SET DEFAULT 'value'; see what"
        " differs: claude-sessions schema check",
    ),
    "required column of ours": (
        "ALTER TABLE public.claude_sessions ALTER COLUMN track SET NOT NULL",
        "ALTER TABLE public.claude_sessions ALTER COLUMN track DROP NOT NULL",
        _register,
        SchemaMismatch,
        "the column track of public.claude_sessions must have a value",
        'as its owner: ALTER TABLE public.claude_sessions ALTER COLUMN "track" DROP NOT NULL; see what differs:'
        " claude-sessions schema check",
    ),
    "trigger": (
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;"
        "CREATE TRIGGER theirs BEFORE UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()",
        "DROP FUNCTION public.theirs CASCADE",
        _claim,
        PermissionDenied,
        "a trigger of the table refused it: not today",
        "list the triggers: claude-sessions schema check",
    ),
    "trigger like a constraint": (
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'frozen' USING ERRCODE = 'check_violation', CONSTRAINT = 'frozen'; END $$;"
        "CREATE TRIGGER theirs BEFORE UPDATE ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()",
        "DROP FUNCTION public.theirs CASCADE",
        _claim,
        SchemaMismatch,
        "frozen",
        "see what differs: claude-sessions schema check",
    ),
}


def test_constraint_that_is_gone_by_then_is_not_described(table: Table) -> None:
    drop = "ALTER TABLE public.claude_sessions DROP CONSTRAINT IF EXISTS theirs"
    with _with(table, f"{ADD} CONSTRAINT theirs CHECK (sd_id <> 'SD-1')", undo=drop):
        refused = pytest.raises(SchemaMismatch, match=r'rejects the change: .* check constraint "theirs"')
        with acting_before("find_constraint", lambda: table.execute(drop)), refused:
            _claim(table)


@pytest.mark.parametrize("case", CASES)
def test_foreign_constraint_is_named_and_nothing_changes(table: Table, case: str) -> None:
    on, off, act, error, message, hint = CASES[case]
    first, *more = [on] if "$$" in on else on.split(";")
    if case == "unique index":
        table.insert("first", status="idle", hostname=CLAIMER.identity.host.hostname, tty="/dev/pts/3")
    before = table.execute("SELECT *, xmin::text FROM public.claude_sessions")
    # Another table has a constraint and an index of that name.
    decoys = "CREATE SCHEMA decoys; CREATE TABLE decoys.items (theirs integer CONSTRAINT theirs CHECK (theirs > 0))"
    index = "CREATE UNIQUE INDEX theirs ON decoys.items (theirs)"
    with _with(table, decoys, index, first, *more, undo=f"DROP SCHEMA decoys CASCADE; {off}"):
        with pytest.raises(error, match=message) as caught:
            act(table)
        assert caught.value.hint == hint
        columns = ", ".join(before[0]).replace("xmin", "xmin::text") if before else "1"
        assert table.execute(f"SELECT {columns} FROM public.claude_sessions") == before
