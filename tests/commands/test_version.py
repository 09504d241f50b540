"""The command `version`, with and without what the program runs on."""

from __future__ import annotations

import platform
import subprocess
import sys

import psycopg
import pytest

from claude_sessions_cli import __version__, queries
from claude_sessions_cli.embedded import cluster
from commands.answers import Inside, data_of


def test_plain_version_imports_no_driver() -> None:
    code = "import sys; from claude_sessions_cli.cli import run; [run([word]) for word in ('version', '--version')]"
    code += "; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"claude-sessions {__version__}\n" * 2 + "False\n"


def test_verbose_version_names_what_it_runs_on(inside: Inside) -> None:
    data = data_of(inside("version", "--json"), "version")
    assert data["psycopg"].startswith(f"{psycopg.__version__} (")
    assert data["libpq"] == f"{psycopg.pq.version() // 10_000}.{psycopg.pq.version() % 10_000}"
    assert (data["python"], data["executable"]) == (platform.python_version(), sys.executable)
    assert (data["embedded"], data["sql"]) == (sorted(cluster.installed(), key=int), str(queries.directory()))
    done = inside("version", "--verbose")
    assert done.stdout.startswith(f"claude-sessions:   {__version__}\n")
    assert f"libpq:             {data['libpq']}\n" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_version_reports_a_missing_extra(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "EXTRA", "no_such_package")
    assert data_of(inside("version", "--json"), "version")["embedded"] == []
    assert "private Postgres:  not installed" in inside("version", "--verbose").stdout
