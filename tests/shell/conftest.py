"""Fixtures of the tests in real shells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from run_bench import PROGRAM
from terminal import end_all

from claude_sessions_cli import database
from claude_sessions_cli.operations import schema
from shell.hooks import NEVER, Calls, Open, Window, hook


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close at the end what a test has opened."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Return a program that records its calls."""
    return Calls(tmp_path)


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the terminals' files."""
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    place = tmp_path / "state" / "terminals"
    place.mkdir(parents=True, mode=0o700)
    return place


@pytest.fixture
def window(stack: ExitStack, tmp_path: Path, states: Path, calls: Calls) -> Open:
    """Return a function that opens a window whose shell is hooked to `calls`."""

    def start(
        name: str, before: str = "", after: str = "", every: float = NEVER, more: dict[str, str] | None = None
    ) -> Window:
        lines = f"{before}\n{hook(tmp_path, name, calls.program, every)}\n{after}"
        made = Window(tmp_path, name, lines, more)
        stack.callback(made.close)
        return made

    return start


@pytest.fixture
def other_dsn(fresh_database: Callable[..., str]) -> str:
    """Return the DSN of a second database, whose table is empty."""
    dsn = fresh_database()
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
    return dsn


@pytest.fixture
def real(stack: ExitStack, tmp_path: Path, states: Path) -> Open:
    """Return a function that opens a window whose shell is hooked to the real program on the database of `dsn`."""
    stack.callback(end_all, tmp_path)

    def start(
        name: str, dsn: str, every: float = NEVER, before: str = "", more: dict[str, str] | None = None
    ) -> Window:
        kept = {name: value for name, value in os.environ.items() if name in ("CLAUDE_SESSIONS_STATE_DIR", "HOME")}
        variables = {**kept, "CLAUDE_SESSIONS_DSN": dsn, **(more or {})}
        line = hook(tmp_path, name, PROGRAM, every)
        made = Window(tmp_path, name, f"{before}\n{line}", variables)
        stack.callback(made.close)
        return made

    return start
