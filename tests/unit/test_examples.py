"""The examples of the docstrings show what happens."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import claude_sessions_cli

PACKAGE = Path(claude_sessions_cli.__file__).parent
WITH_EXAMPLES = sorted(path.stem for path in PACKAGE.glob("*.py") if "    >>> " in path.read_text())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings(name: str) -> None:
    result = doctest.testmod(import_module(f"claude_sessions_cli.{name}"))
    assert result.attempted and not result.failed
