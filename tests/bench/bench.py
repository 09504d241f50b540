"""Time the commands as whole processes, against a bare script with psycopg and psql that send the same messages.

All of them take turns within one run, so that other load hits each alike; the medians are compared. Fails if a command
misses its bar.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import pty
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Server, _container, _embedded

from claude_sessions_cli import cli, database
from claude_sessions_cli.embedded import cluster
from claude_sessions_cli.errors import Unreachable
from claude_sessions_cli.operations import schema

PROGRAM = Path(sys.executable).with_name("claude-sessions")
SESSION, ITEM, SESSIONS = "bench", "SD-BENCH-001", 20
FEW, MANY, ALL = 2_000, 200_000, 1_000_000
BARS = {"heartbeat": 1.2, "claim": 1.3, "list | cat": 1.3, "list": 1.6}
SCALE_BAR = 1.5
ROWS, COLUMNS = 50, 200


@dataclass
class Program:
    """A command line, on a terminal or not, and how long its runs took."""

    argv: list[str]
    terminal: bool = False
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.seconds) * 1000

    def run(self, environment: dict[str, str]) -> bytes:
        """Run it once, and return its output."""
        begin = time.perf_counter()
        output = _on_terminal(self.argv, environment) if self.terminal else _piped(self.argv, environment)
        self.seconds.append(time.perf_counter() - begin)
        return output


def _piped(argv: list[str], environment: dict[str, str]) -> bytes:
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    if done.returncode:
        sys.exit(f"bench: {argv[0]} failed: {done.stderr.decode()}")
    return done.stdout


def _on_terminal(argv: list[str], environment: dict[str, str]) -> bytes:
    pid, master = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, environment)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    output = b""
    # Linux raises EIO once the last process has closed the terminal.
    with contextlib.suppress(OSError):
        while data := os.read(master, 1 << 16):
            output += data
    _, status = os.waitpid(pid, 0)
    os.close(master)
    if status:
        sys.exit(f"bench: {argv[0]} failed on a terminal: {output.decode()}")
    return output


@dataclass
class Recording:
    """The connection and the messages of a command, each of several statements."""

    conninfo: str = ""
    messages: list[bytes] = field(default_factory=list)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record the connection and the messages of this process inside the block."""
    found = Recording()
    connect, execute = psycopg.Connection.__dict__["connect"], psycopg.Cursor.execute

    def recording_connect(cls: Any, /, conninfo: str = "", **options: Any) -> Any:
        found.conninfo = conninfo
        return connect.__func__(cls, conninfo, **options)

    def recording_execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        found.messages.append(query)
        return execute(self, query, params, **options)

    psycopg.Connection.connect = classmethod(recording_connect)  # type: ignore[method-assign, assignment]
    psycopg.Cursor.execute = recording_execute  # type: ignore[method-assign]
    try:
        yield found
    finally:
        psycopg.Connection.connect = connect  # type: ignore[method-assign]
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]


def record(*argv: str) -> Recording:
    """Run a command inside this process and return its recording."""
    with recorded() as found, contextlib.redirect_stdout(io.StringIO()) as output:
        code = cli.run(list(argv))
    if code:
        sys.exit(f"bench: {' '.join(argv)} ended with {code}: {output.getvalue()}")
    return found


def bare_script(found: Recording) -> str:
    """Return a Python script that sends the same messages, and prints the rows."""
    lines = [
        "import psycopg",
        f"connection = psycopg.connect({found.conninfo!r}, autocommit=True, prepare_threshold=None)",
        "cursor = psycopg.ClientCursor(connection)",
    ]
    for message in found.messages:
        lines += [
            f"cursor.execute({message!r})",
            "while True:",
            "    for row in cursor if cursor.description else ():",
            "        print(*row)",
            "    if not cursor.nextset():",
            "        break",
        ]
    return "\n".join([*lines, "connection.close()", ""])


def find_psql(directory: Path) -> str | None:
    """Return psql: the embedded one, else the one of the system."""
    with contextlib.suppress(Unreachable):
        embedded = cluster.find_install(directory / "missing") / "bin" / "psql"
        if embedded.exists():
            return str(embedded)
    return shutil.which("psql")


def take_turns(programs: Sequence[Program], environment: dict[str, str], rounds: int) -> None:
    """Run all programs in turn, round after round, after one that is not counted."""
    for _ in range(2):
        for program in programs:
            program.run(environment)
            program.seconds.clear()
    for _ in range(rounds):
        for program in programs:
            program.run(environment)


