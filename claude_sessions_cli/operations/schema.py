"""The schema: apply the shipped DDL files, and check the live catalog against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli import queries
from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.errors import SchemaMismatch, UsageError


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """A column, constraint, index, policy, trigger or setting of the table, as the catalog words it."""

    kind: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """What one DDL file did: the objects that are new or not as they were before."""

    file: str
    created: list[CatalogObject]


@dataclass(frozen=True, slots=True)
class Difference:
    """How the live table differs: `missing`, `changed` or `extra`, and from which file."""

    difference: str
    kind: str
    name: str
    expected: str | None
    found: str | None
    file: str | None


def ddl_files() -> list[Path]:
    """Return the DDL files in the order in which they are applied."""
    return sorted((queries.directory() / "ddl").glob("*.sql"))


def apply(database: Database, *, grant: str | None = None) -> list[AppliedFile]:
    """Apply every DDL file, each in a transaction of its own; then give the role `grant` what it needs.

    Idempotent. Raises UsageError where that role does not exist, SchemaMismatch where the table's rows forbid a file.
    """
    if grant is not None:
        _require_role(database, grant)
    applied = [database.transact_schema(lambda tx, path=path: _apply_file(tx, path)) for path in ddl_files()]  # type: ignore[misc]
    if grant is not None:
        database.transact_schema(lambda tx: tx.script(queries.get("grant_access"), role=grant))
    return applied


def _require_role(database: Database, role: str) -> None:
    found = database.transact_schema(lambda tx: tx.one("role_exists", role=role))
    if not found or not found["role_exists"]:
        raise UsageError(f"--grant: there is no role {role!r} on this server")


def _apply_file(tx: Transaction, path: Path) -> AppliedFile:
    before = set(_read_catalog(tx))
    tx.script(path.read_text(encoding="utf-8"))
    return AppliedFile(path.name, [found for found in _read_catalog(tx) if found not in before])


def check(database: Database) -> list[Difference]:
    """Return how the live table differs from what the DDL files make; empty where it does not.

    Raises SchemaMismatch where there is no table at all.
    """
    live = {(found.kind, found.name): found.definition for found in database.transact_schema(_read_catalog)}
    if not live:
        raise SchemaMismatch("there is no table public.claude_sessions", "create it: claude-sessions schema apply")
    shipped = expected_catalog()
    differences = []
    for (kind, name), (file, definition) in shipped.items():
        found = live.get((kind, name))
        if found != definition:
            word = "missing" if found is None else "changed"
            differences.append(Difference(word, kind, name, definition, found, file))
    for (kind, name), definition in live.items():
        if (kind, name) not in shipped:
            differences.append(Difference("extra", kind, name, None, definition, None))
    return differences


def expected_catalog() -> dict[tuple[str, str], tuple[str, str]]:
    """Return what the DDL files make: (kind, name) to (file, definition)."""
    lines = (queries.directory() / "catalog.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {(kind, name): (file, definition) for file, kind, name, definition in rows}


def _read_catalog(tx: Transaction) -> list[CatalogObject]:
    return [CatalogObject(**row) for row in tx.all("read_catalog")]
