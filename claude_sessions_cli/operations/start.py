"""Start: put the row of an agent's conversation in order, and return what its model should know."""

from __future__ import annotations

from dataclasses import dataclass

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError
from claude_sessions_cli.liveness import may_run
from claude_sessions_cli.model import JudgedSession, Session
from claude_sessions_cli.operations import agent, losses
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.list import Filters, list_sessions
from claude_sessions_cli.operations.whoami import Standings, whoami
from claude_sessions_cli.transaction import Statement, Transaction

# At most this many sessions of a codebase are read.
NEIGHBOURS = 50


@dataclass(frozen=True, slots=True)
class Started:
    """The session after its start, and the holders of other items in its codebase.

    `acting` is the session that the caller acts as, None if it was refused for the reason `refusal`.
    """

    standings: Standings
    acting: JudgedSession | None
    neighbours: list[JudgedSession]
    refusal: SessionsError | None = None


def start(database: Database, caller: Caller) -> Started:
    """Register the caller's conversation; it goes on with the claim of an earlier one of the same process.

    A conversation that continued under another id is opened again. Earlier ids that hold nothing end.
    """
    found = database.read(_look, caller)
    if any(_goes_on_elsewhere(caller, session) for session in found):
        database.write(caller.actor, _reopen, caller)
    acting = refusal = None
    try:
        acting = heartbeat(database, caller, register=True).session
    except (HeldByAnother, NotHeld) as error:
        refusal = error
    if acting and any(_is_over(caller, session) for session in found):
        database.write(caller.actor, _end_earlier_ids, caller)
    return Started(whoami(database, caller), acting, _neighbours(database, caller), refusal)


def _look(tx: Transaction, caller: Caller) -> list[Session]:
    answers = tx.commit(Statement("read_session", **caller.key), *agent.look(caller))
    return [session for rows in answers for session in rows.sessions]


def _goes_on_elsewhere(caller: Caller, session: Session) -> bool:
    mine = session.session_id == caller.session_id
    return mine and session.continued_as is not None and _is_same_process(caller, session)


def _reopen(tx: Transaction, caller: Caller) -> None:
    [found] = tx.send(Statement("lock_session", **caller.key))
    if found.session and _goes_on_elsewhere(caller, found.session):
        tx.commit(Statement("revive_session", **caller.columns()))


def _end_earlier_ids(tx: Transaction, caller: Caller) -> None:
    names = [session.session_id for rows in tx.send(*agent.look(caller)) for session in rows.sessions]
    [locked] = tx.send(Statement("lock_sessions", session_ids=names, now=caller.now))
    tx.commit(*(agent.end_earlier(caller, session) for session in locked.sessions if _is_over(caller, session)))


def _is_over(caller: Caller, session: Session) -> bool:
    """Whether an earlier id of the caller's process has nothing that would go on: no claim, no loss, no command."""
    if session.session_id == caller.session_id or session.status == "released":
        return False
    if session.id_from not in agent.ROTATING or not _is_same_process(caller, session):
        return False
    has_loss = session.unsettled_loss or losses.lost_term(session, ()) is not None
    return not (session.holds or has_loss or may_run(session, caller.identity.host))


def _is_same_process(caller: Caller, session: Session) -> bool:
    return session.recorded_process is not None and session.recorded_process.is_same(caller.process)


def _neighbours(database: Database, caller: Caller) -> list[JudgedSession]:
    codebase = caller.identity.codebase
    if codebase is None:
        return []
    found = list_sessions(database, caller, Filters(codebase=codebase, limit=NEIGHBOURS)).sessions
    return [
        seen
        for seen in found
        if seen.session.holds
        and not seen.lapsed
        and seen.session.session_id != caller.session_id
        and not (seen.session.process and seen.session.process.is_same(caller.process))
    ]
