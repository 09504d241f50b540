"""The query files: each used, each named, each with its header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from claude_sessions_cli import queries

PACKAGE = Path(queries.__file__).parent
FILES = sorted(path.stem for path in (queries.directory() / "queries").glob("*.sql"))
SOURCE = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", FILES)
def test_a_query_file_is_used(name: str) -> None:
    assert f'"{name}"' in SOURCE


CALLS = r'(?:(?:tx|self)\.(?:one|all|session|sessions|run|_send)|queries\.get)\(\s*"(\w+)"'


@pytest.mark.parametrize("name", sorted(set(re.findall(CALLS, SOURCE))))
def test_a_named_query_has_a_file(name: str) -> None:
    assert name in FILES


@pytest.mark.parametrize("name", FILES)
def test_a_query_file_says_what_it_takes_and_gives(name: str) -> None:
    header = "".join(
        line.removeprefix("--").strip() + " "
        for line in (queries.directory() / "queries" / f"{name}.sql").read_text().splitlines()
        if line.startswith("--")
    )
    assert "Parameters: " in header
    assert name in queries.FRAGMENTS or "Returns: " in header


@pytest.mark.parametrize("name", FILES)
def test_a_header_names_the_parameters_of_its_query(name: str) -> None:
    text = queries.get(name)
    header = " ".join(line for line in text.splitlines() if line.startswith("--"))
    own = (queries.directory() / "queries" / f"{name}.sql").read_text()
    for parameter in set(re.findall(r"%\((\w+)\)s", own)):
        assert re.search(rf"\b{parameter}\b", header), parameter


def test_no_fragment_is_left_in_a_query() -> None:
    for name in FILES:
        assert not re.search(r"\{[a-z_]+\}", queries.get(name)), name
