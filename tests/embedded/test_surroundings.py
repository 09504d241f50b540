"""The private server under fresh accounts, unusual umasks, full and read-only disks, and in two containers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cli, needs_open_checkout
from poll import until

from claude_sessions_cli.embedded import server as embedded
from claude_sessions_cli.errors import Unreachable
from embedded.control import ME, as_root

pytestmark = pytest.mark.faults
# Import before dropping privileges: the other account may be unable to read the interpreter.
IMPORTS = """
import importlib, os, pkgutil, platform, sys, tempfile
import platformdirs.unix, psycopg, typer.main
import claude_sessions_cli
for found in pkgutil.walk_packages(claude_sessions_cli.__path__, "claude_sessions_cli."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from claude_sessions_cli import cli
def become(uid, gid):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
"""
PROGRAM = [sys.executable, "-m", "claude_sessions_cli"]


def run_as(uid: int, gid: int, home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another account, with a home directory and nothing else."""
    code = f"{IMPORTS}become({uid}, {gid})\nsys.exit(cli.run({[*argv]}))"
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, timeout=60)


@needs_open_checkout
def test_fresh_account_gets_a_server_of_its_own(base: Path) -> None:
    account = pwd.getpwuid(ME) if ME else pwd.getpwnam("nobody")
    fresh = base / "fresh"
    fresh.mkdir(mode=0o700)
    os.chown(fresh, account.pw_uid, -1)
    ids = account.pw_uid, account.pw_gid
    done = run_as(*ids, fresh, "claim", "SD-1", "--session", "a")
    assert done.returncode == 0, done.stderr
    try:
        state = json.loads(run_as(*ids, fresh, "db", "status", "--json").stdout)["data"]
        assert state["running"] and Path(state["data_dir"]).is_relative_to(fresh)
        assert {path.stat().st_uid for path in fresh.rglob("*")} == {account.pw_uid}
        assert not [path for path in Path(state["data_dir"]).iterdir() if path.stat().st_mode & 0o077]
    finally:
        assert run_as(*ids, fresh, "db", "stop").returncode == 0


@as_root
@needs_open_checkout
def test_account_without_a_name_is_exit_6(base: Path) -> None:
    base.chmod(0o777)
    done = run_as(54321, 54321, base, "list")
    assert done.returncode == 6 and "needs an account to run as, and this machine has none of uid 54321" in done.stderr


@as_root
@needs_open_checkout
def test_account_without_name_and_home_is_exit_2(base: Path) -> None:
    code = f"{IMPORTS}become(54321, 54321)\ndel os.environ['HOME']\nsys.exit(cli.run(['list']))"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "no home directory: HOME is not set, and this machine has no account" in done.stderr


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o777])
def test_any_umask_leaves_a_private_and_usable_server(home: Path, cli: Cli, umask: int) -> None:
    def under() -> None:
        os.umask(umask)

    for _ in range(2):
        done = cli("claim", "SD-1", "--session", "a", preexec_fn=under)
        assert done.returncode == 0, done.stderr
        assert cli("upkeep", preexec_fn=under).returncode == 0
        assert cli("db", "stop", preexec_fn=under).returncode == 0
    for path in (home, *home.iterdir()):
        mode = path.stat().st_mode
        assert not mode & 0o022 and mode & 0o600 == 0o600, path


@pytest.fixture
def disk(home: Path) -> Iterator[Callable[[str], None]]:
    """Mount a small file system around the data directory; return a function that mounts it again with options."""
    home.parent.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-o", options, *device], check=True, capture_output=True)

    device = ["-t", "tmpfs", "none", str(home.parent)]
    try:
        mount("size=20m,mode=755")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    device = [str(home.parent)]
    yield mount
    mount("remount,rw,size=200m")
    embedded.stop()
    subprocess.run(["umount", "-l", str(home.parent)], check=True)


def test_full_disk_creates_no_half_cluster(home: Path, cli: Cli, disk: Callable[[str], None]) -> None:
    done = cli("list")
    assert done.returncode == 6 and "the private server was not created: " in done.stderr
    assert not (home / "postgres").exists() and not (home / "postgres.new").exists()
    disk("remount,size=200m")
    assert cli("list").returncode == 0


def test_disk_that_fills_up_costs_no_claim(home: Path, cli: Cli, disk: Callable[[str], None]) -> None:
    disk("remount,size=70m")
    assert cli("claim", "SD-1", "--session", "a").returncode == 0
    with (home.parent / "filler").open("wb") as filler:
        while True:
            try:
                filler.write(b"x" * 65536)
                filler.flush()
            except OSError:
                break
    codes = [cli("claim", f"SD-{number}", "--session", f"s{number}").returncode for number in range(2, 8)]
    codes += [cli(*argv).returncode for argv in (["list"], ["db", "status"], ["db", "stop"], ["list"])]
    assert set(codes) <= {0, 6}, codes
    disk("remount,size=200m")
    listed = json.loads(cli("list", "--json").stdout)["data"]["sessions"]
    assert "SD-1" in [session["sd_id"] for session in listed]


@pytest.mark.parametrize("state", ["missing", "stopped"])
def test_read_only_home_is_exit_6(home: Path, cli: Cli, disk: Callable[[str], None], state: str) -> None:
    disk("remount,size=200m")
    if state == "stopped":
        assert cli("list").returncode == 0
        assert cli("db", "stop").returncode == 0
    disk("remount,ro")
    for argv in (["list"], ["claim", "SD-1", "--session", "a"], ["db", "start"]):
        done = cli(*argv)
        assert done.returncode == 6 and "Read-only file system" in done.stderr, done.stderr
    assert cli("db", "status").returncode == 0
    assert cli("upkeep").returncode in (0, 6)


def contained(script: str) -> subprocess.Popen[str]:
    """Run a script in process and mount namespaces of its own, as a container does."""
    own = [] if ME == 0 else ["--map-root-user"]
    command = ["unshare", *own, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_two_containers_on_one_directory_get_one_server(home: Path, cli: Cli) -> None:
    words = " ".join(PROGRAM)
    rooms = [contained(f"{words} list -q && echo ready && read end") for _ in range(2)]
    try:
        for room in rooms:
            assert room.stdout is not None and room.stdout.readline() == "ready\n"
        assert (home / "postgres.log").read_text().count("starting PostgreSQL") == 1
        assert cli("claim", "SD-1", "--session", "a").returncode == 0
        assert embedded.status().running
        _, complaint = contained(f"{words} db stop").communicate()
        assert "the server runs in another container (stop it there, with the same command)" in complaint
        assert not (home / "stopped").exists()
    finally:
        for room in rooms:
            room.communicate("\n")
    # The server ended with its container, and its last process leaves the lock.
    until(lambda: not _is_answering(), "the end of the containers")
    listed = json.loads(cli("list", "--json").stdout)["data"]["sessions"]
    assert [session["sd_id"] for session in listed] == ["SD-1"]


def _is_answering() -> bool:
    try:
        return embedded.status().running
    except Unreachable:
        return False
