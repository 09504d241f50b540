"""Liveness in containers that share this host's name and kernel, and of hidden processes: unknown, never dead."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from probe import row_of, session_of

from claude_sessions_cli import process
from claude_sessions_cli.liveness import liveness, this_host
from claude_sessions_cli.model import Liveness

PROBE = (sys.executable, str(Path(__file__).with_name("probe.py")))
PACKAGE = Path(process.__file__).parents[1]
CHECKOUT = Path(__file__).parents[1]
IMAGE = "postgres:15"
needs_linux = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has namespaces")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a /proc that hides processes")
needs_own_proc_mounts = pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 8) if platform.system() == "Linux" else True,
    reason="before Linux 5.8 all mounts of /proc share their options",
)


def importing(*places: Path) -> dict[str, str]:
    """Return this environment with these places on Python's path."""
    paths = [*map(str, places), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Probe:
    """A process elsewhere that reports itself and judges rows."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=importing(PACKAGE),
            cwd=directory,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"{command}: {self._process.communicate()[1]}")
        self.row: dict[str, Any] = json.loads(line)

    def judge(self, row: dict[str, Any]) -> Liveness:
        """Return its verdict on a row's process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(row) + "\n")
        self._process.stdin.flush()
        return Liveness(self._process.stdout.readline().strip())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Callable[..., Probe]]:
    """Return a function that starts a probe under a command such as unshare."""
    with ExitStack() as stack:

        def start(*command: str, more: Sequence[str] = ()) -> Probe:
            made = Probe([*command, *PROBE, *more], tmp_path)
            stack.callback(made.close)
            return made

        yield start


def unshare(*options: str) -> list[str]:
    """Return a command that enters new namespaces; skip if this user may not create them."""
    command = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *options]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"this user may not {' '.join(command)}")
    return command


def here(row: dict[str, Any]) -> Liveness:
    """Return this host's verdict on a row's process."""
    return liveness(session_of(row), this_host())


def gone(sleeper: Callable[[], subprocess.Popen[bytes]]) -> dict[str, Any]:
    """Return the row of a process of this host that has ended."""
    child = sleeper()
    row = row_of(child.pid)
    child.kill()
    child.wait()
    return row


Sleeper = Callable[[], "subprocess.Popen[bytes]"]


@needs_linux
@pytest.mark.parametrize("names", [[], ["--uts"]], ids=["the same uts namespace", "a uts namespace of the same name"])
def test_container_with_host_name_is_unknown_and_vice_versa(
    probe: Callable[..., Probe], sleeper: Sleeper, names: list[str]
) -> None:
    inside = probe(*unshare("--pid", "--fork", "--mount-proc", *names))
    ours = row_of(os.getpid())
    assert (inside.row["hostname"], inside.row["boot_id"]) == (ours["hostname"], ours["boot_id"])
    assert inside.row["pid_ns"] != ours["pid_ns"]
    assert inside.row["pid"] == 1
    assert inside.judge(inside.row) is Liveness.ALIVE
    assert inside.judge({**inside.row, "pid": 4000}) is Liveness.DEAD
    # Pid 1 of the container is another process here, and our pid does not exist there.
    assert here(inside.row) is Liveness.UNKNOWN
    assert inside.judge(ours) is Liveness.UNKNOWN
    assert inside.judge(gone(sleeper)) is Liveness.UNKNOWN
    inside.close()
    assert here(inside.row) is Liveness.UNKNOWN


@needs_linux
def test_proc_of_outer_namespace_proves_nothing(probe: Callable[..., Probe], sleeper: Sleeper) -> None:
    # It has the outer /proc, in which its own pid is another process.
    inside = probe(*unshare("--pid", "--fork"))
    assert inside.row == {"ancestors": []}
    assert inside.judge(row_of(os.getpid())) is Liveness.UNKNOWN
    assert inside.judge(gone(sleeper)) is Liveness.UNKNOWN


