"""The private server: real processes, real signals, real directories."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from conftest import needs_open_checkout
from waiting import until

from claude_sessions_cli import cluster as programs
from claude_sessions_cli import embedded
from claude_sessions_cli.errors import Unreachable

ME = os.geteuid()
as_root = pytest.mark.skipif(ME != 0, reason="only root starts the server under another account")
two_accounts = pytest.mark.skipif(ME != 0, reason="only root can act as a second user")

# Of which a busy machine may need more than people have patience.
WAIT_SECONDS = 120.0
# It imports first and drops its rights then: the interpreter itself may lie where the other account cannot read.
AS_USER = f"""
import os, pwd, sys
import platformdirs, psycopg
from claude_sessions_cli import cluster as programs
from claude_sessions_cli import embedded
from claude_sessions_cli.errors import Unreachable
uid = int(sys.argv[1])
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)
embedded.WAIT_SECONDS = {WAIT_SECONDS}
"""
ENSURE = "embedded.ensure(lambda line: print(line, file=sys.stderr)); print(embedded.status().pid)"


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every account can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="claude-sessions-test-", dir="/tmp")).resolve()
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def home(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory that does not exist yet; its server is gone at the end."""
    for name in [name for name in os.environ if name.startswith(("PG", "CLAUDE_"))]:
        monkeypatch.delenv(name)
    use(monkeypatch, base / "new" / "home")
    yield base / "new" / "home"
    with suppress(Unreachable):
        embedded.stop()
    alias = embedded.status().socket_dir.parent
    if alias.name.startswith("claude-sessions-"):
        shutil.rmtree(alias, ignore_errors=True)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="claude-sessions-test-", dir="/tmp")).resolve()
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, path / "home")
        start()
        embedded.stop()
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def made(template: Path, home: Path) -> Path:
    """The data directory of a server that was used before: a copy costs a tenth of creating one."""
    home.parent.mkdir()
    subprocess.run(["cp", "-a", str(template), str(home)], check=True)
    return home


