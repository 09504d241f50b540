"""`run`s for tests, without a terminal or in a window, and a failing proxy before the database."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Table, make_caller
from poll import PATIENCE_S, until
from terminal import SHELLS, Terminal, environment

from claude_sessions_cli import process
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.liveness import Host
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim

LINUX = sys.platform.startswith("linux")
only_linux = pytest.mark.skipif(not LINUX, reason="reads /proc, which only Linux has")
PROGRAM = [sys.executable, "-m", "claude_sessions_cli"]
RUN = f"{shlex.join(PROGRAM)} run"
# Frequent heartbeats, so that a loss is noticed soon; a silent claim lapses soon.
FAST = {"CLAUDE_SESSIONS_STALE_AFTER": "3", "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.3"}
# As frequent, but a claim does not lapse on a slow machine.
OFTEN = {**FAST, "CLAUDE_SESSIONS_STALE_AFTER": "60"}
# For tests that wait until a claim lapses, and need some time before that.
LAPSE_S = 10
ROOMY = {**FAST, "CLAUDE_SESSIONS_STALE_AFTER": str(LAPSE_S)}
# Report their pid, then idle until they are killed; `exec`, so that the file names the process itself.
WAIT = "echo $$ >{0}; exec sleep 600"
IGNORE_TERM = "trap '' TERM; echo $$ >{0}; while :; do sleep 0.05; done"
_numbers = count()


@dataclass
class Bench:
    """Starts `run`s that carry a tag, finds every process that descends from them, and the row of each."""

    directory: Path
    table: Table
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    windows: list[JobWindow] = field(default_factory=list)

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a `run`."""
        own = {"CLAUDE_SESSIONS_DSN": self.table.dsn, "CS_TEST_TAG": self.tag, **(more or {})}
        return environment(self.directory, own)

    def start(self, *argv: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start `claude-sessions run` without a terminal."""
        return self.start_any(*PROGRAM, "run", *argv, env=env, **options)

    def start_any(self, *argv: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a program without a terminal."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
            "cwd": self.directory,
            **options,
        }
        self.started.append(subprocess.Popen(argv, env=self.variables(env), text=True, **options))
        return self.started[-1]

    def call(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `claude-sessions run` to its end."""
        started = self.start(*argv, **options)
        out, err = started.communicate(timeout=60)
        return subprocess.CompletedProcess(argv, started.returncode, out, err)

    def file(self) -> Path:
        """Return the path of a file that does not exist yet."""
        return self.directory / f"file-{next(_numbers)}"

    def window(self, shell: str, more: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> JobWindow:
        """Open a window with a shell, or with another program."""
        if argv is None and shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        own = self.variables(more)
        self.windows.append(JobWindow(self.directory, argv or SHELLS[shell], own))
        return self.windows[-1]

    def processes(self) -> set[int]:
        """Return the live descendants of the processes that this started."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*") if LINUX else ():
            with suppress(OSError):
                if f"CS_TEST_TAG={self.tag}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
        return found

    def holder(self, sd_id: str = "SD-1") -> dict[str, Any]:
        """Return the row of the item's holder, waiting for one."""
        found = "SELECT * FROM public.claude_sessions WHERE sd_id = %s AND status <> 'released'"
        return dict(until(lambda: self.table.execute(found, sd_id), f"a holder of {sd_id}")[0])

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows."""
        return self.table.execute("SELECT * FROM public.claude_sessions ORDER BY created_at")

    def assert_ended(self, *, reason: str | None = None) -> dict[str, Any]:
        """Assert that there is one session, which has ended and holds nothing; return its row."""
        [row] = self.rows()
        assert (row["status"], row["sd_id"], row["track"], row["claimed_at"]) == ("released", None, None, None)
        own = row["metadata"]["claude_sessions_cli"]
        assert own.get("run") is None
        if reason:
            assert own["release_reason"] == reason
        return row

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        """End everything, and fail if a test left processes running."""
        known = {window.pid for window in self.windows} | {started.pid for started in self.started}
        deadline = time.monotonic() + PATIENCE_S
        while (left := self.processes() - known) and time.monotonic() < deadline:
            time.sleep(0.02)
        for window in self.windows:
            window.close()
        for started in self.started:
            with suppress(ProcessLookupError):
                started.kill()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Returns once no process has its pipes open.
        for started in self.started:
            started.communicate()
        assert not left, f"processes were left: {left}"


class JobWindow(Terminal):
    """A terminal in which a test also presses keys, and sees the foreground group."""

    def press(self, keys: str) -> None:
        """Send characters as they are."""
        os.write(self._master, keys.encode())

    @property
    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._master)

    @property
    def modes(self) -> int:
        """The local modes of the terminal."""
        return int(termios.tcgetattr(self._master)[3])

    def answers(self) -> str:
        """Wait until the shell has the terminal and answers; return its last exit code."""
        file = self.directory / f"answer-{next(_numbers)}"
        until(lambda: self.foreground == self.pid, f"the shell in the foreground\n{self.seen()}")
        self.type(f"echo $? >{file}")
        until(lambda: file.exists() and file.read_text().endswith("\n"), f"an answer\n{self.seen()}")
        return file.read_text().strip()


def read_pid(file: Path) -> int:
    """Return the pid that a command writes into a file when it is ready."""
    return int(until(lambda: file.exists() and file.read_text().strip(), f"{file} is written"))


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return not process.read(pid).zombie
    except ProcessLookupError:
        return False


def state(pid: int) -> str:
    """Return the letter of a process' state."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def elsewhere(session_id: str) -> Caller:
    """Return a session of another host, which can judge this host's processes only by their silence."""
    caller = make_caller(session_id, stale_after=3, heartbeat_every=1)
    host = Host("elsewhere", "another boot", "pid:[1]")
    return caller._replace(identity=caller.identity._replace(host=host))


def try_claim(table: Table, caller: Caller, sd_id: str = "SD-1") -> bool:
    """Whether a caller gets the item."""
    try:
        claim(table.database, caller, sd_id)
    except HeldByAnother:
        return False
    return True


def words(text: str, *files: Path) -> list[str]:
    """Return a shell command with its files in place."""
    return ["sh", "-c", text.format(*(shlex.quote(str(file)) for file in files))]


class Proxy:
    """Stands between `run` and the database; may refuse connections, or accept them and never answer."""

    def __init__(self, dsn: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="cs-run-")
        with psycopg.connect(dsn) as connection:
            info = connection.info
            self._server = (info.host, info.port)
        self.dsn = psycopg.conninfo.make_conninfo(dsn, host=self._directory, port=5432)
        self._gate, self._queries = threading.Event(), threading.Event()
        self._gate.set()
        self._queries.set()
        self.accepted = 0
        self.hang_next = 0
        self.listen()

    def listen(self) -> None:
        """Accept connections, again after `refuse`."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory}/.s.PGSQL.5432")
        self._listener.listen(100)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections, like a stopped server."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (Path(self._directory) / ".s.PGSQL.5432").unlink()

    def hang(self) -> None:
        """Answer nothing, on any connection, until `resume`."""
        self._gate.clear()

    def stall(self) -> None:
        """Accept connections, but answer no query until `resume`."""
        self._queries.clear()

    def resume(self) -> None:
        """Forward what was held back."""
        self._gate.set()
        self._queries.set()

    def close(self) -> None:
        """End."""
        self.resume()
        with suppress(OSError):
            self.refuse()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            gate = self._gate
            if self.hang_next:
                self.hang_next -= 1
                gate = threading.Event()  # never set
            threading.Thread(target=self._serve, args=(client, gate), daemon=True).start()

    def _serve(self, client: socket.socket, gate: threading.Event) -> None:
        host, port = self._server
        gate.wait()
        with suppress(OSError):
            if host.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{host}/.s.PGSQL.{port}")
            else:
                server = socket.create_connection((host, port))
            back = threading.Thread(target=self._pump, args=(server, client, gate), daemon=True)
            back.start()
            self._pump(client, server, gate)
            back.join()
            client.close()
            server.close()

    def _pump(self, source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while read := source.recv(65536):
                gate.wait()
                # A query of either protocol, but no answer to the server's authentication request.
                if read[:1] in (b"Q", b"P"):
                    self._queries.wait()
                target.sendall(read)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def force(table: Table, sd_id: str = "SD-1") -> None:
    """Take an item from its holder."""
    claim(table.database, elsewhere("thief"), sd_id, force_reason="urgent")
