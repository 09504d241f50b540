"""Heartbeats for all sessions of this host in one run, for cron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import Liveness, ProcessRecord, Session
from claude_sessions_cli.operations import reap
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.reap import PAGE, ReapVerdict
from claude_sessions_cli.operations.refusals import Change, Changed, Refusal, change_rows, refusals_of
from claude_sessions_cli.transaction import Statement, Transaction


@dataclass(frozen=True, slots=True)
class HereResult:
    """The number of sessions renewed, those released because their process is gone, and those that were refused."""

    renewed: int
    released: list[ReapVerdict]
    refused: list[Refusal]


def heartbeat_here(database: Database, caller: Caller) -> HereResult:
    """Renew the sessions of this host whose process is alive, and release those whose process is gone.

    A message finds them, and one more changes each page of live or dead ones; the latter are released as `reap` does. A
    session of unknown liveness is left alone. A heartbeat keeps the status, a loss and a park: a stale session does not
    end, but only its own heartbeat or claim opens it and restores its item.
    """
    host = caller.identity.host
    if not (host.boot_id and host.pid_ns):
        return HereResult(0, [], [])
    here = {"boot_id": host.boot_id, "pid_ns": host.pid_ns, "now": caller.now}
    # No transaction is open while the processes are looked at: each write compares what was seen.
    seen = [caller.judge(session) for session in database.read(_list, here)]
    alive = [judged.session for judged in seen if judged.liveness is Liveness.ALIVE]
    processes = [_as_row(session, session.process) for session in alive if session.process]
    renewed = Changed()
    for start in range(0, len(processes), PAGE):
        change = Change("renew_heartbeats", "seen", processes[start : start + PAGE], here)
        page = change_rows(database.renew, caller, change)
        renewed = Changed({**renewed.written, **page.written}, {**renewed.refused, **page.refused})
    dead = [reap.gone(caller, judged) for judged in seen if judged.liveness is Liveness.DEAD]
    released, refused = reap.carry_out(database, caller, dead)
    return HereResult(len(renewed.written), released, [*refusals_of(renewed.refused, seen), *refused])


def _list(tx: Transaction, here: dict[str, Any]) -> list[Session]:
    [found] = tx.commit(Statement("list_sessions_here", **here))
    return found.sessions


def _as_row(session: Session, process: ProcessRecord) -> dict[str, Any]:
    return {"id": session.id, "pid": process.pid, "start": process.start}
