"""Start, stop, query and kill the private server."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from poll import until

from claude_sessions_cli.embedded import cluster as programs
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable

ME = os.geteuid()
as_root = pytest.mark.skipif(ME != 0, reason="only root starts the server under another account")
two_accounts = pytest.mark.skipif(ME != 0, reason="only root can act as a second user")
# More than the default, for busy machines.
WAIT_SECONDS = 120.0
# Import before dropping privileges: the other account may be unable to read the interpreter.
AS_USER = f"""
import os, pwd, sys
import platformdirs, psycopg
from claude_sessions_cli.embedded import cluster as programs, server as embedded
from claude_sessions_cli.errors import Unreachable
uid = int(sys.argv[1])
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)
embedded.WAIT_SECONDS = {WAIT_SECONDS}
"""
ENSURE = "embedded.ensure(lambda line: print(line, file=sys.stderr)); print(embedded.status().pid)"


def use(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_DATA_DIR", str(home))
    monkeypatch.setattr(embedded, "WAIT_SECONDS", WAIT_SECONDS)


def newest() -> str:
    """Return the major version of a new cluster."""
    install = programs.find_install(Path(__file__).with_name("missing"))
    return (install / programs.CATALOG).read_text().partition("\n")[0].split()[-1]


def start() -> tuple[str, int]:
    dsn = embedded.ensure(lambda line: None)
    pid = embedded.status().pid
    assert pid is not None
    return dsn, pid


def command(code: str, uid: int = ME) -> list[str]:
    return [sys.executable, "-c", AS_USER + code, str(uid)]


def run_as(uid: int, code: str) -> str:
    done = subprocess.run(command(code, uid), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)
        return list(cursor.fetchall()) if cursor.description else []


def refusal() -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        embedded.ensure(lambda line: None)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 6
    assert caught.value.hint
    return caught.value


def kill_all(dsn: str, pid: int) -> None:
    """SIGKILL every process of the server, and wait for its lock."""
    pids = [row[0] for row in ask(dsn, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")]
    for victim in (pid, *pids):
        with suppress(ProcessLookupError):
            os.kill(int(str(victim)), signal.SIGKILL)
    until(lambda: not is_held(embedded.status().data_dir / "postgres.lock"), "the lock to be free")


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def snapshot(*roots: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return mode, owner and content of all files below, and mode and owner of all directories above."""
    found = {}
    for root in roots:
        for path in (root, *root.parents, *(root.rglob("*") if root.is_dir() else ())):
            is_file = path.is_file() and root in path.parents
            state = path.lstat()
            found[str(path)] = (state.st_mode, state.st_uid, state.st_gid, path.read_bytes() if is_file else b"")
    return found
