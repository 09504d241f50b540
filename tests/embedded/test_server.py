"""The private server: start, stop, locks, signals and socket paths."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from poll import until

from claude_sessions_cli.embedded import cluster as programs
from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from embedded.control import ENSURE, ME, ask, command, kill_all, newest, refusal, start, two_accounts, use


def test_server_starts_reports_and_stops(home: Path) -> None:
    announced: list[str] = []
    before = int(time.time())
    dsn = embedded.ensure(announced.append)
    first = embedded.status()
    assert announced == [f"creating the private Postgres server in {home}"]
    log, began = home / "postgres.log", first.started_at
    assert first == embedded.Status(True, False, first.pid, home, home / "postgres", log, newest(), began)
    assert began and before <= began.timestamp() <= time.time()
    assert ask(dsn, "SELECT current_user, current_database()") == [("claude_sessions", "claude_sessions")]
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS value")

    assert embedded.ensure(announced.append) == embedded.dsn() == dsn
    assert embedded.status() == first
    assert len(announced) == 1

    assert embedded.stop() is True
    assert embedded.stop() is False
    after = embedded.status()
    assert (after.running, after.stopped, after.pid) == (False, True, None)
    assert embedded.ensure(announced.append) == dsn
    assert announced[1:] == [f"starting the private Postgres server in {home}"]
    assert ask(dsn, "SELECT value FROM kept") == [(42,)]


def test_status_and_stop_create_nothing(home: Path) -> None:
    assert embedded.stop() is False
    assert embedded.status().running is False
    assert str(home) in embedded.dsn()
    assert embedded.schema_marker().parent == home
    assert not home.parent.exists()


@pytest.mark.faults
def test_ten_processes_get_one_server(home: Path) -> None:
    shells = [
        subprocess.Popen(command(ENSURE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)
    ]
    outcomes = [shell.communicate(timeout=180) for shell in shells]
    assert {shell.returncode for shell in shells} == {0}, outcomes
    assert {output.strip() for output, _ in outcomes} == {str(embedded.status().pid)}
    assert sum(errors.count("creating the private") for _, errors in outcomes) == 1
    assert (home / "postgres.log").read_text().count("starting PostgreSQL") == 1


@pytest.mark.faults
def test_server_killed_outright_is_recovered(made: Path) -> None:
    dsn, pid = start()
    ask(dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS value")
    kill_all(dsn, pid)
    assert embedded.status().running is False
    dsn, again = start()
    assert again != pid
    assert ask(dsn, "SELECT count(*) FROM kept") == [(1000,)]


@pytest.mark.faults
def test_stale_pid_file_of_innocent_process_is_ignored(made: Path) -> None:
    dsn, pid = start()
    kill_all(dsn, pid)
    owner = (made / "postgres").stat().st_uid
    other = {"user": owner, "group": pwd.getpwuid(owner).pw_gid, "extra_groups": []} if ME == 0 else {}
    with subprocess.Popen(["sleep", "60"], cwd="/", **other) as innocent:  # type: ignore[call-overload]
        try:
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                lines = (made / "postgres" / name).read_text().split("\n")
                (made / "postgres" / name).write_text("\n".join([str(innocent.pid), *lines[1:]]))
            dsn, _ = start()
            assert innocent.poll() is None
        finally:
            innocent.kill()
    assert ask(dsn, "SELECT 1") == [(1,)]


def test_pid_files_emptied_by_power_failure_are_ignored(made: Path) -> None:
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (made / "postgres" / name).touch()
    assert ask(start()[0], "SELECT 1") == [(1,)]


def test_server_started_by_hand_is_left_alone(made: Path, base: Path) -> None:
    start()
    embedded.stop()
    cluster, owner = made / "postgres", pwd.getpwuid((made / "postgres").stat().st_uid)
    sockets = base / "by-hand"
    sockets.mkdir()
    os.chown(sockets, owner.pw_uid, owner.pw_gid)
    postgres = programs.within_reach(made, programs.find_install(cluster), owner) / "bin" / "postgres"
    other = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if ME == 0 else {}
    arguments = [str(postgres), "-D", str(cluster), "-c", "listen_addresses=", "-k", str(sockets)]
    with subprocess.Popen(arguments, cwd="/", stderr=subprocess.DEVNULL, **other) as server:  # type: ignore[call-overload]
        try:
            file = cluster / "postmaster.pid"
            until(lambda: file.exists() and "ready" in file.read_text(), "the server to be ready")
            before = file.read_text()
            assert "shared memory" in refusal().message
            assert file.read_text().split("\n")[:7] == before.split("\n")[:7]
            assert server.poll() is None
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    start()


def test_signals_of_terminal_do_not_reach_server(made: Path) -> None:
    code = ENSURE + "; sys.stdout.flush(); __import__('time').sleep(60)"
    with subprocess.Popen(
        command(code), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        for sent in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(caller.pid, sent)
    assert embedded.status().pid == pid
    assert os.getsid(pid) == pid


def test_pipe_of_caller_is_not_held_open(made: Path) -> None:
    # An inherited pipe would block this until the server ends.
    done = subprocess.run(command(ENSURE), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(embedded.status().pid)
    assert embedded.status().running


@pytest.mark.faults
@two_accounts
def test_server_of_another_user_is_refused(made: Path) -> None:
    start()
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(made / "postgres.lock", nobody, -1)
    assert "postgres.lock is not used: account nobody may write it" in refusal().message
    os.chown(made / "postgres.lock", 0, -1)


def test_held_lock_without_answer_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    home.mkdir(parents=True)
    with (home / "postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = refusal().message
        assert str(home / "postgres.lock") in message
        assert str(home / "postgres" / ".s.PGSQL.5432") in message
        with pytest.raises(Unreachable, match="still held"):
            embedded.stop()
    assert [path.name for path in home.iterdir()] == ["postgres.lock"]


@pytest.mark.faults
@pytest.mark.parametrize(
    "name", ["it's a \\ path", *(pytest.param(name, marks=pytest.mark.faults) for name in ("x" * 150, "a, b"))]
)
def test_odd_paths_are_reached_by_second_path(
    base: Path, monkeypatch: pytest.MonkeyPatch, home: Path, name: str
) -> None:
    use(monkeypatch, base / name)
    dsn, pid = start()
    assert len(str(embedded.status().socket_dir)) < 90
    assert ask(dsn, "SELECT 1") == [(1,)]
    alias = embedded.status().socket_dir.parent
    if alias != base / name:
        assert alias.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(alias)  # as a cleaner of temporary files does
        assert start()[1] == pid
        assert ask(dsn, "SELECT 1") == [(1,)]


@pytest.mark.faults
def test_second_path_open_to_others_is_refused(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, base / ("x" * 150))
    start()
    alias = embedded.status().socket_dir.parent
    alias.chmod(0o770)
    assert f"{alias} is not a private directory" in refusal().message
    alias.chmod(0o700)
    moved = alias.rename(alias.with_name(alias.name + "-moved"))
    alias.symlink_to(moved)
    assert f"{alias} is not a private directory" in refusal().message
    alias.unlink()
    moved.rename(alias)


def test_server_dying_on_start_reports_reason(made: Path) -> None:
    start()
    embedded.stop()
    with (made / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    error = refusal()
    assert "postgresql.conf" in error.message
    assert str(made / "postgres.log") in (error.hint or "")


@pytest.mark.faults
def test_schema_marker_goes_with_cluster(home: Path) -> None:
    start()
    embedded.schema_marker().write_text("3")
    embedded.stop()
    start()
    assert embedded.schema_marker().read_text() == "3"
    embedded.stop()
    shutil.rmtree(home / "postgres")
    start()
    assert not embedded.schema_marker().exists()


def test_running_server_is_found_without_connection(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, _ = start()
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("a process is started"))
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("it connects"))
    assert embedded.ensure(pytest.fail) == dsn
