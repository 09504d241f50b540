"""The cluster of the private server: creation, damage, permissions and binaries."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from conftest import needs_open_checkout
from poll import until

from claude_sessions_cli.embedded import cluster as programs
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.files import LOG_LIMIT
from embedded.control import (
    ENSURE,
    ME,
    as_root,
    ask,
    command,
    kill_all,
    newest,
    refusal,
    run_as,
    snapshot,
    start,
    two_accounts,
    use,
)


@pytest.mark.faults
def test_settings_are_safe_and_ignore_environment(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c fsync=off", "SECRET": "x"}.items():
        monkeypatch.setenv(name, value)
    dsn, pid = start()
    monkeypatch.delenv("PGOPTIONS")
    if (environment := Path(f"/proc/{pid}/environ")).exists():
        names = {entry.partition(b"=")[0] for entry in environment.read_bytes().split(b"\0")}
        assert not names & {b"PGDATA", b"PGPORT", b"PGOPTIONS", b"SECRET"}
    shown = {row[0]: row[1] for row in ask(dsn, "SELECT name, setting FROM pg_settings")}
    wanted = {"data_checksums": "on", "fsync": "on", "full_page_writes": "on", "server_encoding": "UTF8"}
    assert wanted | {"listen_addresses": "", "unix_socket_permissions": "0700"} == {
        name: shown[name] for name in (*wanted, "listen_addresses", "unix_socket_permissions")
    }
    rules = ask(dsn, "SELECT type, database, user_name, address, auth_method FROM pg_hba_file_rules")
    assert rules == [("local", ["all"], ["all"], None, "peer")]


def break_version(cluster: Path) -> None:
    (cluster / "global").mkdir(parents=True)
    (cluster / "global" / "pg_control").write_bytes(b"")
    (cluster / "PG_VERSION").write_text("9.6\n")


def break_control(cluster: Path) -> None:
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("16\n")


def put_photographs(cluster: Path) -> None:
    cluster.mkdir()
    (cluster / "holiday.jpg").write_text("a beach")


def be_a_cluster(cluster: Path) -> None:
    (cluster.parent / "PG_VERSION").write_text("16\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_version, "made by Postgres 9.6, but .*NEWEST (is|are) installed"),
        (break_control, "is incomplete"),
        (put_photographs, "is not empty, and not a Postgres cluster"),
        (be_a_cluster, "is itself a Postgres cluster"),
    ],
)
def test_foreign_or_damaged_cluster_is_left_alone(home: Path, damage: Callable[[Path], None], message: str) -> None:
    home.mkdir(parents=True)
    damage(home / "postgres")
    before = snapshot(home)
    assert re.search(message.replace("NEWEST", newest()), refusal().message)
    assert snapshot(home) == before


@pytest.mark.faults
def test_killed_initdb_leaves_no_cluster(home: Path) -> None:
    with subprocess.Popen(command(ENSURE), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starter:
        until((home / "postgres.new" / "PG_VERSION").exists, "initdb to start")
        starter.kill()
    assert not (home / "postgres").exists()
    dsn, _ = start()
    assert ask(dsn, "SELECT 1") == [(1,)]
    assert not (home / "postgres.new").exists()


@pytest.mark.faults
def test_interrupt_in_initdb_leaves_no_cluster(home: Path) -> None:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command(ENSURE), start_new_session=True, stdout=quiet, stderr=quiet) as starter:
        until((home / "postgres.new" / "PG_VERSION").exists, "initdb to start")
        os.killpg(starter.pid, signal.SIGINT)
        assert starter.wait(60) != 0
    assert not (home / "postgres").exists()
    assert ask(start()[0], "SELECT 1") == [(1,)]


@needs_open_checkout
def test_unwritable_directory_is_refused(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = ME or pwd.getpwnam("nobody").pw_uid
    closed = base / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    os.chown(closed, uid, -1)
    before = snapshot(base)
    for target in (closed, closed / "below"):
        use(monkeypatch, target)
        output = run_as(uid, "try: embedded.ensure(print)\nexcept Unreachable as error: print(error.message)")
        assert output.startswith(f"cannot use {target}"), output
        assert output.endswith("Permission denied")
    assert snapshot(base) == before


def test_directory_below_file_is_refused(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "file").write_text("text")
    for target in (base / "file", base / "file" / "below"):
        use(monkeypatch, target)
        assert str(base / "file") in refusal().message
    assert (base / "file").read_text() == "text"


@pytest.mark.faults
@two_accounts
def test_other_accounts_cannot_connect(made: Path) -> None:
    dsn, _ = start()
    connect = f"try: psycopg.connect({dsn!r}); print('in')\nexcept psycopg.OperationalError as error: print(error)"
    owner = (made / "postgres").stat().st_uid
    stranger = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in (0, owner))
    assert run_as(0, connect) == "in"
    assert "Permission denied" in run_as(stranger, connect)
    assert "Peer authentication failed" in run_as(owner, connect)
    for path in (made, made / "postgres"):
        path.chmod(0o755)  # even if the directories are open
    (made / "postgres" / ".s.PGSQL.5432").chmod(0o777)
    assert "Peer authentication failed" in run_as(stranger, connect)


@pytest.mark.faults
def test_permissions_outside_are_kept(home: Path, base: Path) -> None:
    postgres = programs.find_install(home / "postgres") / "bin" / "postgres"
    before = snapshot(postgres, base)
    start()
    embedded.stop()
    start()
    after = snapshot(postgres, base)
    assert {path: after[path] for path in before} == before
    made = {path: after[str(path)][:2] for path in (home.parent, home, home / "postgres")}
    top = (0o40755 if ME == 0 else 0o40700, ME)
    assert made == {home.parent: top, home: top, home / "postgres": (0o40700, made[home / "postgres"][1])}
    assert made[home / "postgres"][1] != 0


@as_root
def test_root_keeps_closed_parent_closed(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = base / "closed"
    closed.mkdir(0o700)
    for target in (closed, closed / "below"):
        use(monkeypatch, target)
        assert f"{closed} is closed to the account" in refusal().message
    assert list(closed.iterdir()) == []
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.faults
@as_root
def test_binaries_out_of_reach_are_copied_once(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec(programs.EXTRA)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package, closed = Path(spec.submodule_search_locations[0]), base / "closed"
    shutil.copytree(package / "pginstall", closed / package.name / "pginstall")
    (closed / package.name / "__init__.py").touch()
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(closed)
    before = snapshot(closed)
    dsn, pid = start()
    copies = list(home.glob("software*"))
    assert len(copies) == 1
    assert snapshot(closed) == before
    assert {path.stat().st_uid for path in copies[0].rglob("*")} == {0}
    made = copies[0].stat().st_ino
    kill_all(dsn, pid)
    start()
    assert [path.stat().st_ino for path in home.glob("software*")] == [made]


def test_missing_extra_names_alternatives(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, programs.EXTRA, None)
    hint = refusal().hint or ""
    assert all(way in hint for way in ("the extra `embedded`", "CLAUDE_SESSIONS_DSN", "--dsn"))
    assert not home.parent.exists()


@pytest.mark.faults
@needs_open_checkout
def test_failed_initdb_is_undone(home: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    report = "try: embedded.ensure(lambda line: None)\nexcept Unreachable as error: print(error.message)"
    output = run_as(ME, limit + report)
    assert output.startswith("the private server was not created: initdb: "), output
    assert "File too large" in output
    assert [path.name for path in home.iterdir()] == ["postgres.lock"]
    start()


@pytest.mark.faults
def test_log_is_bounded(made: Path) -> None:
    start()
    embedded.stop()
    (made / "postgres.log").write_bytes(b"x" * (LOG_LIMIT + 1))
    dsn, _ = start()
    with closing(psycopg.connect(dsn)) as connection, suppress(psycopg.Error):
        connection.execute("SELECT 1/0")
    assert (made / "postgres.log.1").stat().st_size == LOG_LIMIT + 1
    assert (made / "postgres.log").stat().st_size < 2000
    assert "division" not in (made / "postgres.log").read_text()
