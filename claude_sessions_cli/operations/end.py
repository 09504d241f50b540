"""End: what an agent's process leaves behind when it ends."""

from __future__ import annotations

from claude_sessions_cli.database import Database
from claude_sessions_cli.liveness import may_run
from claude_sessions_cli.model import Session
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.transaction import Statement, Transaction

# A conversation and, at most, an earlier one of its process that still holds its claim.
IDS = 2


def end(database: Database, caller: Caller) -> Session | None:
    """End the caller's session if its row records the caller's process; return it, or None if nothing changed.

    A row that has moved to another process stays, and so does one under which a command still runs. A loss stays
    unreported: no command has shown it. Raises HeldByAnother if the id is open in another process.
    """
    ended = None
    for _ in range(IDS):
        last = agent.settled(database, caller, lambda acting: database.write(acting.actor, _end, acting)).result
        ended = last or ended
        if last is None or last.session_id == caller.session_id:
            break
    return ended


def _end(tx: Transaction, caller: Caller) -> Session | None:
    found, *same = tx.send(Statement("lock_session", **caller.key), *agent.look(caller))
    mine, _ = rows.split(found, caller)
    agent.require_current(caller, mine, same, writes=False)
    if mine is None or mine.status == "released" or may_run(mine, caller.identity.host):
        return None
    agent.require_own(caller, mine)
    if mine.recorded_process is None or not mine.recorded_process.is_same(caller.process):
        return None
    agent.require_term(mine, ())
    [cleared] = tx.commit(rows.clear(caller, mine, "released", release_reason="the agent ended"))
    return rows.written(cleared)
