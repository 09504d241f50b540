"""Schema: apply the shipped DDL files, and compare the live catalog with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli import queries
from claude_sessions_cli.database import Database, Statement, Transaction
from claude_sessions_cli.errors import SchemaMismatch, UsageError

# Objects by kind and name, in the catalog's words.
Catalog = dict[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """A column, constraint, index, policy, trigger or setting of the table, in the catalog's words."""

    kind: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """The objects that one DDL file created or changed."""

    file: str
    created: list[CatalogObject]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of the live table: `missing`, `changed` or `extra`, and the file that it concerns."""

    difference: str
    kind: str
    name: str
    expected: str | None
    found: str | None
    file: str | None


@dataclass(frozen=True, slots=True)
class OptionalFile:
    """An optional DDL file, and whether any of its objects is there."""

    file: str
    in_force: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """The differences of the live table from the DDL files, and which optional files are in force."""

    differences: list[Difference]
    optional: list[OptionalFile]


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

    Of the optional files, those named in `optional` and those in force are applied too. Idempotent. Raises UsageError
    if that role or a named file does not exist, SchemaMismatch if the table's rows conflict with a file.
    """
    known = {path.stem: path for path in optional_files()}
    for name in optional:
        if name not in known:
            raise UsageError(f"--optional: no such file: {name[:60]!r}", f"the optional files: {', '.join(known)}")
    if grant is not None:
        database.alter(_require_role, grant)
    applied = [database.alter(_apply_file, path) for path in ddl_files()]
    in_force = {found.file for found in _optional(_live(database)) if found.in_force}
    applied += [
        database.alter(_apply_file, path) for name, path in known.items() if name in optional or _name(path) in in_force
    ]
    if grant is not None:
        database.alter(_grant, grant)
    return applied


def _require_role(tx: Transaction, role: str) -> None:
    [found] = tx.send(Statement("role_exists", role=role))
    if not found[0]["role_exists"]:
        raise UsageError(f"--grant: role {role!r} does not exist on this server", "create it first: CREATE ROLE")


def _grant(tx: Transaction, role: str) -> None:
    tx.script(queries.get("grant_access"), role=role)


def _apply_file(tx: Transaction, path: Path) -> AppliedFile:
    before = set(_read_catalog(tx))
    tx.script(path.read_text(encoding="utf-8"))
    return AppliedFile(_name(path), [found for found in _read_catalog(tx) if found not in before])


def check(database: Database) -> list[Difference]:
    """Return the differences between the live table and the DDL files; those of optional files only if in force.

    Raises SchemaMismatch if the table is missing.
    """
    return inspect(database).differences


def inspect(database: Database) -> Inspection:
    """As `check`, and which optional files are in force."""
    live = _live(database)
    if not live:
        raise SchemaMismatch("the table public.claude_sessions is missing", "create it: claude-sessions schema apply")
    optional = _optional(live)
    idle = {found.file for found in optional if not found.in_force}
    shipped = {place: made for place, made in expected_catalog().items() if made[0] not in idle}
    differences = []
    for (kind, name), (file, definition) in shipped.items():
        found = live.get((kind, name))
        if found != definition:
            word = "missing" if found is None else "changed"
            differences.append(Difference(word, kind, name, definition, found, file))
    for (kind, name), definition in live.items():
        if (kind, name) not in shipped:
            differences.append(Difference("extra", kind, name, None, definition, None))
    return Inspection(differences, optional)


def _live(database: Database) -> Catalog:
    return {(found.kind, found.name): found.definition for found in database.inspect(_read_catalog)}


def _optional(live: Catalog) -> list[OptionalFile]:
    there = {file for place, (file, _) in expected_catalog().items() if place in live}
    return [OptionalFile(_name(path), _name(path) in there) for path in optional_files()]


def expected_catalog() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the objects of the DDL files, the optional ones too: (kind, name) to (file, definition)."""
    lines = (queries.directory() / "catalog.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {(kind, name): (file, definition) for file, kind, name, definition in rows}


def _read_catalog(tx: Transaction) -> list[CatalogObject]:
    [found] = tx.send(Statement("read_catalog"))
    return [CatalogObject(**row) for row in found]
