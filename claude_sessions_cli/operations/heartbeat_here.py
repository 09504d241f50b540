"""Heartbeats for every session of this host at once, for cron."""

from __future__ import annotations

from dataclasses import dataclass

from claude_sessions_cli.database import Database, Transaction
from claude_sessions_cli.model import PROCESS_GONE, JudgedSession, Liveness
from claude_sessions_cli.operations import reap
from claude_sessions_cli.operations.caller import Caller


@dataclass(frozen=True, slots=True)
class HereResult:
    """The number of sessions renewed, and those released because their process is gone."""

    renewed: int
    released: list[JudgedSession]


def heartbeat_here(database: Database, caller: Caller) -> HereResult:
    """Renew the sessions of this host whose process is alive, and release those whose process is gone.

    Two statements for any number of live sessions, and one for each batch of dead ones, which are released as `reap`
    does. A session of unknown liveness is left alone. A heartbeat keeps the status, a loss and a park: a stale session
    does not end, but only its own heartbeat or claim opens it and restores its item.
    """
    renewed, gone = database.write(caller.actor, _renew, caller)
    verdicts = [reap.judge(caller, seen, None) for seen in gone]
    released = reap.carry_out(database, caller, [verdict for verdict in verdicts if verdict.reason == PROCESS_GONE])
    return HereResult(renewed, [verdict.session for verdict in released])


def _renew(tx: Transaction, caller: Caller) -> tuple[int, list[JudgedSession]]:
    host = caller.identity.host
    if not (host.boot_id and host.pid_ns):
        return 0, []
    here = {"boot_id": host.boot_id, "pid_ns": host.pid_ns, "now": caller.now}
    alive, gone = [], []
    for session in tx.sessions("list_sessions_here", **here):
        seen = caller.judge(session)
        if seen.liveness is Liveness.ALIVE and session.process:
            alive.append((session.id, session.process.pid, session.process.start))
        elif seen.liveness is Liveness.DEAD:
            gone.append(seen)
    if not alive:
        return 0, gone
    ids, pids, starts = (list(column) for column in zip(*alive, strict=True))
    return tx.run("renew_heartbeats", ids=ids, pids=pids, starts=starts, **here), gone
