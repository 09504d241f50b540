"""The programs that are timed beside the tool, or that time it: where each is, and its version."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli.embedded import cluster
from claude_sessions_cli.errors import Unreachable


@dataclass(frozen=True)
class Peer:
    """The programs that it needs, and how the first one prints its version."""

    programs: tuple[str, ...]
    argument: str = "--version"


PEERS = {
    "psql": Peer(("psql",)),
    "pgbench": Peer(("pgbench",)),
    "flock": Peer(("flock",)),
    "etcdctl lock": Peer(("etcdctl", "etcd"), "version"),
    "PgBouncer": Peer(("pgbouncer",)),
    "bash": Peer(("bash",)),
    "zsh": Peer(("zsh",)),
    "fish": Peer(("fish",)),
    "strace": Peer(("strace",)),
}


def find(program: str) -> str | None:
    """Return the path of a program; psql is also among the embedded programs."""
    found = shutil.which(program)
    if found is None and program == "psql":
        with contextlib.suppress(Unreachable):
            embedded = cluster.find_install(Path("/nonexistent")) / "bin/psql"
            return str(embedded) if embedded.exists() else None
    return found


def version_of(peer: Peer) -> str | None:
    """Return the version of a peer; None if one of its programs is missing or does not run."""
    paths = [find(program) for program in peer.programs]
    if paths[0] is None or None in paths:
        return None
    with contextlib.suppress(OSError):
        done = subprocess.run([paths[0], peer.argument], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if found := re.search(r"\d+(\.\d+)+", done.stdout):
            return found[0]
    return None
