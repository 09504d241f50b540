"""Whoami: what the caller's session holds and lost, and where else its id is open. Never writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from claude_sessions_cli.database import Database
from claude_sessions_cli.model import JudgedSession, Session, Tombstone
from claude_sessions_cli.operations import agent, losses, rows, short_ids
from claude_sessions_cli.operations.caller import Caller, Standing
from claude_sessions_cli.transaction import Rows, Statement, Transaction


@dataclass(frozen=True, slots=True)
class Standings:
    """The caller's session, if it is registered, its loss, and the sessions of its process under other ids.

    `is_twin` says that the session is open in another process.
    """

    session: JudgedSession | None = None
    lost: Tombstone | None = None
    is_twin: bool = False
    others: Sequence[JudgedSession] = ()


def whoami(database: Database, caller: Caller) -> Standings:
    """Return what the database knows of the caller's session; of a caller without an id, that it answers."""
    if caller.identity.session_id is None:
        database.read(lambda tx: tx.commit())
        return Standings()
    found, *same = database.read(_look, caller)
    mine, others = rows.split(found, caller)
    if named := short_ids.session_named(caller, mine, same):
        return whoami(database, caller.as_session(named.session_id))
    earlier = [caller.judge(session) for session in agent.same_process(caller, same) if session.holds]
    is_twin = mine is not None and caller.standing(mine) is Standing.TWIN
    lost = None if mine is None or is_twin else _loss_of(mine, others)
    goes_on = not (mine and mine.holds) and not is_twin
    if lost is None and goes_on and (before := agent.earlier_session(caller, same)):
        # It goes over to this id with the next heartbeat or claim.
        lost = _loss_of(before, ())
    return Standings(caller.judge(mine) if mine else None, lost, is_twin, earlier)


def _loss_of(session: Session, others: Iterable[Session]) -> Tombstone | None:
    return losses.lost_term(session, others) or (session.tombstone if session.unsettled_loss else None)


def _look(tx: Transaction, caller: Caller) -> list[Rows]:
    return tx.commit(Statement("read_holders", **caller.key, forms=None), *agent.look(caller))
