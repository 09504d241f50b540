"""The program's help: sections, and one line for each command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from claude_sessions_cli import cli
from claude_sessions_cli.cli import COMMANDS
from claude_sessions_cli.manual import SECTIONS

HELP_LIMIT = 45


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield path + name, command
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{path}{name} ")


VISIBLE = {name: command for name, command in _commands(get_command(cli.app)) if not command.hidden}


def test_one_line_help_is_a_short_sentence() -> None:
    lines = {name: command.get_short_help_str(200) for name, command in VISIBLE.items()}
    too_long = {name: line for name, line in lines.items() if len(line) > HELP_LIMIT}
    no_sentence = {name: line for name, line in lines.items() if not (line[:1].isupper() and line.endswith("."))}
    assert (too_long, no_sentence) == ({}, {})


def test_help_is_not_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in {"": get_command(cli.app), **VISIBLE}.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            usage, *lines = context.get_help().splitlines()
        assert [line for line in lines if line.endswith(("...", "…")) or len(line) > 80] == [], usage


def test_each_visible_command_is_in_one_section() -> None:
    in_sections = [name for names in SECTIONS.values() for name in names]
    assert sorted(in_sections) == sorted(name for name in VISIBLE if " " not in name)
    assert len(set(COMMANDS)) == len(COMMANDS)


def test_help_shows_commands_under_their_sections() -> None:
    text = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output
    for section, names in SECTIONS.items():
        block = text.partition(f"\n{section}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in block.splitlines()] == list(names)
