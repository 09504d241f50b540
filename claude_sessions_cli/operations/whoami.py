"""Whoami: what the caller's session holds and lost, and where else its id is open. Never writes."""

from __future__ import annotations

from dataclasses import dataclass

from claude_sessions_cli.database import Database, Rows, Statement, Transaction
from claude_sessions_cli.model import JudgedSession, Tombstone
from claude_sessions_cli.operations import agent, rows
from claude_sessions_cli.operations.caller import Caller, Standing


@dataclass(frozen=True, slots=True)
class Standings:
    """The caller's session, if it is registered, its loss, and the sessions of its process under other ids.

    `is_twin` says that the session is open in another process.
    """

    session: JudgedSession | None
    lost: Tombstone | None
    is_twin: bool
    others: list[JudgedSession]


def whoami(database: Database, caller: Caller) -> Standings:
    """Return what the database knows of the caller's session."""
    found, *same = database.read(_look, caller)
    mine, others = rows.split(found, caller)
    earlier = [caller.judge(session) for looked in same for session in looked.sessions if session.holds]
    if mine is None:
        return Standings(None, None, False, earlier)
    is_twin = caller.standing(mine) is Standing.TWIN
    lost = agent.lost_term(mine, others) or (mine.tombstone if mine.unsettled_loss else None)
    return Standings(caller.judge(mine), None if is_twin else lost, is_twin, earlier)


def _look(tx: Transaction, caller: Caller) -> list[Rows]:
    return tx.commit(Statement("read_holders", **caller.key, sd_id=None), *agent.look(caller))
