"""An agent's hook that has nothing to do, beside `sh -c :`, as whole processes; and the tool calls of a client with it.

The tool calls lie between two requests of a real client to a scripted model.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from claude_code.real import CLIENT, Place

from bench.sitting import Sitting
from claude_sessions_cli.claude_code import stamp
from claude_sessions_cli.claude_code.entries import hook_command

NEEDS = ()
ROUNDS, CALLS = 400, 20
BAR = 3.0


def seconds(command: str, env: dict[str, str]) -> float:
    """Return how long a shell takes for a command."""
    began = time.perf_counter()
    _, status = os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", command], env), 0)
    assert status == 0
    return time.perf_counter() - began


def fresh_hook(directory: Path) -> tuple[float, float]:
    """Return the milliseconds of a bare shell and of a hook with a fresh stamp: the least of many, side by side."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "CLAUDE_SESSIONS_STATE_DIR": str(directory),
        "CLAUDE_PID": str(os.getpid()),
        "CLAUDE_CODE_SESSION_ID": "8a1c66ff-3c5e-4b57-9d0e-5a2f6c0e1b11",
    }
    path = stamp.path_of(env, os.getpid())
    path.parent.mkdir(parents=True)
    stamp.write(path, stamp.Stamp(at=stamp.now(), due=stamp.now() + 86400))
    command = hook_command("PostToolUse", ["/nonexistent"])
    times = [(seconds(":", env), seconds(command, env)) for _ in range(ROUNDS)]
    bare, hooked = (min(column) * 1000 for column in zip(*times, strict=True))
    return bare, hooked


def tool_call(directory: Path, hooks: bool) -> float:
    """Return the median milliseconds between two requests of a client that calls a tool between them."""
    directory.mkdir()
    place = Place(directory, f"host={directory}/none")
    try:
        place.settings.write_text(json.dumps({"permissions": {"allow": ["Bash"], "defaultMode": "default"}}))
        if hooks:
            place.install("--guard")
        place.ask("MOCK " + " ;; ".join(['Bash {"command": "true"}'] * CALLS) + " ;; say done")
        lines = map(json.loads, place.requests_path.read_text().splitlines())
        at: list[float] = [line["at"] for line in lines if line["step"].startswith(("Bash", "say done"))]
        return statistics.median(late - early for early, late in pairwise(at)) * 1000
    finally:
        place.close()


def measure(sitting: Sitting) -> None:
    """Print both, and compare with the bar."""
    with tempfile.TemporaryDirectory(prefix="claude-sessions-bench-") as name:
        directory = Path(name)
        bare, hooked = fresh_hook(directory)
        rows = [["sh -c :", bare, 1.0], ["hook with a fresh stamp", hooked, hooked / bare]]
        sitting.table(f"whole processes, the least of {ROUNDS}", ["", "ms", "ratio"], rows)
        sitting.bar("hook with a fresh stamp over sh -c :", hooked / bare, most=BAR)
        if CLIENT.exists() and shutil.which("tmux"):
            without, with_hooks = (tool_call(directory / str(hooks), hooks) for hooks in (False, True))
            rows = [["without hooks", without, 1.0], ["with ours", with_hooks, with_hooks / without]]
            sitting.table(f"a client's tool call, medians of {CALLS}", ["", "ms", "ratio"], rows)
        else:
            sitting.leave_out("a client's tool calls", "needs tmux, and the client that make test-claude installs")
