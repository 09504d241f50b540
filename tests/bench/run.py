"""Time `run SD -- true` beside `true`, a bare connection, and a claim and a release, as whole processes in turn.

Makes the database cs_bench_run on the server that the tests would use, and drops it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import PROGRAM, clean_environment, databases
from distance import BARE

from claude_sessions_cli import database
from claude_sessions_cli.operations import schema

DATABASE, ITEM = "cs_bench_run", "SD-BENCH-001"
SESSION = ["--session", "bench"]


def main() -> int:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how often each is run [20]")
    rounds = parser.parse_args().rounds
    lines: dict[str, list[list[str | Path]]] = {
        "true": [["true"]],
        "a bare connection with one statement": [[sys.executable, "-c", BARE]],
        "claim, then release": [[PROGRAM, "claim", ITEM, *SESSION], [PROGRAM, "release", *SESSION]],
        "run": [[PROGRAM, "run", ITEM, "--", "true"]],
    }
    if shutil.which("flock"):
        lines["flock"] = [["flock", "/tmp", "true"]]
    else:
        print("no flock: left out")
    with databases([DATABASE]) as create, tempfile.TemporaryDirectory() as home:
        dsn = create(DATABASE)
        with database.connect(dsn, "the bench") as connection:
            schema.apply(connection)
        environment = {**clean_environment(Path(home)), "CLAUDE_SESSIONS_DSN": dsn}
        seconds: dict[str, list[float]] = {name: [] for name in lines}
        for _ in range(rounds):
            for name, commands in lines.items():
                begin = time.perf_counter()
                for argv in commands:
                    subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
                seconds[name].append(time.perf_counter() - begin)
    bare = statistics.median(seconds["a bare connection with one statement"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:40}{median * 1000:8.1f} ms{median / bare:8.2f} of a bare connection")
    return 0


if __name__ == "__main__":
    sys.exit(main())
