"""Describe: the live table as a Markdown reference. Never writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SchemaMismatch
from claude_sessions_cli.transaction import Rows, Statement, Transaction

CONSTRAINTS = {
    "primary key": "Primary Key",
    "foreign key": "Foreign Keys",
    "unique": "Unique Constraints",
    "check": "Check Constraints",
    "other": "Other Constraints",
}


@dataclass(frozen=True, slots=True)
class Title:
    """What the head of the reference says of the application; `overview` is the link at its end."""

    application: str | None = None
    database: str | None = None
    repository: str | None = None
    purpose: str | None = None
    overview: str | None = None


def describe(database: Database, title: Title, now: datetime | None = None) -> str:
    """Return the reference. Raises SchemaMismatch if the table is missing."""
    table, columns, parts = database.inspect(_look, now)
    number = database.read(_count)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        kinds.setdefault(part["kind"], []).append(part)
    sections = [
        _head(title, table, number, len(kinds.get("policy", ()))),
        _columns(columns),
        _constraints(kinds),
        _definitions("Indexes", kinds.get("index", ())),
        _policies(kinds.get("policy", ())),
        _definitions("Triggers", kinds.get("trigger", ())),
    ]
    text = "\n".join("\n".join(lines) + "\n" for lines in map(list, sections) if lines)
    return text + (f"\n---\n\n[← Back to Schema Overview]({title.overview})\n" if title.overview else "")


def _look(tx: Transaction, now: datetime | None) -> tuple[dict[str, Any], Rows, Rows]:
    [table] = tx.send(Statement("describe_table", now=now))
    if not table:
        raise SchemaMismatch("the table public.claude_sessions is missing", "create it: claude-sessions schema apply")
    columns, parts = tx.commit(Statement("list_columns"), Statement("list_table_parts"))
    return table[0], columns, parts


def _count(tx: Transaction) -> int:
    [[row]] = tx.commit(Statement("count_rows"))
    return int(row["number"])


def _head(title: Title, table: dict[str, Any], rows: int, policies: int) -> Iterator[str]:
    yield "# claude_sessions Table"
    yield ""
    generated = table["generated_at"].astimezone(timezone.utc).replace(tzinfo=None)
    security = f"Enabled ({policies} {'policy' if policies == 1 else 'policies'})"
    facts = {
        "Application": title.application,
        "Database": title.database or table["database"],
        "Repository": title.repository,
        "Purpose": title.purpose,
        "Generated": f"{generated.isoformat(timespec='milliseconds')}Z",
        "Rows": f"{rows:,}",
        "RLS": security if table["row_security"] else "Disabled",
    }
    yield from (f"**{name}**: {_line(value)}" for name, value in facts.items() if value)
    yield ""
    yield "⚠️ **This is a REFERENCE document** - Query database directly for validation"
    if title.application and title.repository:
        name = title.application.partition(" - ")[0]
        yield ""
        yield (
            f"⚠️ **CRITICAL**: This schema is for **{_line(name)}** database."
            f" Implementations go in {_line(title.repository)}"
        )
    yield ""
    yield "---"


def _columns(columns: Rows) -> Iterator[str]:
    yield f"## Columns ({len(columns)} total)"
    yield ""
    yield "| Column | Type | Nullable | Default | Description |"
    yield "|--------|------|----------|---------|-------------|"
    for column in columns:
        nullable = "YES" if column["nullable"] else "**NO**"
        default = f"`{_cell(column['default_text'])}`" if column["default_text"] else "-"
        description = _cell(column["description"] or "-")
        yield f"| {_cell(column['name'])} | `{_cell(column['type'])}` | {nullable} | {default} | {description} |"


def _constraints(kinds: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "## Constraints"
    for kind, head in CONSTRAINTS.items():
        if kind in kinds:
            yield ""
            yield f"### {head}"
            yield from (f"- `{_line(part['name'])}`: {_line(part['definition'])}" for part in kinds[kind])


def _definitions(head: str, parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not parts:
        return
    yield f"## {head}"
    yield ""
    for part in parts:
        yield f"- `{_line(part['name'])}`"
        yield "  ```sql"
        yield f"  {_line(part['definition'])}"
        yield "  ```"


def _policies(parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    if parts:
        yield "## RLS Policies"
    for number, part in enumerate(parts, 1):
        yield ""
        yield f"### {number}. {_line(part['name'])} ({part['command']})"
        yield ""
        if part["definition"] == "RESTRICTIVE":
            yield "- **Restrictive**"
        yield f"- **Roles**: {_line(part['roles'])}"
        if part["using_text"]:
            yield f"- **Using**: `{_line(part['using_text'])}`"
        if part["check_text"]:
            yield f"- **With Check**: `{_line(part['check_text'])}`"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
