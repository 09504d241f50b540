"""Completion in real shells: commands, work items and session ids, in time or not at all."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, Table
from poll import until
from terminal import SHELLS, Terminal
from typer._completion_classes import BashComplete
from typer.main import get_command

from claude_sessions_cli.cli import app
from claude_sessions_cli.completion import VARIABLE
from claude_sessions_cli.model import STATUSES, TRACKS

BASH = "complete_bash"
PATIENT = {"CLAUDE_SESSIONS_COMPLETION_TIME": "30s"}


@pytest.fixture
def items(full_table: Table) -> Table:
    """Return a table with sessions that hold items."""
    for session, item in (("sess-1", "SD-AUTH-001"), ("sess-2", "SD-AUTH-002"), ("idle-3", None)):
        full_table.insert(session, status="active" if item else "idle", sd_id=item)
    full_table.insert("over-4", status="released")
    full_table.execute("UPDATE public.claude_sessions SET sd_id = 'SD-PAST' WHERE session_id = 'idle-3'")
    full_table.execute("UPDATE public.claude_sessions SET sd_id = NULL WHERE session_id = 'idle-3'")
    return full_table


def _words(cli: Cli, line: str, dsn: str | None, **env: str | None) -> list[str]:
    """Return the words that bash is offered at the end of a line."""
    words = shlex.split(line + "''") if line.endswith(" ") else shlex.split(line)
    done = cli(
        env={
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "_CLAUDE_SESSIONS_COMPLETE": BASH,
            "CLAUDE_SESSIONS_DSN": dsn,
            **PATIENT,
            **env,
        }
    )
    assert done.stderr == ""
    return done.stdout.split()


ITEMS, SESSIONS = ["SD-AUTH-001", "SD-AUTH-002"], ["sess-1", "sess-2"]
OFFERED = {
    "commands": {"rel": ["release"], "schema ap": ["apply"], "upk": []},
    "items to claim": {
        "claim SD-": [*ITEMS, "SD-PAST"],
        "claim SD-P": ["SD-PAST"],
        "run SD-P": ["SD-PAST"],
        "claim --any SD-AUTH-001 SD-P": ["SD-PAST"],
        "claim nothing-like-it": [],
    },
    "held items": {
        "release ": ITEMS,
        "--quiet check SD-AUTH-001": ["SD-AUTH-001"],
        "list SD-AUTH-002": ["SD-AUTH-002"],
    },
    "sessions": {
        "history s": SESSIONS,
        "history S": [*ITEMS, "SD-PAST"],
        "release --session s": SESSIONS,
        "heartbeat --session ": ["idle-3", *SESSIONS],
    },
}


FIXED = {
    "claim SD-1 --track ": sorted(TRACKS),
    "run --track S": ["STANDALONE"],
    "list --track A": ["A"],
    "list --status ": sorted(STATUSES),
    "list --columns s": ["sd", "session", "state", "status"],
    "list --columns sd,sta": ["sd,state", "sd,status"],
    "list --sort state,hear": ["state,heartbeat"],
    "shell-init ": ["bash", "fish", "zsh"],
    "completion z": ["zsh"],
    "schema apply --optional h": ["hot_heartbeats"],
    "config get s": ["stale_after"],
    "config set ": ["dsn", "heartbeat_every", "stale_after"],
    "config unset d": ["dsn"],
    "help e": ["environment", "exit-codes"],
    "help hist": ["history"],
    "help schema a": ["apply"],
    "help claim ": [],
}


def test_fixed_words_are_offered_without_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_DSN", f"host={tmp_path}/missing")
    offered = {}
    for line in FIXED:
        *before, last = line.split(" ")
        shell = BashComplete(get_command(app), {}, "claude-sessions", VARIABLE)
        offered[line] = sorted(item.value for item in shell.get_completions(before, last))
    assert offered == FIXED


@pytest.mark.faults
@pytest.mark.parametrize("kind", OFFERED)
def test_completion_offers_names_for_the_current_word(items: Table, cli: Cli, kind: str) -> None:
    offered = {line: _words(cli, f"claude-sessions {line}", items.dsn) for line in OFFERED[kind]}
    assert offered == OFFERED[kind]


def test_completion_uses_dsn_on_the_line(items: Table, cli: Cli, tmp_path: Path) -> None:
    unreachable = f"host={tmp_path}/missing"
    line = f"claude-sessions release --dsn {shlex.quote(items.dsn)} SD-AUTH-001"
    assert _words(cli, line, unreachable) == ["SD-AUTH-001"]
    line = f"claude-sessions --dsn {shlex.quote(items.dsn)} release SD-AUTH-001"
    assert _words(cli, line, unreachable) == ["SD-AUTH-001"]


def test_table_without_history_offers_held_items(seed_dsn: str, cli: Cli) -> None:
    table = Table(seed_dsn)
    with table.stack:
        table.insert("a", status="active", sd_id="SD-1")
        assert _words(cli, "claude-sessions claim ", seed_dsn) == ["SD-1"]


def test_names_with_shell_syntax_are_not_offered(full_table: Table, cli: Cli) -> None:
    odd = ["$(touch x)", "`id`", "a b", "a;b", 'a"b', "a'b", "a\\b", "a*", "~x", "a\x1bb", "-", ""]
    for number, name in enumerate([*odd, "SD-1"]):
        full_table.insert(f"s-{number}", status="active", sd_id=name)
    assert _words(cli, "claude-sessions release ", full_table.dsn) == ["SD-1"]


def test_colon_splits_words_only_in_bash(full_table: Table, cli: Cli) -> None:
    full_table.insert("a", status="active", sd_id="team:SD-1")
    assert _words(cli, "claude-sessions release ", full_table.dsn) == []
    done = cli(
        env={
            "_TYPER_COMPLETE_ARGS": "claude-sessions release team",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_CLAUDE_SESSIONS_COMPLETE": "complete_fish",
            "CLAUDE_SESSIONS_DSN": full_table.dsn,
            **PATIENT,
        }
    )
    assert done.stdout == "team:SD-1\n"


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mute() -> Iterator[str]:
    """Return the DSN of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} user=x dbname=x"


