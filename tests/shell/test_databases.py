"""One terminal and several databases, such as with direnv: each is renewed, shown, and released at the end."""

from __future__ import annotations

import os
import re
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Cli, Sleeper, Table
from poll import PATIENCE_S, until, until_waiting
from requirements import each_shell, each_shell_at_length, needs_proc
from run_bench import PROGRAM
from terminal import CLI, SHELLS

from claude_sessions_cli import process, settings
from claude_sessions_cli.shell import hooks
from shell.hooks import Calls, Open, Window, make_due, rows, set_variables, state_of

HERE, THERE, SECRET = "0123456789abcdef", "fedcba9876543210", "s3cret 'w\"$x"


def line(item: str, database: str, more: str = "") -> str:
    """Return the line of a claim that is twelve minutes old."""
    return f"held {int(time.time()) - 725} {item} s 1 2 {database}{more}\n"


def show(states: Path, opened: Window, item: str, database: str, more: str = "") -> None:
    """Write the files of a claim, as a command does, and let a prompt pass."""
    state = state_of(states, opened)
    state.write_text(line(item, database, more))
    state.with_name(f"{state.name}.{database}").write_text(line(item, database))
    opened.do("true")


def segment(opened: Window) -> str:
    return opened.ask("$CLAUDE_SESSIONS_PROMPT")


@each_shell_at_length
def test_each_database_is_shown_renewed_and_ended(
    real: Open, dsn: str, other_dsn: str, states: Path, name: str
) -> None:
    opened = real(name, dsn)
    until(state_of(states, opened).exists, "the first beat")
    assert opened.run(f"{CLI} claim SD-HERE").code == 0
    assert re.fullmatch(r"SD-HERE \d+s", segment(opened))

    set_variables(opened, CLAUDE_SESSIONS_DSN=other_dsn)
    assert segment(opened) == "+1"
    until(lambda: rows(other_dsn), "the row in the other database")
    assert opened.run(f"{CLI} claim SD-THERE").code == 0
    assert re.fullmatch(r"SD-THERE \d+s \+1", segment(opened))
    assert re.fullmatch(r"SD-THERE \d+s \+1\n", opened.run(f"{CLI} prompt").out)

    before = heartbeats(dsn, other_dsn)
    make_due(opened)
    opened.do("true")
    until(lambda: all(map(later, before, heartbeats(dsn, other_dsn))), "a heartbeat in each database")

    set_variables(opened, CLAUDE_SESSIONS_DSN=dsn)
    assert re.fullmatch(r"SD-HERE \d+s \+1", segment(opened))
    assert re.fullmatch(r"SD-HERE \d+s \+1\n", opened.run(f"{CLI} prompt").out)
    opened.type("exit")
    opened.wait()
    assert [row[1:3] for both in (dsn, other_dsn) for row in rows(both)] == [(None, "released")] * 2
    assert list(states.iterdir()) == []


def heartbeats(*dsns: str) -> list[datetime]:
    """Return the time of the only heartbeat in each database."""
    found: list[Any] = []
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            found += connection.execute("SELECT heartbeat_at FROM public.claude_sessions").fetchall()
    return [time for (time,) in found]


def later(before: datetime, after: datetime) -> bool:
    return after > before


@pytest.mark.faults
@each_shell_at_length
def test_claim_lost_elsewhere_is_no_longer_counted(
    real: Open, dsn: str, other_dsn: str, cli: Cli, states: Path, name: str
) -> None:
    opened = real(name, dsn)
    until(state_of(states, opened).exists, "the first beat")
    assert opened.run(f"{CLI} claim SD-HERE").code == 0
    set_variables(opened, CLAUDE_SESSIONS_DSN=other_dsn)
    until(lambda: rows(other_dsn), "the row in the other database")
    thief = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "thief"}
    assert segment(opened) == "+1"
    done = cli("claim", "SD-HERE", "--force", "--reason", "urgent", env=thief)
    assert done.returncode == 0, done.stderr

    def is_gone() -> bool:
        opened.do("true")
        return segment(opened) == ""

    until(is_gone, "the end of the mark")
    set_variables(opened, CLAUDE_SESSIONS_DSN=dsn)
    assert segment(opened) == "LOST SD-HERE"


