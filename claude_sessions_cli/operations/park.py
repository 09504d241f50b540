"""Park and unpark: declare silence for a while, and take it back."""

from __future__ import annotations

from datetime import timedelta

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.model import PARK_LIMIT_S, JudgedSession
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.times import utc
from claude_sessions_cli.transaction import Statement, Transaction


def park(database: Database, caller: Caller, seconds: float) -> JudgedSession:
    """Declare silence for `seconds` from now, 45 minutes at most. Raises NotHeld if the caller holds nothing."""
    if seconds > PARK_LIMIT_S:
        raise UsageError(
            f"a session parks for {PARK_LIMIT_S // 60}m at most",
            f"park again before that is over: claude-sessions park {PARK_LIMIT_S // 60}m",
        )
    return _settled(database, caller, seconds)


def unpark(database: Database, caller: Caller) -> JudgedSession:
    """Take the declared silence back. Raises NotHeld if the caller holds nothing."""
    return _settled(database, caller, None)


def _settled(database: Database, caller: Caller, seconds: float | None) -> JudgedSession:
    return agent.settled(database, caller, lambda acting: database.renew(acting.actor, _park, acting, seconds)).result


def _park(tx: Transaction, caller: Caller, seconds: float | None) -> JudgedSession:
    found, holders, *same = tx.send(
        Statement("lock_session", **caller.key),
        Statement("read_holders", **caller.key, forms=None),
        *agent.look(caller),
    )
    agent.require_current(caller, found.session, same)
    agent.require_here(caller, found.session)
    if found.session:
        agent.require_term(found.session, rows.split(holders, caller)[1])
    session = rows.require_holder(found.session, "this session holds nothing, so there is nothing to park")
    until = None if seconds is None else utc(session.server_now + timedelta(seconds=seconds))
    # Parking is also a heartbeat.
    [parked] = tx.commit(Statement("revive_session", **caller.columns(caller.standing(session), parked_until=until)))
    return caller.judge(rows.written(parked))