@pytest.mark.faults
@pytest.mark.parametrize(
    "env",
    [
        {"CLAUDE_SESSIONS_DSN": "host=MISSING"},
        {"CLAUDE_SESSIONS_DSN": "postgresql://me:s3cret@[/x"},
        {"CLAUDE_SESSIONS_CONFIG": "MISSING"},
        {"CLAUDE_SESSIONS_STALE_AFTER": "soon"},
        {"CLAUDE_SESSIONS_COMPLETION_TIME": "soon"},
        {"_CLAUDE_SESSIONS_COMPLETE": "complete_tcsh"},
        {"_CLAUDE_SESSIONS_COMPLETE": "nonsense"},
        {"COMP_WORDS": "claude-sessions release 'unfinished"},
        {"COMP_CWORD": "many"},
        {"COMP_WORDS": "claude-sessions nonsense S"},
    ],
)
def test_failing_completion_prints_nothing(cli: Cli, tmp_path: Path, env: dict[str, str]) -> None:
    common = {"COMP_WORDS": "claude-sessions release S", "COMP_CWORD": "2", "_CLAUDE_SESSIONS_COMPLETE": BASH}
    common |= {"CLAUDE_SESSIONS_DSN": "host=MISSING", **PATIENT}
    missing = str(tmp_path / "missing")
    done = cli(env={name: value.replace("MISSING", missing) for name, value in {**common, **env}.items()})
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_missing_table_offers_nothing(cli: Cli, server: object) -> None:
    assert _words(cli, "claude-sessions release ", server.database("template1")) == []  # type: ignore[attr-defined]


