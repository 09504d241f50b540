"""Faults of `run`, its guardian and its command: what is done under a rival's claim, and what is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import make_caller
from poll import until
from run_bench import PROGRAM, Bench, elsewhere, is_alive, only_linux, read_pid, try_claim
from wire import Message, Wire

from claude_sessions_cli import process
from claude_sessions_cli.operations.caller import Caller

pytestmark = [pytest.mark.faults, only_linux]
STALE_S = 6
SETTINGS = {"CLAUDE_SESSIONS_STALE_AFTER": str(STALE_S), "CLAUDE_SESSIONS_HEARTBEAT_EVERY": "0.5"}
# A worker below a shell, which notes each piece of its work with the time.
WORKER = """
import os, sys, time
with open(sys.argv[1], "a") as ticks:
    open(sys.argv[2], "w").write(f"{os.getpid()}\\n")
    while True:
        ticks.write(f"{time.monotonic()}\\n")
        ticks.flush()
        time.sleep(0.01)
"""
# After which message of `run` the fault comes; after the last, the command starts.
MOMENTS = {"before the claim": 1, "claimed": 2, "guarded": 3, "entered": 4, "running": 0}
DEEDS = ["kill", "stop", "terminate", "hang up", "out of memory"]
VICTIMS = {"wrapper": list(MOMENTS), "guardian": ["guarded", "entered", "running"], "command": ["running"]}
CASES = [(deed, victim, moment) for deed in DEEDS for victim, moments in VICTIMS.items() for moment in moments]
# One host cannot know these: `run` says so in its documents.
STOPPED = "a stopped wrapper cannot stop its command"
REASONS = {("stop", "wrapper", "running"): STOPPED}


@dataclass
class Run:
    """One `run`, held after a message, and the rival for its item."""

    bench: Bench
    wire: Wire
    moment: str
    started: subprocess.Popen[str] = field(init=False)
    reached: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)
    taken_at: float | None = None

    def __post_init__(self) -> None:
        self.ticks, self.ready = self.bench.directory / "ticks", self.bench.directory / "ready"
        self.wire.observe = self._hold
        worker = f"{sys.executable} -c '{WORKER}' {self.ticks} {self.ready}"
        env = {**SETTINGS, "CLAUDE_SESSIONS_DSN": self.wire.dsn}
        self.started = self.bench.start("SD-1", "--", "sh", "-c", f"{worker}; true", env=env)
        if MOMENTS[self.moment]:
            until(self.reached.is_set, f"run is {self.moment}")
        else:
            read_pid(self.ready)

    def _hold(self, message: Message) -> None:
        if message.number == MOMENTS[self.moment]:
            self.reached.set()
            self.goes_on.wait(60)

    def pid_of(self, victim: str) -> int:
        """Return the wrapper, the guardian or the command's worker."""
        return {"wrapper": self.started.pid, "guardian": self.guardian, "command": self._worker}[victim]

    @property
    def _worker(self) -> int:
        return read_pid(self.ready) if self.ready.exists() else 0

    @property
    def guardian(self) -> int:
        """The pid of the guardian; 0 before it is started."""
        found = [int(entry.name) for entry in process.PROC.glob("[0-9]*") if self._is_guardian(int(entry.name))]
        return found[0] if found else 0

    def _is_guardian(self, pid: int) -> bool:
        with suppress(ProcessLookupError, PermissionError):
            found = process.read(pid)
            return found.ppid == self.started.pid and any(word.endswith("guardian.sh") for word in found.argv)
        return False

    def contest(self, rivals: list[Caller], seconds: float) -> None:
        """Try to take the item for so long, or until the run ended and it was taken."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.taken_at is None:
            if any(try_claim(self.bench.table, rival) for rival in rivals):
                self.taken_at = time.monotonic()
            time.sleep(0.02)

    def work_under_rival(self) -> int:
        """Return how many pieces of work were done after a rival had the item."""
        lines = self.ticks.read_text().split() if self.ticks.exists() else []
        return 0 if self.taken_at is None else sum(float(line) > self.taken_at for line in lines)


def do(deed: str, pid: int) -> None:
    """Let a fault happen to a process."""
    if deed == "out of memory":
        # It gets no more memory from now on.
        resource.prlimit(pid, resource.RLIMIT_AS, (1, 1))
        resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))
        return
    numbers = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM, "hang up": signal.SIGHUP}
    os.kill(pid, numbers[deed])


@pytest.fixture(scope="module")
def tally() -> Iterator[list[str]]:
    """Return the lines of the table that is printed at the end."""
    lines: list[str] = []
    yield lines
    print("", f"{'fault':15}{'of':10}{'when':18}{'rival':>7}{'work':>6}{'left':>6}", *lines, sep="\n")


@pytest.mark.parametrize(("deed", "victim", "moment"), CASES)
def test_no_work_under_rivals_claim(bench: Bench, tally: list[str], deed: str, victim: str, moment: str) -> None:
    with Wire(bench.table.dsn) as wire:
        run = Run(bench, wire, moment)
        guardian = run.guardian
        victim_pid = run.pid_of(victim)
        assert victim_pid
        do(deed, victim_pid)
        run.goes_on.set()
        rivals = [make_caller("rival", stale_after=STALE_S, heartbeat_every=1)]
        if deed == "stop":
            rivals.append(elsewhere("rival"))
        run.contest(rivals, 2 * STALE_S if deed == "stop" else STALE_S)
        if deed == "stop":
            with suppress(ProcessLookupError):
                os.kill(victim_pid, signal.SIGCONT)
        if run.started.poll() is None:
            # It goes on as before, or has to notice its loss.
            if run.taken_at is None:
                run.started.terminate()
            run.started.wait(60)
        run.contest(rivals, 60)
        until(lambda: not bench.processes() and (not guardian or not is_alive(guardian)), "all processes end")
        work = run.work_under_rival()
        tally.append(f"{deed:15}{victim:10}{moment:18}{'yes' if run.taken_at else 'no':>7}{work:6}{0:6}")
        assert run.taken_at, "nobody gets the item"
        if (deed, victim, moment) in REASONS:
            return
        assert work == 0


def test_full_disk_stops_no_run(bench: Bench, tally: list[str], tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with suppress(OSError):
            (place / "filler").write_bytes(b"x" * 65536)
        ready = bench.file()
        everywhere = dict.fromkeys(
            ("TMPDIR", "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), str(place)
        )
        command = ["sh", "-c", f"sh -c 'echo $$ >{ready}; while :; do sleep 0.02; done'; true"]
        started = bench.start_any(*PROGRAM, "run", "SD-1", "--", *command, env={**SETTINGS, **everywhere}, cwd=place)
        pid = read_pid(ready)
        started.kill()

        def take() -> bool:
            taken = try_claim(bench.table, make_caller("rival"))
            assert not (taken and is_alive(pid))
            return taken

        until(take, "the item is free")
        tally.append(f"{'full disk':15}{'all':10}{'running':18}{'yes':>7}{0:6}{0:6}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