@each_shell
def test_known_database_is_shown_at_the_next_prompt(window: Open, calls: Calls, states: Path, name: str) -> None:
    # The recorder writes no files: only the hook can show it.
    opened = window(name, more={"CLAUDE_SESSIONS_DSN": "here"})
    calls.wait(1)
    show(states, opened, "SD-HERE", HERE)
    assert segment(opened) == "SD-HERE 12m"
    set_variables(opened, CLAUDE_SESSIONS_DSN="there")
    assert segment(opened) == "+1"
    assert state_of(states, opened).read_text().startswith("none 0 - - - - -")
    show(states, opened, "SD-THERE", THERE, " +1")
    for _ in range(2):
        set_variables(opened, CLAUDE_SESSIONS_DSN="here")
        assert segment(opened) == "SD-HERE 12m +1"
        set_variables(opened, CLAUDE_SESSIONS_DSN="there")
        assert segment(opened) == "SD-THERE 12m +1"
    (states / f"{state_of(states, opened).name}.{HERE}").write_text(f"lost 0 SD-HERE s - - {HERE}\n")
    set_variables(opened, CLAUDE_SESSIONS_DSN="here")
    assert segment(opened).startswith("LOST SD-HERE +")


@each_shell
def test_heartbeats_and_end_go_to_each_database(window: Open, calls: Calls, states: Path, name: str) -> None:
    dsn = f"postgresql://me:{SECRET}@here/x"
    opened = window(name, more={"CLAUDE_SESSIONS_DSN": dsn})
    calls.wait(1)
    show(states, opened, "SD-HERE", HERE)
    set_variables(opened, CLAUDE_SESSIONS_DSN=None, PGHOST="there", PGPASSWORD="other" + SECRET[:6])
    calls.wait(3)
    show(states, opened, "SD-THERE", THERE)
    there = f"there/other{SECRET[:6]}"
    calls.forget()
    make_due(opened)
    opened.do("true")
    calls.wait(2)
    assert calls.databases() == [("beat", "", there), ("beat elsewhere", dsn, "/")]
    calls.forget()
    # As direnv after the hook: at the end, the variables name a database in which the terminal is not registered.
    opened.type("set -gx PGHOST never; exit" if name == "fish" else "export PGHOST=never; exit")
    opened.wait()
    assert calls.databases() == [("end", "", there), ("end", dsn, "/")]
    assert all("s3cret" not in call.words for call in calls.all())
    assert all("s3cret" not in path.read_text() + path.name for path in states.iterdir())


@each_shell
def test_heartbeat_is_told_what_the_prompt_shows(window: Open, calls: Calls, states: Path, name: str) -> None:
    opened = window(name, more={"CLAUDE_SESSIONS_DSN": "here"})
    calls.wait(1)
    show(states, opened, "SD-HERE", HERE)
    calls.forget()
    make_due(opened)
    opened.do("true")
    [call] = calls.wait(1)
    assert call.words.partition(" --prompt ")[2] + "\n" == state_of(states, opened).read_text()


@each_shell
def test_database_without_registration_gets_one_call(window: Open, calls: Calls, states: Path, name: str) -> None:
    opened = window(name, more={"CLAUDE_SESSIONS_DSN": "here"})
    calls.wait(1)
    show(states, opened, "SD-HERE", HERE)
    for number in range(3):
        set_variables(opened, PGDATABASE=f"database-{number}", CLAUDE_SESSIONS_DSN=None)
    set_variables(opened, PGDATABASE=None, CLAUDE_SESSIONS_DSN="here")
    # Each turn is a heartbeat of its own, and one of the first database.
    calls.wait(1 + 2 * 3 + 1)
    calls.forget()
    make_due(opened)
    opened.do("true")
    calls.wait(1)
    assert calls.databases() == [("beat", "here", "/")]


@each_shell
@pytest.mark.parametrize("options", ["", "set -eu"])
def test_turn_keeps_the_status_and_prints_nothing(
    window: Open, calls: Calls, states: Path, name: str, options: str
) -> None:
    if name == "fish" and options:
        pytest.skip("fish has no such options")
    opened = window(name, before=options, more={"CLAUDE_SESSIONS_DSN": "here"})
    calls.wait(1)
    show(states, opened, "SD-HERE", HERE)
    begin = len(opened.seen())
    set_variables(opened, CLAUDE_SESSIONS_DSN="there")
    seven = "set -gx CLAUDE_SESSIONS_DSN here; sh -c 'exit 7'"
    opened.type(seven if name == "fish" else "export CLAUDE_SESSIONS_DSN=here; (exit 7) || $(exit 7) || true")
    assert opened.ask("$status" if name == "fish" else "$?") == ("7" if name == "fish" else "0")
    assert segment(opened) == "SD-HERE 12m"
    assert not re.search("error|cannot|not found|unbound|bad", opened.seen()[begin:], re.I)


