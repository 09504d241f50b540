"""Errors: each has a next step, and the commands that hints name exist."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from commands.answers import require_commands

import claude_sessions_cli

PACKAGE = Path(claude_sessions_cli.__file__).parent
# What stands in a hint for a value, and what the value may be.
VALUES = {"install ": "cron", "config unset ": "dsn", "claude-sessions ": "list"}


def _texts(node: ast.AST) -> Iterator[str]:
    """Return the texts of a module that a person may read, values in them replaced."""
    if isinstance(node, ast.JoinedStr):
        text = ""
        for part in node.values:
            value = next((value for end, value in VALUES.items() if text.endswith(end)), "1")
            text += str(part.value) if isinstance(part, ast.Constant) else value
        yield text
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    # A text alone is a docstring.
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def test_each_command_of_a_hint_in_the_source_parses() -> None:
    named = 0
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for text in _texts(ast.parse(source)) if "claude-sessions " in source else ():
            # A next step is a command after a colon, or is one itself.
            if ": claude-sessions " in text or text.startswith("claude-sessions "):
                named += require_commands(text, str(path))
    assert named > 40
