"""The names in `predicates.py`, by which `make predicates` finds its tests."""

from __future__ import annotations

import ast
from pathlib import Path

import predicates

CHECKOUT = Path(__file__).parents[1]
NAMED = {name for names in predicates.TESTS.values() for name in names}


def _tests(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def _missing(name: str) -> bool:
    file, _, test = predicates.address(name).partition("::")
    path = CHECKOUT / file
    return not path.is_file() or bool(test and test not in _tests(path))


def _all_tests() -> set[str]:
    files = {CHECKOUT / predicates.address(name).partition("::")[0] for name in NAMED}
    return {test for path in files for test in _tests(path)}


def test_each_named_file_and_test_exists() -> None:
    assert sorted(filter(_missing, NAMED)) == []


def test_each_statement_and_file_has_tests() -> None:
    files = [*(CHECKOUT / "sql/queries").glob("*.sql"), *(CHECKOUT / "sql/ddl").glob("*.sql")]
    assert {path.stem for path in files if predicates.Source(path).mutants()} <= set(predicates.TESTS)
    assert set(predicates.TESTS) <= {path.stem for path in files}


def test_each_omitted_test_exists() -> None:
    tests = _all_tests()
    assert [test for test in predicates.COMPARED_BY_TEXT if test not in tests] == []
    assert [word for word in predicates.LEFT_OUT if not any(word in test for test in tests)] == []
