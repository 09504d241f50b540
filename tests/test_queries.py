"""The query files: each used, each named, each with its header."""

from __future__ import annotations

import re
from pathlib import Path

from claude_sessions_cli import queries

PACKAGE = Path(queries.__file__).parent
TEXTS = {path.stem: path.read_text() for path in (queries.directory() / "queries").glob("*.sql")}
SOURCE = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
CALLS = r'(?:(?:tx|self)\.(?:one|all|session|sessions|run|_send)|queries\.get)\(\s*"(\w+)"'


def _header(name: str) -> str:
    return " ".join(line.removeprefix("--").strip() for line in TEXTS[name].splitlines() if line.startswith("--"))


def test_every_query_file_is_used() -> None:
    assert [name for name in TEXTS if f'"{name}"' not in SOURCE] == []


def test_every_named_query_has_a_file() -> None:
    named = set(re.findall(CALLS, SOURCE))
    assert named
    assert named - set(TEXTS) == set()


def test_every_header_states_parameters_and_returns() -> None:
    assert [name for name in TEXTS if "Parameters: " not in _header(name)] == []
    assert [name for name in TEXTS if name not in queries.FRAGMENTS and "Returns: " not in _header(name)] == []


def test_every_header_names_the_parameters_of_its_query() -> None:
    used = {(name, parameter) for name, text in TEXTS.items() for parameter in re.findall(r"%\((\w+)\)s", text)}
    assert used
    assert [pair for pair in sorted(used) if not re.search(rf"\b{pair[1]}\b", _header(pair[0]))] == []


def test_no_fragment_is_left_in_a_query() -> None:
    assert [name for name in TEXTS if re.search(r"\{[a-z_]+\}", queries.get(name))] == []
