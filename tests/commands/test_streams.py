"""Full disks, closed streams and readers that stop early."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import claude_sessions_cli
from commands.answers import execute, failed, rows


def _shell(command: str, cli_env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    tool = f"{shlex.quote(sys.executable)} -m claude_sessions_cli"
    return subprocess.run(
        ["sh", "-c", f"unset PYTHONUNBUFFERED; {command.replace('TOOL', tool)}"],
        env={**os.environ, **cli_env}, cwd=cwd, capture_output=True, text=True, timeout=60, start_new_session=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(
    "command", ["TOOL list", "TOOL list --json", "TOOL claim SD-1", "TOOL --help", "TOOL --version", "TOOL whoami"]
)
def test_full_disk_is_reported_in_one_line(dsn: str, tmp_path: Path, command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    execute(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    failed(
        _shell(f"{command} >/dev/full", env, tmp_path),
        1,
        r": cannot write the answer: No space left on device \(the command itself is done; .*\)$",
    )


@pytest.mark.faults
def test_exit_code_survives_unwritable_streams(dsn: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    execute(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "b"}
    for streams in ("2>/dev/full", ">/dev/full 2>&1", "2>&-", "<&- >&- 2>&-"):
        for options in ("", "--json"):
            assert _shell(f"TOOL claim SD-1 {options} {streams}", env, tmp_path).returncode == 3, streams
    assert _shell("TOOL claim '' >/dev/full 2>&1", env, tmp_path).returncode == 2
    assert [row[1] for row in rows(dsn)] == ["a"]


@pytest.mark.faults
@pytest.mark.parametrize(
    "streams",
    ["<&- >&- 2>&-", *(pytest.param(one, marks=pytest.mark.faults) for one in ("<&-", ">&-", "2>&-", ">&- 2>&-"))],
)
def test_closed_streams_break_nothing(dsn: str, tmp_path: Path, streams: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    for argv in ("claim SD-1", "list", "list --json", "release --end", "--help"):
        done = _shell(f"TOOL {argv} {streams}", env, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), argv
        assert bool(done.stdout) == (">&-" not in streams.split()), argv
    assert [row[10] for row in rows(dsn)] == ["released"]


@pytest.mark.faults
@pytest.mark.parametrize("argv", ["list", "list --json", "claim SD-1", "--help", "--version", "schema print"])
def test_reader_that_stops_early_is_no_error(dsn: str, tmp_path: Path, argv: str) -> None:
    execute(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id) VALUES ('a', 'SD-1')")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}
    done = _shell(f"{{ TOOL {argv}; echo $? >code; }} | head -c 0", env, tmp_path)
    assert (done.stderr, (tmp_path / "code").read_text()) == ("", "0\n")


def test_exit_code_survives_closed_pipe(dsn: str, tmp_path: Path) -> None:
    execute(dsn, "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('a', 'SD-1', now())")
    env = {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDE_SESSIONS_SESSION_ID": "b"}
    for argv in ("claim SD-1", "claim SD-1 --json"):
        _shell(f"{{ TOOL {argv}; echo $? >code; }} 2>&1 | head -c 0", env, tmp_path)
        assert (tmp_path / "code").read_text() == "3\n"


PACKAGE = Path(claude_sessions_cli.__file__).parent
STREAM = re.compile(r"sys\.(__)?std(out|err)(__)?")
# Calls that write, wherever they stand.
WRITERS = ("print", "os.write", "os.writev", "typer.echo", "typer.secho", "typer.style", "syslog.syslog")


def _writes(path: Path) -> list[str]:
    """Return the places of a module that write to the streams of the process, or give one away."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    harmless = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("flush", "isatty", "fileno", "reconfigure")
    }  # fmt: skip
    found = []
    for node in ast.walk(tree):
        words = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Import, ast.ImportFrom)) else ""
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WRITERS:
            found.append(f"{ast.unparse(node.func)}({ast.unparse(node.args[0])})")
        elif id(node) not in harmless and (
            STREAM.fullmatch(words) or re.match("(import|from) (logging|syslog|sys .*std)", words)
        ):
            found.append(words)
    return found


def test_only_the_printer_and_the_log_write_to_streams() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): {*_writes(path)} for path in PACKAGE.rglob("*.py")}
    assert {name: places for name, places in found.items() if places} == {
        "render.py": {"sys.stdout", "sys.stderr", "os.write(1)", "os.write(2)"},
        "log.py": {"os.write(number)"},
        # A pipe to the process that ends a command.
        "guardian.py": {"os.write(self._writer)"},
        # It silences the stream whose reader has gone.
        "cli.py": {"sys.stdout"},
    }
