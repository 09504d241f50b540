"""Report this process, then judge rows: run inside a container or as another user, and asked from outside.

Prints its own record, then, for each row that it reads as JSON, the liveness of that row's process.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from claude_sessions_cli import process
from claude_sessions_cli.liveness import liveness, this_host
from claude_sessions_cli.model import METADATA_KEY, Session

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def row_of(pid: int, **changes: Any) -> dict[str, Any]:
    """Return what a session's row records of the process `pid`, with `changes` in place of some parts."""
    host = this_host()
    found = process.read(pid)
    row = {"pid": pid, "hostname": host.hostname, "boot_id": host.boot_id, "pid_ns": host.pid_ns, "start": found.start}
    return {**row, **changes}


def session_of(row: dict[str, Any]) -> Session:
    """Return the session that has such a row."""
    record = {name: row[name] for name in ("pid", "start", "boot_id", "pid_ns")}
    return session(pid=row["pid"], hostname=row["hostname"], metadata={METADATA_KEY: {"process": record}})


def session(pid: int | None, hostname: str | None, metadata: Any) -> Session:
    """Return a session that holds an item."""
    return Session(
        id=UUID(int=1),
        session_id="holder",
        sd_id="SD-1",
        track=None,
        tty=None,
        pid=pid,
        hostname=hostname,
        codebase=None,
        claimed_at=NOON,
        heartbeat_at=NOON,
        status="active",
        metadata=metadata,
        created_at=NOON,
        updated_at=NOON,
        server_now=NOON,
    )


def main() -> None:
    """Answer until the input ends; as another user if the first argument is a uid."""
    if len(sys.argv) > 1:
        os.setgroups([])
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))
    lineage = process.lineage(os.getpid())
    own = row_of(os.getpid()) if lineage else {}
    print(json.dumps({**own, "ancestors": [parent.pid for parent in lineage[1:]]}), flush=True)
    for line in sys.stdin:
        print(liveness(session_of(json.loads(line)), this_host()).value, flush=True)


if __name__ == "__main__":
    main()
