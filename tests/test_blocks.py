"""The blocks of the documents: what a console shows happens, and each command line parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import Block, Reader, blocks
from test_docs import DOCUMENTS, PACKAGE, ROOT

from claude_sessions_cli import database
from claude_sessions_cli.operations import schema

LANGUAGES = {"console", "sh", "sql", "toml", "tmux", "text"}
WITH_CONSOLES = [path for path in DOCUMENTS if any(block.language == "console" for block in blocks(path))]
# Consoles that show what cannot be had here; by their heading, with the reason.
NOT_RUN = {
    "A command was stopped with exit 4": "a database that goes away under a command",
    "The database fell silent": "a network that drops every packet",
    "Permission denied: exit 8": "a server without the roles anon and authenticated",
    "The item is locked by another connection: exit 6": "a claim that waits ten seconds for a lock",
    "The server takes no writes: exit 6": "a hot standby",
    "The server is full": "a role that logs in",
    "A pooler refuses the connection": "PgBouncer",
    "It is not installed": "an installation without the extra",
    "The lock is held": "another container on the same home",
    "A directory is closed to the server": "root",
}


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(re.sub(r'^eval "\$\((.*)\)"', r"\1", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _calls(line: str) -> Iterator[list[str]]:
    """Return the words after each call of the program in a command line."""
    words = _words(line)
    for start in [number for number, word in enumerate(words) if word == "claude-sessions"]:
        rest = words[start + 1 :]
        ends = [number for number, word in enumerate(rest) if re.fullmatch(r"[|&;<>()]+", word)]
        yield rest[: ends[0]] if ends else rest


def _parse(words: list[str], *, resilient: bool = False) -> None:
    """Read the options and arguments of a call; raise an error of usage."""
    command: Any = ROOT
    context = command.make_context("claude-sessions", words, resilient_parsing=resilient)
    while left := hasattr(command, "list_commands") and [*context._protected_args, *context.args]:
        name, command, rest = command.resolve_command(context, left)
        context = command.make_context(name, rest, parent=context, resilient_parsing=resilient)


def test_each_command_line_of_the_documents_parses() -> None:
    called = 0
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language in LANGUAGES, f"{document.name}, {block.heading}: {block.language!r}"
            for line in block.commands if block.language in ("console", "sh") else ():
                for words in _calls(line):
                    _parse(words)
                    called += 1
        text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for quoted in re.findall(r"`(claude-sessions [^`]+)`", text.replace("\n", " ")):
            # `[SD]` and `bash|zsh` stand for words, and a COMMAND for any.
            if not re.search(r"[\[|…]|\.\.\.| COMMAND --help", quoted):
                for words in _calls(quoted):
                    _parse(words, resilient=True)
                    called += 1
    assert called > 100


@pytest.mark.parametrize(
    "document",
    [path if path.stem == "README" else pytest.param(path, marks=pytest.mark.faults) for path in WITH_CONSOLES],
    ids=lambda path: path.stem,
)
def test_consoles_show_what_happens(
    document: Path, make_role: Callable[..., str], fresh_database: Callable[..., str]
) -> None:
    for name in ("worker", "intern"):
        make_role(name)
    dsn = fresh_database()
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    reader, wrong = Reader(dsn), []
    with reader.stack:
        for block in _run_here(document):
            for step, printed in reader.read(block):
                shown = reader.plain(step.output)
                if reader.plain(printed) != shown:
                    wrong.append(f"{block.heading}\n$ {step.command}\n{printed}")
    assert not wrong, "\n\n".join(wrong)


def _run_here(document: Path) -> list[Block]:
    return [block for block in blocks(document) if block.language == "console" and block.heading not in NOT_RUN]


def test_blocks_that_are_not_run_quote_real_messages() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    left = [block for path in DOCUMENTS for block in blocks(path) if block.heading in NOT_RUN]
    assert {block.heading for block in left} == set(NOT_RUN)
    for step in [step for block in left for step in block.steps]:
        words = step.output.split()
        assert any(" ".join(words[start : start + 4]) in sources for start in range(len(words) - 3)), step.output
