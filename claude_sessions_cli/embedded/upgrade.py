"""The cluster of an older Postgres, moved to the newest one that is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli.embedded import cluster, server
from claude_sessions_cli.embedded.cluster import NAME, Paths
from claude_sessions_cli.errors import Unreachable

# pg_upgrade needs a database "postgres" to connect to, under no number that a database of the old cluster has.
_RENUMBERED = (
    "ALTER DATABASE postgres RENAME TO unused",
    "CREATE DATABASE postgres OID 4000000000 STRATEGY file_copy",
    "DROP DATABASE unused",
)


@dataclass(frozen=True)
class Upgrade:
    """The major versions before and after, and where the old cluster is kept; None if there was nothing to do."""

    before: str
    after: str
    kept: Path | None


def upgrade(announce: Callable[[str], None]) -> Upgrade:
    """Copy the cluster to the newest Postgres, and start it. Raises Unreachable, and leaves the old one in use."""
    state = server.status()
    if state.version is None:
        raise Unreachable(f"there is no cluster in {state.data_dir} to upgrade", "create one: claude-sessions db start")
    # Recovers a server that was killed, and refuses a cluster whose programs are missing.
    server.ensure(announce)
    before, after = state.version, cluster.newest(cluster.installed())
    if before == after:
        return Upgrade(before, after, None)
    with server.trusted() as paths:
        kept = paths.home / f"postgres-{before}"
        if kept.exists():
            raise Unreachable(f"{kept} is in the way", "move it away: it is the cluster before an earlier upgrade")
        announce(f"upgrading the private Postgres server from {before} to {after}")
        with server.stopped(paths) as (lock, _):
            _copy(paths, kept, before, after, lock)
    server.ensure(announce)
    return Upgrade(before, after, kept)


def _copy(paths: Paths, kept: Path, before: str, after: str, lock: int) -> None:
    account, installs = cluster.server_account(paths.cluster), cluster.installed()
    old, new = (cluster.within_reach(paths.home, installs[version], account) for version in (before, after))
    # Short, for the socket; and both servers run as the same account here, which alone may connect.
    work = Path(tempfile.mkdtemp(prefix="claude-sessions-", dir="/tmp"))
    try:
        with cluster.initialized(paths, new, account, lock, _RENUMBERED) as made:
            _prepare(work, account, {"old": paths.cluster, "new": made})
            rules = f"-c hba_file={work}/pg_hba.conf -c ident_file={work}/pg_ident.conf"
            command = [f"{new}/bin/pg_upgrade", "-U", NAME, "-s", str(work), "-o", rules, "-O", rules]
            directories = ["-b", f"{old}/bin", "-B", f"{new}/bin", "-d", "old", "-D", "new"]
            cluster.run([*command, *directories], account, lock, cwd=str(work))
            cluster.execute(made, new, account, lock, ["DROP DATABASE postgres"])
            paths.cluster.rename(kept)
            made.rename(paths.cluster)
            cluster.sync(paths.home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prepare(work: Path, account: pwd.struct_passwd, links: dict[str, Path]) -> None:
    """Fill the working directory of pg_upgrade, whose shell would expand a path of the user's."""
    for name, target in links.items():
        (work / name).symlink_to(target)
    for name, text in cluster.access_rules(account.pw_name).items():
        (work / name).write_text(text)
        (work / name).chmod(0o644)
    if os.geteuid() == 0:
        os.chown(work, account.pw_uid, account.pw_gid)
