"""`run SD -- true` beside flock and etcdctl lock, a claim and a release, and a bare connection, as whole processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from poll import until

from bench.programs import BARE, PROGRAM, Program, clean_home, take_turns
from bench.rows import apply_schema
from bench.sitting import Sitting

NEEDS = ("flock", "etcdctl lock")
DATABASE, ITEM = "cs_bench_run", "SD-BENCH-001"
SESSION = ["--session", "bench"]


def measure(sitting: Sitting) -> None:
    """Print a line for each."""
    with sitting.databases(DATABASE) as create, ExitStack() as stack:
        dsn = create(DATABASE)
        apply_schema(dsn)
        home = stack.enter_context(tempfile.TemporaryDirectory())
        environment = stack.enter_context(clean_home(home, CLAUDE_SESSIONS_DSN=dsn))
        bare = Program([sys.executable, "-c", BARE])
        claim, release = Program([PROGRAM, "claim", ITEM, *SESSION]), Program([PROGRAM, "release", *SESSION])
        run = Program([PROGRAM, "run", ITEM, "--", "true"])
        programs = {"true": Program(["true"]), "bare connection, SELECT 1": bare, "claim": claim, "release": release}
        programs["run SD -- true"] = run
        if sitting.has("flock"):
            programs["flock FILE true"] = Program(["flock", f"{home}/lock", "true"])
        if sitting.has("etcdctl lock"):
            endpoint = stack.enter_context(etcd())
            programs["etcdctl lock NAME true"] = Program(["etcdctl", "--endpoints", endpoint, "lock", ITEM, "true"])
        take_turns(list(programs.values()), environment, sitting.rounds)
    rows = [[name, it.median, it.median / bare.median, run.median / it.median] for name, it in programs.items()]
    columns = ["", "ms", "over a bare connection", "run over it"]
    sitting.table(f"whole processes, medians of {sitting.rounds} in turn", columns, rows)


@contextmanager
def etcd() -> Iterator[str]:
    """Start an etcd of one member, which waits for the disk as Postgres does; yield its endpoint."""
    client, peer = (f"http://127.0.0.1:{port}" for port in _free_ports())
    with tempfile.TemporaryDirectory() as directory:
        urls = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        member = ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        started = subprocess.Popen(
            ["etcd", "--data-dir", directory, *urls, *member], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            health = ["etcdctl", "--endpoints", client, "endpoint", "health"]
            until(lambda: subprocess.run(health, capture_output=True).returncode == 0, "etcd answers")
            yield client
        finally:
            started.terminate()
            started.wait()


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        return [int(one.getsockname()[1]) for one in sockets]