def test_completion_never_starts_private_server(cli: Cli) -> None:
    # The server could be started here, even by root as another account.
    with tempfile.TemporaryDirectory(prefix="claude-sessions-test-") as directory:
        Path(directory).chmod(0o755)
        data = Path(directory) / "data"
        assert _words(cli, "claude-sessions release ", None, CLAUDE_SESSIONS_DATA_DIR=str(data)) == []
        assert not data.exists()


@pytest.mark.parametrize("dsn", ["mute", "unreachable"])
def test_hanging_server_costs_300_ms_at_most(cli: Cli, mute: str, dsn: str) -> None:
    # 192.0.2.0/24 is reserved: packets sent there are lost.
    hanging = mute if dsn == "mute" else "host=192.0.2.1"

    def seconds(line: str, expected: list[str]) -> float:
        begin = time.monotonic()
        assert _words(cli, line, hanging, CLAUDE_SESSIONS_COMPLETION_TIME=None) == expected
        return time.monotonic() - begin

    rounds: list[tuple[float, float]] = []
    while len(rounds) < 8 and not any(with_database <= 0.3 for _, with_database in rounds):
        rounds.append((seconds("claude-sessions rel", ["release"]), seconds("claude-sessions release ", [])))
    without, with_database = (min(times) for times in zip(*rounds, strict=True))
    # If the machine is so busy that Python alone takes as long, the database may not add to it.
    assert with_database <= max(0.3, 1.5 * without), rounds


def test_abandoned_completion_leaves_no_process(cli: Cli, mute: str) -> None:
    _words(cli, "claude-sessions release ", mute, CLAUDE_SESSIONS_COMPLETION_TIME="0.5s", MARK=mute)
    left = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mute}".encode() in path.read_bytes():
                left.append(path)
        except OSError:
            continue
    assert left == []


# -- in real shells ---------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a directory with the program, under its name, in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "claude-sessions"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m claude_sessions_cli "$@"\n')
    script.chmod(0o755)
    return directory


START = {
    "bash": 'eval "$(claude-sessions completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u; eval "$(claude-sessions completion zsh)"',
    "fish": "claude-sessions completion fish | source",
}


@pytest.mark.faults
@pytest.mark.parametrize("shell", ["bash", *(pytest.param(name, marks=pytest.mark.faults) for name in ("fish", "zsh"))])
def test_tab_completes_command_item_and_session(items: Table, tmp_path: Path, program: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    more = {
        "PATH": f"{program}:{os.environ['PATH']}",
        "CLAUDE_SESSIONS_DSN": items.dsn,
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        **PATIENT,
    }
    window = Terminal(tmp_path, SHELLS[shell], more)
    try:
        assert window.run(START[shell]).code == 0
        # From now on the program records its arguments, as the shell completed them.
        seen, script = tmp_path / "seen", program / "claude-sessions"
        note = f'[ -n "$_CLAUDE_SESSIONS_COMPLETE" ] || {{ echo "$@" >{seen}.new; mv {seen}.new {seen}; exit; }}'
        script.write_text(script.read_text().replace("\n", f"\n{note}\n", 1))
        for typed, made in (
            ("relea\tSD-1", "release SD-1"),
            ("claim SD-P\t", "claim SD-PAST"),
            ("release SD-AUTH-002\t", "release SD-AUTH-002"),
            ("release --session sess-2\t", "release --session sess-2"),
            ("history idl\t", "history idle-3"),
        ):
            seen.unlink(missing_ok=True)
            window.type(f"claude-sessions {typed}")
            until(seen.exists, f"{typed!r}\n{window.seen()}")
            assert seen.read_text().split() == made.split(), window.seen()
    finally:
        window.close()


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_install_completion_writes_a_valid_script(cli: Cli, tmp_path: Path, shell: str) -> None:
    done = cli("--install-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{shell} completion installed in " in done.stdout
    [installed] = [path for path in tmp_path.rglob("*claude-sessions*") if path.is_file()]
    assert str(installed) in done.stdout
    assert installed.read_text().strip() == cli("--show-completion", shell).stdout.strip()
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n", str(installed)], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
