"""A data directory that another account may write, or has written: refused, and nothing in it is followed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from embedded.control import as_root, ask, refusal, snapshot, start

# Each starts a server or two.
pytestmark = pytest.mark.faults

FILES = ("pg_hba.conf", "postgres.log", "pg_ident.conf", "schema-applied", "stopped", "postgres.lock")


def first(number: int, *names: str) -> list[Any]:
    """Return parameters of which the default tests take so many."""
    return [*names[:number], *(pytest.param(name, marks=pytest.mark.faults) for name in names[number:])]


def open_to_all(home: Path) -> None:
    home.chmod(0o777)


def give_away(home: Path) -> None:
    os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)


def give_to_group(home: Path) -> None:
    os.chown(home, -1, 12)
    home.chmod(0o770)


@pytest.mark.parametrize(
    ("spoil", "stranger"),
    [
        (open_to_all, "every account"),
        pytest.param(give_away, "account nobody", marks=as_root),
        pytest.param(give_to_group, "group 12", marks=as_root),
    ],
)
def test_directory_that_strangers_may_write_is_refused(
    home: Path, spoil: Callable[[Path], None], stranger: str
) -> None:
    home.mkdir(parents=True)
    spoil(home)
    before = snapshot(home)
    assert f"{home} is not used: {stranger} may write it" in refusal().message
    for act in (embedded.stop, embedded.status, embedded.running_dsn):
        with pytest.raises(Unreachable, match=f"{stranger} may write it"):
            act()
    assert snapshot(home) == before
    home.chmod(0o700)
    os.chown(home, os.geteuid(), -1)
    if spoil is open_to_all and os.geteuid():
        start()


@as_root
def test_directory_of_the_account_that_called_sudo_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(parents=True)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(home, nobody, -1)
    monkeypatch.setenv("SUDO_UID", str(nobody))
    assert embedded.status().running is False
    home.chmod(0o775)
    os.chown(home, -1, pwd.getpwuid(nobody).pw_gid)
    assert embedded.status().running is False
    # Its server would not admit root.
    (home / "postgres.lock").touch(mode=0o600)
    os.chown(home / "postgres.lock", nobody, -1)
    assert f"belongs to another account (uid {nobody})" in refusal().message
    (home / "postgres.lock").unlink()


@pytest.mark.parametrize("name", first(2, *FILES))
def test_planted_link_is_never_written_through(made: Path, base: Path, cli: Cli, name: str) -> None:
    precious = base / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)
    (made / name).unlink(missing_ok=True)
    (made / name).symlink_to(precious)
    done = cli("list")
    if name.startswith("postgres."):
        assert done.returncode == 6
        assert f"cannot use {made / name}: Too many levels of symbolic links" in done.stderr
        (made / name).unlink()
    else:
        assert done.returncode == 0, done.stderr
    stopped = cli("db", "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("precious", 0o600)


@pytest.mark.parametrize("name", first(1, "postgres/postmaster.pid", "postgres/PG_VERSION", *FILES))
def test_pipe_in_place_of_a_file_never_hangs(made: Path, cli: Cli, name: str) -> None:
    (made / name).unlink(missing_ok=True)
    os.mkfifo(made / name)
    os.chown(made / name, (made / name).parent.stat().st_uid, -1)
    for argv in (["list"], ["db", "status"], ["db", "stop"], ["upkeep"], ["whoami"]):
        done = cli(*argv, "--session", "a") if argv == ["whoami"] else cli(*argv)
        assert done.returncode in (0, 6), (argv, done.stderr)
        assert len(done.stderr.splitlines()) <= 2 and "unforeseen" not in done.stderr


def put_garbage(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    os.chown(path, path.parent.stat().st_uid, -1)


@pytest.mark.parametrize("text", first(1, "\0\x01garbage\xff\n", "x" * 5000), ids=["short", "long"])
@pytest.mark.parametrize("name", ["postmaster.pid", "PG_VERSION"])
def test_garbage_in_cluster_is_exit_6(made: Path, cli: Cli, name: str, text: str) -> None:
    put_garbage(made / "postgres" / name, text.encode("latin-1"))
    for argv in (["list"], ["db", "start", "--json"]):
        done = cli(*argv)
        assert done.returncode == 6, done.stdout + done.stderr
        assert name in done.stdout + done.stderr
    for argv in (["db", "status"], ["db", "stop"], ["db", "dsn"]):
        assert cli(*argv).returncode == 0


@pytest.mark.parametrize("text", first(1, "\0" * 64, "-1\n"), ids=["zeros", "-1"])
def test_pid_file_without_a_process_is_ignored(made: Path, text: str) -> None:
    # Zeros are what a power failure leaves.
    put_garbage(made / "postgres" / "postmaster.pid", text.encode())
    assert ask(start()[0], "SELECT 1") == [(1,)]


def test_data_directory_of_unknown_user_is_exit_6(home: Path, cli: Cli) -> None:
    done = cli("list", env={"CLAUDE_SESSIONS_DATA_DIR": "~nobody-has-this-name/x"})
    assert done.returncode == 6 and "CLAUDE_SESSIONS_DATA_DIR is not a path here" in done.stderr
