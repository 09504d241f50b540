"""Schema: apply the shipped DDL files, and compare the live catalog with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from claude_sessions_cli import queries
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import PermissionDenied, SchemaMismatch, SessionsError, UsageError, unknown_word
from claude_sessions_cli.failures import WaitedInVain
from claude_sessions_cli.operations.mend import APPLY, Catalog, mend
from claude_sessions_cli.transaction import Statement, Transaction

LEAST_PRIVILEGE = "least_privilege"
HINTS: dict[type[SessionsError], str] = {
    PermissionDenied: f"as the table's owner or an administrator: {APPLY}",
    WaitedInVain: f"when no other transaction keeps the table: {APPLY}; or in psql, without a limit of time:"
    " claude-sessions schema print",
}


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """A column, constraint, index, policy, trigger or setting of the table, in the catalog's words."""

    kind: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of the live table: `missing`, `changed` or `extra`, and the file that it concerns.

    `mend` is what ends it, a statement or a command; None for an extra object.
    """

    difference: str
    kind: str
    name: str
    expected: str | None
    found: str | None
    file: str | None
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """The objects that one DDL file created or replaced, and those that it removed.

    `differences` are the objects of the file that are still missing or changed.
    """

    file: str
    created: list[CatalogObject]
    removed: list[CatalogObject] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OptionalFile:
    """An optional DDL file, and whether any of its objects is there."""

    file: str
    in_force: bool


@dataclass(frozen=True, slots=True)
class Writer:
    """A role that may change an object: its `deeds`, by grants and policies.

    `is_expected` says whether the DDL files in force allow it. Superusers and the owner are no writers in this sense.
    """

    role: str
    object: str
    deeds: list[str]
    is_expected: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """The differences of the live table from the DDL files, which optional files are in force, and who may write."""

    differences: list[Difference]
    optional: list[OptionalFile]
    writers: list[Writer]


def ddl_files() -> list[Path]:
    """Return the DDL files in the order in which they are applied."""
    return sorted((queries.directory() / "ddl").glob("*.sql"))


def optional_files() -> list[Path]:
    """Return the DDL files that are applied only by name."""
    return sorted((queries.directory() / "ddl/optional").glob("*.sql"))


def _name(path: Path) -> str:
    return f"optional/{path.name}" if path in optional_files() else path.name


def apply(database: Database, *, grant: str | None = None, optional: Sequence[str] = ()) -> list[AppliedFile]:
    """Apply every DDL file, each in a transaction of its own; then grant the role `grant` its rights.

    Also applies the optional files that are named in `optional` or in force. Idempotent. Raises UsageError
    if that role or a named file does not exist, SchemaMismatch if the table's rows conflict with a file,
    PermissionDenied without the right to apply one, WaitedInVain if a lock does not come; those before it stay applied.
    """
    known = {path.stem: path for path in optional_files()}
    for name in optional:
        if name not in known:
            raise unknown_word(
                f"--optional: no such file: {name[:60]!r}", name, [*known], f"name one of {', '.join(known)}"
            )
    if grant is not None:
        database.alter(_require_role, grant)
        if grant in ("anon", "authenticated") and LEAST_PRIVILEGE in (*optional, *_in_force(database)):
            raise UsageError(
                f"--grant: {LEAST_PRIVILEGE}.sql keeps {grant} from writing", "grant a role of the workers' own"
            )
    applied = [_apply(database, path) for path in ddl_files()]
    wanted = {*optional, *_in_force(database)}
    applied += [_apply(database, path) for name, path in known.items() if name in wanted]
    if grant is not None:
        database.alter(_grant, grant)
    left = [found for found in check(database) if found.difference != "extra"]
    return [replace(file, differences=[found for found in left if found.file == file.file]) for file in applied]


def _apply(database: Database, path: Path) -> AppliedFile:
    try:
        return database.alter(_apply_file, path)
    except SessionsError as error:
        # The tool needs the table alone.
        works_on = "" if path == ddl_files()[0] else ", and commands keep working without it"
        hint = HINTS.get(type(error), error.hint)
        raise type(error)(f"{_name(path)} is not applied{works_on}: {error.message}", hint) from error


def _require_role(tx: Transaction, role: str) -> None:
    [found] = tx.send(Statement("role_exists", role=role))
    if not found[0]["role_exists"]:
        raise UsageError(f"--grant: role {role!r} does not exist on this server", "create it first: CREATE ROLE")


def _grant(tx: Transaction, role: str) -> None:
    tx.script(queries.get("grant_access"), role=role)


def _apply_file(tx: Transaction, path: Path) -> AppliedFile:
    before = _read_catalog(tx)
    tx.script(path.read_text(encoding="utf-8"))
    after = _read_catalog(tx)
    kept = {(found.kind, found.name) for found in after}
    return AppliedFile(
        _name(path),
        [found for found in after if found not in before],
        [found for found in before if (found.kind, found.name) not in kept],
    )


def check(database: Database) -> list[Difference]:
    """Return the differences between the live table and the DDL files; those of optional files only if in force.

    Raises SchemaMismatch if the table is missing.
    """
    return inspect(database).differences


def inspect(database: Database) -> Inspection:
    """As `check`, and which optional files are in force, and who may write the tables."""
    objects, writers = database.inspect(_read_schema)
    if not objects:
        raise SchemaMismatch("the table public.claude_sessions is missing", "create it: claude-sessions schema apply")
    live = _by_place(objects)
    optional = _optional(live)
    shipped = expected_catalog({found.file for found in optional if found.in_force})
    definitions = {place: definition for place, (_, definition) in shipped.items()}
    differences = []
    for (kind, name), (file, definition) in shipped.items():
        found = live.get((kind, name))
        if found != definition:
            word = "missing" if found is None else "changed"
            mended_by = mend(kind, name, definition, live, definitions)
            differences.append(Difference(word, kind, name, definition, found, file, mended_by))
    for (kind, name), definition in live.items():
        if (kind, name) not in shipped:
            differences.append(Difference("extra", kind, name, None, definition, None))
    differences += [_excess(writer) for writer in writers if not writer.is_expected]
    return Inspection(differences, optional, writers)


def _excess(writer: Writer) -> Difference:
    file = f"optional/{LEAST_PRIVILEGE}.sql" if writer.object == "claude_sessions" else "003_history.sql"
    name = f"{writer.role} on {writer.object}"
    return Difference("changed", "privileges", name, "none of these", ", ".join(writer.deeds), file, APPLY)


def _by_place(objects: list[CatalogObject]) -> dict[tuple[str, str], str]:
    return {(found.kind, found.name): found.definition for found in objects}


def _in_force(database: Database) -> list[str]:
    """Return the names of the optional files in force."""
    live = _by_place(database.inspect(_read_catalog))
    return [Path(found.file).stem for found in _optional(live) if found.in_force]


def _optional(live: Catalog) -> list[OptionalFile]:
    # An administrator may have chosen the same settings.
    there = {
        file
        for file, kind, name, definition in _shipped_rows()
        if definition and kind != "setting" and (kind, name) in live
    }
    return [OptionalFile(_name(path), _name(path) in there) for path in optional_files()]


def expected_catalog(in_force: Collection[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the objects of the DDL files, and of the optional ones `in_force`: (kind, name) to (file, definition)."""
    expected = {}
    for file, kind, name, definition in _shipped_rows():
        if file in in_force or not file.startswith("optional/"):
            expected[kind, name] = (file, definition)
    # An optional file removes what it lists without a definition.
    return {place: made for place, made in expected.items() if made[1]}


def _shipped_rows() -> list[list[str]]:
    lines = (queries.directory() / "catalog.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def _read_schema(tx: Transaction) -> tuple[list[CatalogObject], list[Writer]]:
    objects, writers = tx.send(Statement("read_catalog"), Statement("list_writers"))
    return [CatalogObject(**row) for row in objects], [Writer(**row) for row in writers]


def _read_catalog(tx: Transaction) -> list[CatalogObject]:
    [found] = tx.send(Statement("read_catalog"))
    return [CatalogObject(**row) for row in found]