@needs_linux
def test_command_under_foreign_proc_has_no_identity(tmp_path: Path) -> None:
    command = [*unshare("--pid", "--fork"), sys.executable, "-m", "claude_sessions_cli", "whoami"]
    variables = importing(PACKAGE)
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    named = subprocess.run(
        [*command, "--session", "named"], cwd=tmp_path, capture_output=True, text=True, env=variables
    )
    assert named.returncode == 0


@needs_linux
def test_own_time_namespace_is_unknown(probe: Callable[..., Probe]) -> None:
    inside = probe(*unshare("--time", "--boottime", "100000", "--fork"))
    # There the same process has another start.
    assert inside.judge(inside.row) is Liveness.ALIVE
    assert here(inside.row) is Liveness.UNKNOWN
    assert inside.judge(row_of(os.getpid())) is Liveness.UNKNOWN


@needs_linux
def test_really_reused_pid_is_dead(probe: Callable[..., Probe], tmp_path: Path) -> None:
    code = """
import json, subprocess, sys, time
from pathlib import Path
from probe import row_of, session_of
from claude_sessions_cli import liveness, process
def start(): return subprocess.Popen(["sleep", "600"])
first = start(); row = row_of(first.pid); first.kill(); first.wait()
while True:
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(row["pid"] - 1))
    again = start()
    if again.pid == row["pid"] and process.read(again.pid).start != row["start"]: break
    again.kill(); again.wait()
print(liveness.liveness(session_of(row), liveness.this_host()).value, again.poll()); again.kill()
"""
    command = [*unshare("--pid", "--fork", "--mount-proc"), sys.executable, "-c", code]
    variables = importing(PACKAGE, CHECKOUT / "tests")
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    if "ns_last_pid" in done.stderr:
        pytest.skip("pids cannot be chosen on this kernel")
    assert (done.stdout, done.stderr) == ("dead None\n", "")


@needs_linux
@needs_root
@needs_own_proc_mounts
def test_process_hidden_by_hidepid_is_unknown(probe: Callable[..., Probe], sleeper: Sleeper) -> None:
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"'
    inside = probe("unshare", "--mount", "sh", "-c", mount, more=["65534"])
    child = sleeper()
    row = row_of(child.pid)
    assert here(row) is Liveness.ALIVE
    # It sees itself, but no process of root, not even its parent.
    assert inside.row["pid_ns"] == row["pid_ns"]
    assert inside.row["ancestors"] == []
    assert inside.judge(inside.row) is Liveness.ALIVE
    assert inside.judge(row) is Liveness.UNKNOWN
    assert inside.judge({**row, "start": "1"}) is Liveness.UNKNOWN
    child.kill()
    child.wait()
    assert inside.judge(row) is Liveness.DEAD


@needs_linux
def test_docker_container_with_host_name_is_unknown(probe: Callable[..., Probe], sleeper: Sleeper) -> None:
    ours = row_of(os.getpid())
    command = docker(ours["hostname"])
    inside = probe(*command)
    assert (inside.row["hostname"], inside.row["boot_id"]) == (ours["hostname"], ours["boot_id"])
    assert inside.row["pid_ns"] != ours["pid_ns"]
    assert inside.judge(inside.row) is Liveness.ALIVE
    assert here(inside.row) is Liveness.UNKNOWN
    assert inside.judge(ours) is Liveness.UNKNOWN
    assert inside.judge(gone(sleeper)) is Liveness.UNKNOWN


def docker(hostname: str) -> list[str]:
    """Return a command that runs this Python in a container named like this host; skip if that is impossible."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"no Docker engine answers here, or it has no {IMAGE}")
    shared = {sys.prefix, sys.base_prefix, str(PACKAGE), str(CHECKOUT)}
    mounts = [word for path in sorted(shared) for word in ("--volume", f"{path}:{path}:ro")]
    variables = ["--env", f"PYTHONPATH={PACKAGE}"]
    command = ["docker", "run", "--rm", "--interactive", "--hostname", hostname, *mounts, *variables]
    # The image's own entry point is for its server.
    command += ["--entrypoint", "/usr/bin/env", IMAGE]
    tried = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this Python does not run in a container of {IMAGE}: {tried.stderr.strip()[-200:]}")
    return command