@each_shell
def test_missing_directory_of_files_is_no_error(window: Open, calls: Calls, states: Path, name: str) -> None:
    opened = window(name, more={"CLAUDE_SESSIONS_DSN": "here"})
    calls.wait(1)
    states.rmdir()
    set_variables(opened, CLAUDE_SESSIONS_DSN="there")
    calls.wait(2)
    assert not re.search("no such|exist", opened.seen(), re.I)


@needs_proc
@pytest.mark.parametrize("elsewhere", [False, True])
def test_slow_heartbeat_does_not_show_the_database_left(
    states: Path, full_table: Table, sleeper: Sleeper, elsewhere: bool
) -> None:
    anchor = process.read(sleeper().pid)
    state = states / f"{anchor.pid}-{anchor.start}"
    own = {**os.environ, "CLAUDE_SESSIONS_DSN": full_table.dsn}
    beat = [*PROGRAM, "heartbeat", "--register", "--pid", str(anchor.pid), "--within", "50s"]
    beat += ["--elsewhere"] if elsewhere else []
    turned = "none 0 - - - - -1\n"
    with psycopg.connect(full_table.dsn) as holds_up:
        holds_up.execute("LOCK TABLE public.claude_sessions")
        state.write_text(turned if elsewhere else "none 0 - - - - -0\n")
        late = subprocess.Popen(beat, env=own, stdout=subprocess.DEVNULL)
        until_waiting(full_table.connection)
        state.write_text(turned)
    assert late.wait(PATIENCE_S) == 0
    assert state.read_text() == turned
    assert (states / f"{state.name}.{full_table.database.name}").read_text().startswith("none 0 - session_")


@needs_proc
def test_late_heartbeat_does_not_show_the_database_left(
    states: Path, full_table: Table, cli: Cli, sleeper: Sleeper
) -> None:
    anchor = process.read(sleeper().pid)
    state = states / f"{anchor.pid}-{anchor.start}"
    # The shell called for one database, and had turned to the other before the program looked.
    state.write_text(line("SD-THERE", THERE))
    turned = state.read_text()
    beat = ("heartbeat", "--register", "--pid", str(anchor.pid), "--within", "50s", "--prompt", "none 0 - - - - -0")
    assert cli(*beat, env={"CLAUDE_SESSIONS_DSN": full_table.dsn}).returncode == 0
    assert state.read_text() == turned


@needs_proc
def test_heartbeat_shows_the_database_turned_to(states: Path, dsn: str, cli: Cli, sleeper: Sleeper) -> None:
    anchor = process.read(sleeper().pid)
    state = states / f"{anchor.pid}-{anchor.start}"
    state.write_text("none 0 - - - - -1 +1\n")
    beat = ("heartbeat", "--register", "--pid", str(anchor.pid), "--within", "50s")
    assert cli(*beat, env={"CLAUDE_SESSIONS_DSN": dsn}).returncode == 0
    assert state.read_text().startswith("none 0 - session_")


def test_hooks_compare_each_variable_that_names_a_database(states: Path) -> None:
    for shell in SHELLS:
        text = hooks.render(shell, ["true"], 60)
        for variable in ("CLAUDE_SESSIONS_DSN", "CLAUDE_SESSIONS_CONFIG", *settings.LIBPQ_VARIABLES):
            assert len(re.findall(rf"\$\{{?{variable}\b", text)) == 2, (shell, variable)


@each_shell_at_length
@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_turn_to_a_database_writes_through_no_link_or_pipe(
    window: Open, states: Path, tmp_path: Path, name: str, planted: str
) -> None:
    opened = window(name)
    precious, state = tmp_path / "precious", state_of(states, opened)
    precious.write_text("precious\n")
    opened.do("true")
    state.unlink(missing_ok=True)
    if planted == "link":
        state.symlink_to(precious)
    else:
        os.mkfifo(state)
    set_variables(opened, CLAUDE_SESSIONS_DSN="host=elsewhere")
    opened.do("true")
    assert precious.read_text() == "precious\n"
