"""The live table as a Markdown reference."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from commands.answers import apply_schema, execute

from claude_sessions_cli import database
from claude_sessions_cli.errors import SchemaMismatch
from claude_sessions_cli.operations.describe import Title, describe

SEED = (Path(__file__).parent / "seed_reference.md").read_text(encoding="utf-8")
NOON = datetime(2025, 12, 31, 13, 16, 7, 412000, tzinfo=timezone.utc)


def _describe(dsn: str, title: Title = Title()) -> str:  # noqa: B008
    with database.connect(dsn, "the test") as opened:
        return describe(opened, title, NOON)


def test_seed_is_described_to_the_letter(seed_dsn: str) -> None:
    head, _, sections = _describe(seed_dsn).partition("---\n\n")
    assert sections == SEED
    assert head == (
        "# claude_sessions Table\n\n"
        "**Database**: cs_seed\n"
        "**Generated**: 2025-12-31T13:16:07.412Z\n"
        "**Rows**: 0\n"
        "**RLS**: Enabled (2 policies)\n\n"
        "⚠️ **This is a REFERENCE document** - Query database directly for validation\n\n"
    )


def test_title_names_the_application(seed_dsn: str) -> None:
    title = Title("Field - LEO\nProtocol", "prod", "/srv/field", "Directives", "../overview.md")
    lines = _describe(seed_dsn, title).splitlines()
    assert lines[2:6] == [
        "**Application**: Field - LEO Protocol",
        "**Database**: prod",
        "**Repository**: /srv/field",
        "**Purpose**: Directives",
    ]
    assert "⚠️ **CRITICAL**: This schema is for **Field** database. Implementations go in /srv/field" in lines
    assert lines[-3:] == ["---", "", "[← Back to Schema Overview](../overview.md)"]


def test_changed_table_is_described_as_it_is(fresh_database: Callable[..., str]) -> None:
    dsn = apply_schema(fresh_database())
    execute(
        dsn,
        "ALTER TABLE claude_sessions ADD COLUMN \"odd|one\" varchar(20) DEFAULT 'a|b'",
        "COMMENT ON COLUMN claude_sessions.sd_id IS E'the\\nitem'",
        "CREATE POLICY narrow ON claude_sessions AS RESTRICTIVE FOR SELECT USING (pid > 0)",
        "INSERT INTO claude_sessions (session_id) SELECT n::text FROM generate_series(1, 1234) n",
    )
    text = _describe(dsn)
    assert "| odd\\|one | `character varying(20)` | YES | `'a\\|b'::character varying` | - |" in text
    assert "| sd_id | `text` | YES | - | the item |" in text
    assert "**Rows**: 1,234\n**RLS**: Enabled (3 policies)\n" in text
    assert "### 3. narrow (SELECT)\n\n- **Restrictive**\n- **Roles**: {public}\n- **Using**: `(pid > 0)`\n" in text
    assert "\n## Triggers\n\n- `claude_sessions_record_change`\n  ```sql\n  CREATE TRIGGER " in text


def test_missing_table_is_not_described(fresh_database: Callable[..., str]) -> None:
    with pytest.raises(SchemaMismatch, match="is missing"):
        _describe(fresh_database())