def use(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_DATA_DIR", str(home))
    monkeypatch.setattr(embedded, "WAIT_SECONDS", WAIT_SECONDS)


def newest() -> str:
    """The major version that a cluster gets which is made now."""
    install = programs.find_install(Path("/nonexistent"))
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
    """SIGKILL every process of the server, and wait until the last has let go of the lock."""
    pids = [row[0] for row in ask(dsn, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")]
    for victim in (pid, *pids):
        with suppress(ProcessLookupError):
            os.kill(int(str(victim)), signal.SIGKILL)
    until(lambda: not is_held(embedded.status().data_dir / "postgres.lock"), "the lock is free")


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def snapshot(*roots: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, owner and content of everything below, and mode and owner of everything above."""
    found = {}
    for root in roots:
        for path in (root, *root.parents, *(root.rglob("*") if root.is_dir() else ())):
            is_file = path.is_file() and root in path.parents
            state = path.lstat()
            found[str(path)] = (state.st_mode, state.st_uid, state.st_gid, path.read_bytes() if is_file else b"")
    return found


def test_starts_tells_and_stops(home: Path) -> None:
    said: list[str] = []
    dsn = embedded.ensure(said.append)
    first = embedded.status()
    assert said == [f"creating the private Postgres server in {home}"]
    assert first == embedded.Status(True, first.pid, home, home / "postgres", home / "postgres.log", newest())
    assert ask(dsn, "SELECT current_user, current_database()") == [("claude_sessions", "claude_sessions")]
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS value")

    assert embedded.ensure(said.append) == embedded.dsn() == dsn
    assert embedded.status() == first
    assert len(said) == 1

    assert embedded.stop() is True
    assert embedded.stop() is False
    assert (embedded.status().running, embedded.status().pid) == (False, None)
    assert embedded.ensure(said.append) == dsn
    assert said[1:] == [f"starting the private Postgres server in {home}"]
    assert ask(dsn, "SELECT value FROM kept") == [(42,)]


def test_settings_are_safe_and_deaf_to_the_callers_environment(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_looking_creates_nothing(home: Path) -> None:
    assert embedded.stop() is False
    assert embedded.status().running is False
    assert str(home) in embedded.dsn()
    assert embedded.schema_marker().parent == home
    assert not home.parent.exists()


def test_ten_processes_get_one_server(home: Path) -> None:
    shells = [
        subprocess.Popen(command(ENSURE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)
    ]
    outcomes = [shell.communicate(timeout=180) for shell in shells]
    assert {shell.returncode for shell in shells} == {0}, outcomes
    assert {output.strip() for output, _ in outcomes} == {str(embedded.status().pid)}
    assert sum(errors.count("creating the private") for _, errors in outcomes) == 1
    assert (home / "postgres.log").read_text().count("starting PostgreSQL") == 1


def test_server_killed_outright_is_recovered(made: Path) -> None:
    dsn, pid = start()
    ask(dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS value")
    kill_all(dsn, pid)
    assert embedded.status().running is False
    dsn, again = start()
    assert again != pid
    assert ask(dsn, "SELECT count(*) FROM kept") == [(1000,)]


def test_stale_pid_file_that_names_an_innocent_process(made: Path) -> None:
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


def test_pid_files_that_a_power_failure_emptied(made: Path) -> None:
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (made / "postgres" / name).touch()
    assert ask(start()[0], "SELECT 1") == [(1,)]


def test_server_that_somebody_started_by_hand_is_left_alone(made: Path, base: Path) -> None:
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
        until((sockets / ".s.PGSQL.5432").exists, "its socket")
        before = (cluster / "postmaster.pid").read_text()
        assert "shared memory" in refusal().message
        assert (cluster / "postmaster.pid").read_text().split("\n")[:7] == before.split("\n")[:7]
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    start()


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
    ("damage", "said"),
    [
        (break_version, "made by Postgres 9.6, but .*NEWEST is installed"),
        (break_control, "is incomplete"),
        (put_photographs, "is not empty, and is no Postgres cluster"),
        (be_a_cluster, "is itself a Postgres cluster"),
    ],
)
def test_what_is_no_cluster_of_ours_stays_as_it_is(home: Path, damage: Callable[[Path], None], said: str) -> None:
    home.mkdir(parents=True)
    damage(home / "postgres")
    before = snapshot(home)
    assert re.search(said.replace("NEWEST", newest()), refusal().message)
    assert snapshot(home) == before


@pytest.mark.faults
def test_starter_killed_in_initdb_leaves_nothing_that_is_taken_for_a_cluster(home: Path) -> None:
    with subprocess.Popen(command(ENSURE), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starter:
        until((home / "postgres.new" / "PG_VERSION").exists, "initdb is at work")
        starter.kill()
    assert not (home / "postgres").exists()
    dsn, _ = start()
    assert ask(dsn, "SELECT 1") == [(1,)]
    assert not (home / "postgres.new").exists()


@pytest.mark.faults
def test_interrupt_in_initdb_leaves_no_cluster(home: Path) -> None:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command(ENSURE), start_new_session=True, stdout=quiet, stderr=quiet) as starter:
        until((home / "postgres.new" / "PG_VERSION").exists, "initdb is at work")
        os.killpg(starter.pid, signal.SIGINT)
        assert starter.wait(60) != 0
    assert not (home / "postgres").exists()
    assert ask(start()[0], "SELECT 1") == [(1,)]


def test_signals_of_the_callers_terminal_do_not_reach_the_server(made: Path) -> None:
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


def test_callers_pipe_is_not_held_open(made: Path) -> None:
    # Which would make this wait for the server's end.
    done = subprocess.run(command(ENSURE), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(embedded.status().pid)
    assert embedded.status().running


@needs_open_checkout
def test_directory_that_cannot_be_written(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = ME or pwd.getpwnam("nobody").pw_uid
    closed = base / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    os.chown(closed, uid, -1)
    before = snapshot(base)
    for target in (closed, closed / "below"):
        use(monkeypatch, target)
        said = run_as(uid, "try: embedded.ensure(print)\nexcept Unreachable as error: print(error.message)")
        assert said.startswith(f"cannot use {target}"), said
        assert said.endswith("Permission denied")
    assert snapshot(base) == before


def test_directory_below_a_file(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "file").write_text("text")
    for target in (base / "file", base / "file" / "below"):
        use(monkeypatch, target)
        assert str(base / "file") in refusal().message
    assert (base / "file").read_text() == "text"


@two_accounts
def test_nobody_else_can_connect(made: Path) -> None:
    dsn, _ = start()
    connect = f"try: psycopg.connect({dsn!r}); print('in')\nexcept psycopg.OperationalError as error: print(error)"
    owner = (made / "postgres").stat().st_uid
    stranger = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in (0, owner))
    assert run_as(0, connect) == "in"
    assert "Permission denied" in run_as(stranger, connect)
    assert "Peer authentication failed" in run_as(owner, connect)
    for path in (made, made / "postgres"):
        path.chmod(0o755)  # even where the directories are open
    (made / "postgres" / ".s.PGSQL.5432").chmod(0o777)
    assert "Peer authentication failed" in run_as(stranger, connect)


@two_accounts
def test_server_of_another_user_is_refused(made: Path) -> None:
    start()
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(made / "postgres.lock", nobody, -1)
    assert f"belongs to another user (uid {nobody})" in refusal().message
    os.chown(made / "postgres.lock", 0, -1)


def test_no_permission_changes_outside(home: Path, base: Path) -> None:
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
def test_root_does_not_open_a_closed_parent(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = base / "closed"
    closed.mkdir(0o700)
    for target in (closed, closed / "below"):
        use(monkeypatch, target)
        assert f"{closed} is closed to the account" in refusal().message
    assert list(closed.iterdir()) == []
    assert closed.stat().st_mode & 0o777 == 0o700


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


def test_lock_held_but_nobody_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, programs.EXTRA, None)
    hint = refusal().hint or ""
    assert all(way in hint for way in ("claude-sessions[embedded]", "CLAUDE_SESSIONS_DSN", "--dsn"))
    assert not home.parent.exists()


@pytest.mark.parametrize(
    "name", ["it's a \\ path", *(pytest.param(name, marks=pytest.mark.faults) for name in ("x" * 150, "a, b"))]
)
def test_paths_that_sockets_or_libpq_cannot_take(
    base: Path, monkeypatch: pytest.MonkeyPatch, home: Path, name: str
) -> None:
    use(monkeypatch, base / name)
    dsn, pid = start()
    assert len(str(embedded.status().socket_dir)) < 90
    assert ask(dsn, "SELECT 1") == [(1,)]
    alias = embedded.status().socket_dir.parent
    if alias != base / name:
        assert alias.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(alias)  # as a cleaner of temporary files would
        assert start()[1] == pid
        assert ask(dsn, "SELECT 1") == [(1,)]


def test_second_path_that_is_not_private_is_refused(base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_server_that_dies_at_once_says_why(made: Path) -> None:
    start()
    embedded.stop()
    with (made / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    error = refusal()
    assert "postgresql.conf" in error.message
    assert str(made / "postgres.log") in (error.hint or "")


@needs_open_checkout
def test_initdb_that_cannot_write_is_undone(home: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    report = "try: embedded.ensure(lambda line: None)\nexcept Unreachable as error: print(error.message)"
    said = run_as(ME, limit + report)
    assert said.startswith("the embedded server was not created: initdb: "), said
    assert "File too large" in said
    assert [path.name for path in home.iterdir()] == ["postgres.lock"]
    start()


def test_marker_goes_with_the_cluster(home: Path) -> None:
    start()
    embedded.schema_marker().write_text("3")
    embedded.stop()
    start()
    assert embedded.schema_marker().read_text() == "3"
    embedded.stop()
    shutil.rmtree(home / "postgres")
    start()
    assert not embedded.schema_marker().exists()


def test_log_is_bounded(made: Path) -> None:
    start()
    embedded.stop()
    (made / "postgres.log").write_bytes(b"x" * (programs.MAX_LOG_BYTES + 1))
    dsn, _ = start()
    with closing(psycopg.connect(dsn)) as connection, suppress(psycopg.Error):
        connection.execute("SELECT 1/0")
    assert (made / "postgres.log.1").stat().st_size == programs.MAX_LOG_BYTES + 1
    assert (made / "postgres.log").stat().st_size < 2000
    assert "division" not in (made / "postgres.log").read_text()


def test_a_server_that_runs_is_found_without_a_process_or_a_connection(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, _ = start()
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("a process is started"))
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("it connects"))
    assert embedded.ensure(pytest.fail) == dsn
