"""Lines and tables of history on terminals of several widths: wrapped at words, and whole in a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Callable

import pytest
from conftest import Table, make_caller

from claude_sessions_cli import cli as program
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.text import width_of
from commands.answers import Inside

UUID = "4f9c2a7e-1b2c-4d3e-8f90-123456789abc"
DERIVED = "session_049d5cb4_pts0_26111"
NOTE = "fix the login of people without a password"
REASON = "bob is away until Monday and the release waits"
Shown = Callable[..., list[str]]
WIDTHS = [80, *(pytest.param(width, marks=pytest.mark.faults) for width in (40, 60, 120, 200))]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, dsn: str) -> Shown:
    """Return a function that runs a command on a terminal, and returns the lines that it prints there."""

    def call(width: int, *argv: str) -> list[str]:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
            for name, value in {"CLAUDE_SESSIONS_DSN": dsn, "NO_COLOR": "1", "TERM": "xterm"}.items():
                patch.setenv(name, value)
            patch.delenv("COLUMNS", raising=False)
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            program.run([*argv])
            printed = os.read(ours, 1 << 16).decode()
        os.close(ours)
        return re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()

    return call


def _fill(full_table: Table) -> None:
    claim(full_table.database, make_caller(UUID), "SD-AUTH-001", note=NOTE)
    claim(full_table.database, make_caller(DERIVED), "SD-AUTH-001", force_reason=REASON)


@pytest.mark.parametrize("width", WIDTHS)
def test_error_is_wrapped_at_words_on_a_terminal(shown: Shown, inside: Inside, full_table: Table, width: int) -> None:
    _fill(full_table)
    command = ("claim", "SD-AUTH-001", "--session", "a")
    lines = shown(width, *command)
    whole = inside(*command, env={"CLAUDE_SESSIONS_DSN": full_table.dsn}).stderr
    assert len(whole.splitlines()) == 1
    # Ages may differ by a second.
    assert [word for word in " ".join(lines).split() if word[0] not in "0123456789"] == [
        word for word in whole.split() if word[0] not in "0123456789"
    ]
    assert max(map(width_of, lines)) <= width
    assert all(line.startswith("  ") for line in lines[1:])


def test_outcome_is_wrapped_at_words_on_a_terminal(shown: Shown, full_table: Table) -> None:
    _fill(full_table)
    lines = shown(40, "claim", "SD-AUTH-001", "--session", "carol", "--force", "--reason", "urgent")
    words = " ".join(lines).split()
    assert max(map(width_of, lines)) <= 40 < len(" ".join(lines))
    assert words[:5] == ["took", "by", "force", "SD-AUTH-001", "from"] and DERIVED in words


def test_terminal_without_a_width_has_80_columns(shown: Shown) -> None:
    lines = shown(0, "list", "--sort", "hots")
    assert lines == [
        "claude-sessions: --sort is not one of state, sd, track, session, host, tty, pid,",
        "  codebase, claimed, heartbeat: 'hots' (did you mean host?)",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_history_fits_its_terminal_with_words_whole(shown: Shown, full_table: Table, width: int) -> None:
    _fill(full_table)
    of_item, of_session = (shown(width, "history", name) for name in ("SD-AUTH-001", DERIVED))
    assert max(map(width_of, [*of_item, *of_session])) <= width
    assert of_item[0].split()[:1] == ["SESSION"] and of_session[0].split()[:1] == ["SD"]
    words = " ".join(of_item).split()
    assert {"session_049d5cb4", "4f9c2a7e"} <= {word[:16] for word in words} | {word[:8] for word in words}
    if width >= 60:
        assert {*f"({REASON})".split(), "forced"} <= set(words)
    if width >= 80:
        assert {*NOTE.split(), "BY"} <= set(words)


def test_timeline_fits_its_terminal(shown: Shown, full_table: Table) -> None:
    _fill(full_table)
    for width in (40, 80):
        assert max(map(width_of, shown(width, "history", "--timeline"))) <= width


def test_history_in_a_pipe_has_a_line_for_each_term(inside: Inside, full_table: Table) -> None:
    _fill(full_table)
    lines = inside("history", "SD-AUTH-001", env={"CLAUDE_SESSIONS_DSN": full_table.dsn}).stdout.splitlines()
    assert len(lines) == 3
    assert NOTE in lines[2] and f"forced ({REASON})" in lines[2] and UUID in lines[2] and DERIVED in lines[1]
