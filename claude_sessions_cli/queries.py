"""The SQL of the tool, one statement or transaction step per file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Fragments that several queries share; a query names one as {name}.
FRAGMENTS = (
    "session_columns",
    "seen_columns",
    "merged_metadata",
    "prunable",
    "written_row",
    "written_heartbeats",
    "listed",
    "has_terminals",
    "new_session",
    "over",
    "reapable",
    "live",
)


def directory() -> Path:
    """Return the directory `sql`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "sql"
    return installed if installed.is_dir() else package.parent / "sql"


@cache
def get(name: str) -> str:
    """Return the text of a query.

    >>> get("lock_work_item").splitlines()[-1]
    'SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext(%(sd_id)s::text));'
    """
    text = (directory() / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    for fragment in FRAGMENTS:
        if "{" + fragment + "}" in text:
            text = text.replace("{" + fragment + "}", _without_header(get(fragment)))
    return text.rstrip()


def _without_header(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("--"))
