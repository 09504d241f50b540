"""Clients whose hooks are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Table
from terminal import end_all

from claude_code.fake import Client, Inside, install

Start = Callable[..., Client]


@pytest.fixture
def processes(full_table: Table, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a client whose hooks and commands are processes."""
    install(tmp_path, guard=True)
    with ExitStack() as stack:
        stack.callback(end_all, tmp_path)

        def start(session: str | None = None, dsn: str | None = None, **more: Any) -> Client:
            made = Client(tmp_path, dsn or full_table.dsn, session, **more)
            stack.callback(made.end)
            return made

        yield start


@pytest.fixture(params=["inside", pytest.param("processes", marks=pytest.mark.faults)])
def client(
    request: pytest.FixtureRequest,
    full_table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Start]:
    """Return a function that starts a client on the whole schema; one of processes with the long tests."""
    if request.param == "processes":
        yield request.getfixturevalue("processes")
        return
    with ExitStack() as stack:

        def start(session: str | None = None, dsn: str | None = None, **more: Any) -> Client:
            made = Inside(tmp_path, dsn or full_table.dsn, session, patch=monkeypatch, output=capfd, **more)
            stack.callback(made.end)
            return made

        yield start
