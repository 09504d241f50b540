"""The beginning of a session id, as `list` shows it, in place of the whole id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from conftest import Table, make_caller

from claude_sessions_cli.operations.claim import claim
from commands.answers import Inside, data_of, failed, rows

WHOLE = "4f9c2a7e-1111-4222-8333-444444444444"
SIMILAR = "4f9c2a7e-2222-4222-8333-444444444444"
DERIVED = "session_1a2b3c4d_pts3_4711"
SHORT = {"4f9c2a7e": WHOLE, "4f9c2a7e-1": WHOLE, "session_1a2b3c4d": DERIVED}


def _first_by_default(cases: Iterable[str]) -> list[Any]:
    first, *others = cases
    return [first, *(pytest.param(other, marks=pytest.mark.faults) for other in others)]


# Commands that act as a session that is there, with the place of its id in their data.
ACTING: dict[str, Callable[[Any], str]] = {
    "check": lambda data: data["session"]["session_id"],
    "heartbeat": lambda data: data["session"]["session_id"],
    "park 20m": lambda data: data["session"]["session_id"],
    "unpark": lambda data: data["session"]["session_id"],
    "whoami": lambda data: data["session_id"],
    "status": lambda data: data["session_id"],
    "list --mine": lambda data: data["sessions"][0]["session_id"],
}
# Commands that may make the session that they name.
REGISTERING = ("claim SD-9", "heartbeat --register", "run SD-9")


@pytest.fixture
def call(full_table: Table, inside: Inside) -> Inside:
    """Return a function that runs a command line as another session, on a table with three holders."""
    for session, item in ((WHOLE, "SD-1"), (DERIVED, "SD-2"), ("worker-12", "SD-3")):
        claim(full_table.database, make_caller(session), item)

    def run(line: str, session: str, *more: str) -> Any:
        command = ["--", "true"] if line.startswith("run") else []
        words = [*line.split(), "--session", session, *more, *command]
        return inside(*words, env={"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "me"})

    return run


@pytest.mark.parametrize("short", _first_by_default(SHORT))
def test_each_command_accepts_a_short_id(call: Inside, short: str) -> None:
    for line, id_of in ACTING.items():
        assert id_of(data_of(call(line, short, "--json"), line.split()[0])) == SHORT[short], line
    done = call("release", short, "--reason", "why")
    assert done.stdout.endswith(f" of {SHORT[short]}\n"), done.stderr


def test_history_accepts_a_short_id(call: Inside, inside: Inside, full_table: Table) -> None:
    done = inside("history", "4f9c2a7e", env={"CLAUDE_SESSIONS_DSN": full_table.dsn})
    assert WHOLE in done.stdout


def test_ambiguous_short_id_names_the_candidates(call: Inside, full_table: Table) -> None:
    claim(full_table.database, make_caller(SIMILAR), "SD-4")
    before = rows(full_table.dsn)
    message = f"more than one session id begins with 4f9c2a7e: {WHOLE}, {SIMILAR} "
    for line in (*ACTING, *REGISTERING, "release"):
        failed(call(line, "4f9c2a7e"), 2, message)
    assert rows(full_table.dsn) == before
    assert data_of(call("check", "4f9c2a7e-2", "--json"), "check")["session"]["session_id"] == SIMILAR


def test_chosen_name_that_looks_random_is_a_whole_id(call: Inside, full_table: Table) -> None:
    claim(full_table.database, make_caller("20261126-1417-21"), "SD-4")
    failed(call("check", "20261126-1417-2"), 4, "not registered")
    assert call("claim SD-5", "20261126-1417-2").returncode == 0
    assert data_of(call("check", "20261126-1417-2", "--json"), "check")["session"]["sd_id"] == "SD-5"


@pytest.mark.parametrize("line", _first_by_default(REGISTERING))
def test_new_session_is_not_taken_for_another(call: Inside, full_table: Table, line: str) -> None:
    before = rows(full_table.dsn)
    message = rf"no session is called 4f9c2a7e, and {WHOLE} begins with it \(give the whole id\)"
    failed(call(line, "4f9c2a7e"), 2, message)
    assert rows(full_table.dsn) == before
    # A session that is called so is meant itself.
    full_table.insert("4f9c2a7e", status="released")
    assert call(line, "4f9c2a7e").returncode == 0
    assert full_table.row(WHOLE)["sd_id"] == "SD-1"


def test_chosen_name_has_no_short_form(call: Inside, full_table: Table) -> None:
    before = rows(full_table.dsn)
    for line in ("check", "heartbeat", "park 20m", "unpark"):
        assert call(line, "worker-1").returncode == 4, line
    assert data_of(call("whoami", "worker-1", "--json"), "whoami")["session"] is None
    assert rows(full_table.dsn) == before
    assert call("claim SD-9", "worker-1").returncode == 0
    assert (full_table.row("worker-1")["sd_id"], full_table.row("worker-12")["sd_id"]) == ("SD-9", "SD-3")
