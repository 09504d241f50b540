"""The demo keeps to a private server, whatever database its caller has configured."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from claude_sessions_cli import settings

DEMO = Path(__file__).parents[1] / "docs" / "demo.sh"
VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a directory for PATH whose `claude-sessions` is this checkout's."""
    script = tmp_path / "bin" / "claude-sessions"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m claude_sessions_cli "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.mark.faults
def test_demo_leaves_configured_database_and_files_alone(dsn: str, tmp_path: Path, program: Path) -> None:
    for place in (".config", "Library/Application Support"):
        config = tmp_path / place / "claude-sessions" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f"dsn = '''{dsn}'''\n")
    # An account of another database, under sudo, sees the demo too.
    remembered = settings.state_directory(os.environ) / "database-rule"
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text("CLAUDE_SESSIONS_DSN\n")
    before = sorted(tmp_path.rglob("*"))
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    libpq = {VARIABLES[name]: str(value) for name, value in parameters.items() if name in VARIABLES}
    with psycopg.connect(dsn) as connection:
        # The demo's reap would take this session's claim.
        connection.execute(
            "INSERT INTO public.claude_sessions (session_id, status, heartbeat_at)"
            " VALUES ('silent', 'active', now() - interval '1 hour')"
        )

    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)  # as root, the server runs as another account
        variables = {
            "CLAUDE_SESSIONS_DSN": dsn,
            "CLAUDE_SESSIONS_STALE_AFTER": "1d",
            "TMPDIR": temporary,
            "SUDO_UID": "1",
        }
        done = _run_demo(program, **variables, **libpq)
        assert done.returncode == 0, done.stdout
        assert list(Path(temporary).iterdir()) == []

    assert "claimed SD-AUTH-001" in done.stdout
    assert "released bob SD-AUTH-001: process gone" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT session_id, status FROM public.claude_sessions").fetchall()
    assert rows == [("silent", "active")]


def _run_demo(program: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(DEMO)],
        env={**os.environ, **variables, "PATH": f"{program}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
