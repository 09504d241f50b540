"""What help adds to the commands: examples that parse, codes and names that exist; topics; the manual page."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from test_docs import CHECKOUT, COMMANDS, REFERENCE
from typer.main import get_command

from claude_sessions_cli import cli as program
from claude_sessions_cli import errors, manual
from claude_sessions_cli.model import Label

CODES = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_each_command_has_a_page() -> None:
    assert set(manual.PAGES) == set(COMMANDS)
    assert {code for page in manual.PAGES.values() for code in page.codes} <= CODES


@pytest.mark.parametrize("command", manual.PAGES)
def test_examples_parse_and_relations_exist(command: str) -> None:
    root: Any = get_command(program.app)
    for example in manual.PAGES[command].examples:
        words = shlex.split(example)
        assert words[: len(command.split())] == command.split()
        found: Any = root
        with root.make_context("claude-sessions", words, resilient_parsing=True) as context:
            for word in command.split():
                found = found.get_command(context, word)
            # Without a database: only the options and arguments are read.
            found.make_context(command, words[len(command.split()) :], parent=context).close()
    for other in manual.PAGES[command].see_also:
        name, _, topic = other.partition(" ")
        assert other in COMMANDS or (name == "help" and topic in manual.topics()), other


def test_topics_fit_a_terminal() -> None:
    assert {"exit-codes", "environment", "states", "identity", "json", "files"} == set(manual.topics())
    for name in manual.topics():
        assert max(map(len, manual.topic(name).splitlines())) <= 80, name


def test_topics_name_everything_of_their_kind() -> None:
    codes = {int(code) for code in re.findall(r"^  (\d+) ", manual.topic("exit-codes"), re.MULTILINE)}
    assert codes | {errors.EXIT_TIMED_OUT, errors.EXIT_NOT_EXECUTABLE, errors.EXIT_NOT_FOUND} == {0, *CODES}
    variables = re.findall(r"^  (CLAUDE_\w+) ", manual.topic("environment"), re.MULTILINE)
    sections = ("Settings", "Identity", "Exported for programs")
    assert set(variables) == {
        name for section in sections for name in re.findall(r"^\| `(CLAUDE_\w+)`", REFERENCE[section], re.MULTILINE)
    }
    assert re.findall(r"^  ([A-Z]+) ", manual.topic("states"), re.MULTILINE) == [label.value for label in Label]


def test_help_shows_topics_commands_and_the_nearest(cli: Cli) -> None:
    assert "environment, exit-codes, files, identity, json, states" in cli("help").stdout
    assert cli("help", "states").stdout == manual.topic("states")
    shown = cli("help", "db", "stop").stdout
    assert shown == cli("db", "stop", "--help").stdout
    assert "\n  Examples:\n    claude-sessions db stop\n" in shown
    done = cli("help", "state")
    assert (done.returncode, done.stderr) == (
        2,
        "claude-sessions: no such topic or command: 'state' (did you mean states?)\n",
    )


def test_manual_page_is_that_of_the_help(tmp_path: Path) -> None:
    generate = runpy.run_path(str(CHECKOUT / "docs" / "man_page.py"))["generate"]
    page = CHECKOUT / "docs" / "claude-sessions.1"
    assert page.read_text(encoding="utf-8") == generate(), "make generated"
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tascii", "-ww", page], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