def compare(dsn: str, directory: Path, environment: dict[str, str], rounds: int) -> bool:
    """Print the table of the commands beside the bare script and psql; return whether all bars hold."""
    psql = find_psql(directory)
    commands = {
        "heartbeat": ["heartbeat"],
        "claim": ["claim", ITEM],
        "list | cat": ["list"],
        "list": ["list"],
    }
    lines: dict[str, dict[str, Program]] = {}
    for name, argv in commands.items():
        found = record(*argv, "--dsn", dsn, "--session", SESSION)
        script = directory / f"{argv[0]}.py"
        script.write_text(bare_script(found))
        terminal = name == "list"
        lines[name] = {
            "claude-sessions": Program([str(PROGRAM), *argv], terminal),
            "bare": Program([sys.executable, str(script)], terminal),
        }
        if psql:
            messages = [word for message in found.messages for word in ("-c", message.decode())]
            lines[name]["psql"] = Program([psql, "-XqAt", "-d", found.conninfo, *messages], terminal)
        print(f"{name}: {len(found.messages)} messages")
    take_turns([program for line in lines.values() for program in line.values()], environment, rounds)

    print(f"\nmedians of {rounds} whole processes, in ms\n")
    print(f"{'':12}{'claude-sessions':>17}{'bare script':>13}{'psql':>8}{'ratio':>8}{'bar':>6}")
    kept = True
    for name, line in lines.items():
        ratio = line["claude-sessions"].median / line["bare"].median
        kept &= ratio <= BARS[name]
        verdict = "" if ratio <= BARS[name] else "  missed"
        psqls = f"{line['psql'].median:8.1f}" if "psql" in line else f"{'-':>8}"
        print(
            f"{name:12}{line['claude-sessions'].median:17.1f}{line['bare'].median:13.1f}{psqls}"
            f"{ratio:8.2f}{BARS[name]:6.1f}{verdict}"
        )
    return kept


def fill(dsn: str, released: int) -> None:
    """Make a table with some live sessions and many released ones."""
    with database.connect(dsn, "the bench") as connection:
        schema.apply(connection)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE public.claude_sessions DISABLE TRIGGER USER")
        for count, status, item, age in (
            (SESSIONS - 1, "active", "'SD-LIVE-' || n", "interval '10 seconds'"),
            (released, "released", "NULL", "n * interval '10 seconds'"),
        ):
            connection.execute(
                "INSERT INTO public.claude_sessions (session_id, sd_id, track, tty, pid, hostname, codebase,"
                " claimed_at, heartbeat_at, status, metadata, created_at, updated_at)"
                f" SELECT 'session_' || left(md5(n::text || '{status}'), 8) || '_pts' || n || '_' || n, {item}, 'A',"
                f" '/dev/pts/' || n % 40, n, 'host-' || n % 5, 'codebase-' || n % 7, now() - {age}, now() - {age},"
                f" '{status}', jsonb_build_object('branch', 'main', 'claude_sessions_cli', jsonb_build_object("
                "'cwd', '/home/somebody/codebase', 'branch', 'main', 'cli', '0.1.0', 'stale_after', 900)),"
                f" now() - {age}, now() - {age} FROM generate_series(1, {count}) AS n"
            )
        connection.execute("ALTER TABLE public.claude_sessions ENABLE TRIGGER USER")
        connection.execute("VACUUM ANALYZE public.claude_sessions")
    record("claim", ITEM, "--dsn", dsn, "--session", SESSION)


def scale(few: str, many: str, released: int, environment: dict[str, str], rounds: int) -> bool:
    """Print how the time of `reap` and `list` grows with the released rows; return whether the bar holds."""
    print(f"\nwith {released:,} released rows, over {FEW:,}: medians of {rounds} whole processes, in ms\n")
    programs = {name: [Program([str(PROGRAM), name, "--dsn", dsn]) for dsn in (few, many)] for name in ("reap", "list")}
    take_turns([program for pair in programs.values() for program in pair], environment, rounds)
    kept = True
    for name, (small, large) in programs.items():
        ratio = large.median / small.median
        kept &= ratio <= SCALE_BAR
        verdict = "" if ratio <= SCALE_BAR else "  missed"
        print(f"{name:12}{large.median:17.1f}{small.median:13.1f}{'':8}{ratio:8.2f}{SCALE_BAR:6.1f}{verdict}")
    return kept


@contextmanager
def databases(names: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Find the server that the tests would use; yield a function that creates a database and returns its DSN."""
    with ExitStack() as stack:
        given = os.environ.get("CLAUDE_SESSIONS_TEST_DSN")
        server = Server(given, "CLAUDE_SESSIONS_TEST_DSN") if given else _container(stack) or _embedded(stack)
        print(f"Postgres: {server.source}")
        yield server.create
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def clean_environment(home: Path) -> dict[str, str]:
    """Return the environment of the programs: without the settings of the caller, and with compiled bytecode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG", "PYTHON", "XDG"))}
    return {**kept, "HOME": str(home), "TERM": "xterm-256color"}


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="how often each program runs, at least 30 [40]")
    parser.add_argument("--full", action="store_true", help=f"measure at {ALL:,} released rows, not {MANY:,}")
    arguments = parser.parse_args()
    rounds, released = max(30, arguments.rounds), ALL if arguments.full else MANY
    names = ["cs_bench_few", "cs_bench_many"]
    with tempfile.TemporaryDirectory(prefix="cs-bench-") as directory, databases(names) as create:
        home = Path(directory)
        os.environ.clear()
        os.environ.update(clean_environment(home))
        few, many = (create(name) for name in names)
        fill(few, FEW)
        environment = {**os.environ, "CLAUDE_SESSIONS_SESSION_ID": SESSION, "CLAUDE_SESSIONS_DSN": few}
        kept = compare(few, home, environment, rounds)
        fill(many, released)
        kept &= scale(few, many, released, environment, rounds)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
