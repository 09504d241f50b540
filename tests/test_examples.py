"""The examples of the docstrings show what happens."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import claude_sessions_cli

PACKAGE = Path(claude_sessions_cli.__file__).parent
FILES = (path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text())
WITH_EXAMPLES = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted and not result.failed
