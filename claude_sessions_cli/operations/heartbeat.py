"""Heartbeat: prove that a session lives, and give back what it lost to silence alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from claude_sessions_cli.connection import Row
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import NotHeld
from claude_sessions_cli.liveness import liveness_of
from claude_sessions_cli.model import (
    SILENT_TO_THE_END,
    JudgedSession,
    Liveness,
    ProcessRecord,
    Session,
    Tombstone,
    Witness,
)
from claude_sessions_cli.names import is_same
from claude_sessions_cli.operations import agent, losses, rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import add_successor, lost_to
from claude_sessions_cli.transaction import Rows, Statement, Transaction

REGISTER = "register it: claude-sessions heartbeat --register"


class HeartbeatResult(NamedTuple):
    """The outcome: `renewed`, `registered`, `restored`, `moved`, `continued`, `fresh` or `lost`.

    `source` is the session of the same process whose claim this one continues. `new_fence` says that another program
    has given the session's item a new fence.
    """

    outcome: str
    session: JudgedSession
    tombstone: Tombstone | None = None
    source: str | None = None
    new_fence: bool = False


def heartbeat(
    database: Database,
    caller: Caller,
    *,
    register: bool = False,
    if_older_than: float | None = None,
    witness: Witness | None = None,
) -> HeartbeatResult:
    """Prove that the caller lives, without changing what it holds.

    With `register`, a session that is unknown or has ended is opened as idle. A session that lost its item to silence
    alone gets it back under a new fence, unless another one has taken it. A heartbeat younger than `if_older_than`
    seconds is left alone, unless there is a row to correct. `witness` is what this host has seen of the claim.

    Raises NotHeld if the session is not registered, HeldByAnother if its id is open in another process. A loss that no
    claim or release has reported, or after which nothing was claimed, is the outcome `lost` and not an error, because
    the heartbeat is written.
    """
    settled = agent.settled(database, caller, lambda acting: _beat(database, acting, register, if_older_than, witness))
    if settled.outcome and settled.result.outcome in ("renewed", "fresh"):
        return settled.result._replace(outcome=settled.outcome, source=settled.source)
    return settled.result


def _beat(
    database: Database, caller: Caller, register: bool, if_older_than: float | None, witness: Witness | None
) -> HeartbeatResult:
    answers, has_history, has_terminals = database.renew(caller.actor, _renew, caller, if_older_than)
    renewed, found, *same = answers
    mine, others = rows.split(found, caller)
    agent.require_current(caller, mine, same, registers=register)
    if mine is None:
        if not register:
            raise NotHeld(
                f"session {caller.session_id} is not registered",
                REGISTER,
                lost_item=witness.sd_id if witness else None,
            )
        _refuse_gone(caller)
        return database.renew(caller.actor, _register, caller, witness, has_terminals)
    agent.require_here(caller, mine)
    agent.require_term(mine, others)
    if losses.forgotten_term(mine, witness) and (lost := losses.note_loss(database, caller, witness)):
        return HeartbeatResult("lost", caller.judge(rows.require(database.read(rows.read, caller))), lost)
    is_fresh = if_older_than is not None and _is_fresh(mine, if_older_than)
    if _restorable_item(mine) or not (renewed or is_fresh):
        return _settle(database, caller, register, mine, has_history)
    new_fence = mine.term is not None and mine.sd_id is not None and mine.term.fence != mine.fence
    if new_fence:
        mine = database.renew(caller.actor, _correct_term, caller)
    return _answer(caller, mine, "renewed" if renewed else "fresh", new_fence=new_fence)


def _renew(tx: Transaction, caller: Caller, if_older_than: float | None) -> tuple[list[Rows], bool, bool]:
    """Return the session, if this could renew it, the rows of read_holders and of `agent.look`.

    Beside them, whether the table has a history, and columns for terminals.
    """
    record = caller.identity.known_process
    answers = tx.commit(
        Statement(
            "renew_heartbeat",
            **caller.key,
            pid=record["pid"] if record else None,
            process=json.dumps(record) if record else None,
            older_than_s=if_older_than,
        ),
        Statement("read_holders", **caller.key, forms=None),
        *agent.look(caller),
    )
    return answers, tx.has_history, tx.has_terminals


def _correct_term(tx: Transaction, caller: Caller) -> Session:
    """Follow another program that gave the session's own item a new fence."""
    [found] = tx.send(Statement("lock_session", **caller.key))
    session = rows.require(found.session)
    agent.require_own(caller, session)
    if session.status == "released":
        # It ended after its heartbeat, which begins again.
        raise agent.UnsettledError(lambda *_: None)
    agent.require_term(session, ())
    term = {"sd_id": session.sd_id, "fence": session.fence} if session.sd_id and session.fence else None
    [corrected] = tx.commit(rows.merge(caller, term=term))
    return rows.written(corrected)


def _register(tx: Transaction, caller: Caller, witness: Witness | None, has_terminals: bool) -> HeartbeatResult:
    insert = rows.insert(caller, has_terminals=has_terminals)
    look = Statement("lock_session", **caller.key)
    _, found = tx.send(insert, look) if witness else tx.commit(insert, look)
    session = found.session
    if session is None:
        raise rows.not_registered(caller)
    agent.require_own(caller, session)
    if witness is None:
        return HeartbeatResult("registered", caller.judge(session))
    lost = losses.loss_seen_by(witness, session.server_now)
    [noted] = tx.commit(rows.merge(caller, tombstone=lost.as_metadata()))
    return HeartbeatResult("lost", caller.judge(rows.written(noted)), lost)


def _settle(database: Database, caller: Caller, register: bool, seen: Session, has_history: bool) -> HeartbeatResult:
    """Restore the item, report a loss, or open the session again."""
    # A renewal that waited for the row keeps it locked even if it then matches nothing. This path locks the work item
    # first, so it needs a transaction of its own.
    item = _restorable_item(seen)
    while True:
        settled = database.write(caller.actor, _try_settling, caller, register, item, has_history)
        if isinstance(settled, HeartbeatResult):
            return settled
        item = settled


def _try_settling(
    tx: Transaction, caller: Caller, register: bool, item: str | None, has_history: bool
) -> HeartbeatResult | str | None:
    """Return the result, or the item to lock if another than `item` has become restorable since."""
    # The work item is locked before any row, as in claim; the other order would deadlock.
    lock = [rows.lock_item(item)] if item else []
    history = [Statement("read_fence_floor", forms=tx.forms(item))] if item and has_history else []
    answers = tx.send(*lock, rows.lock_claim(tx, caller, item), *history)
    mine, others = rows.split(answers[len(lock)], caller)
    if mine is None:
        raise NotHeld(f"session {caller.session_id} was deleted during its heartbeat", REGISTER)
    agent.require_here(caller, mine)
    agent.require_term(mine, others)
    if mine.status == "released":
        if not register:
            raise NotHeld(f"session {mine.session_id} has ended", "open it again: claude-sessions heartbeat --register")
        _refuse_gone(caller)
    restorable = _restorable_item(mine)
    if restorable and not is_same(restorable, item):
        return restorable
    if restorable:
        latest = answers[-1].first if history else None
        return _restore(tx, caller, mine, others, restorable, latest)
    return _revive(tx, caller, mine, mine.tombstone)


def _is_fresh(session: Session, seconds: float) -> bool:
    """Whether the last heartbeat is younger than `seconds`, and a plain one would do; one in the future is not."""
    age = (session.server_now - session.last_sign).total_seconds()
    in_order = session.status not in ("stale", "released")
    return in_order and session.heartbeat_at is not None and 0 <= age < seconds


def _restorable_item(session: Session) -> str | None:
    """Return the item that this session gets back if it is free: lost to silence, or still on its stale row."""
    if session.status == "released":
        return None
    if session.sd_id is not None:
        return session.sd_id if session.status == "stale" else None
    return session.tombstone.sd_id if session.tombstone and session.tombstone.restorable else None


def _restore(
    tx: Transaction, caller: Caller, mine: Session, others: list[Session], item: str, latest: Row | None
) -> HeartbeatResult:
    holder = next((other for other in others if other.holds and is_same(other.sd_id, item)), None)
    if mine.sd_id is not None:
        return _restore_stale(tx, caller, mine, others, item, holder)
    lost = add_successor(mine.tombstone, latest) if mine.tombstone and holder is None else mine.tombstone
    if lost and holder:
        lost = lost._replace(by=holder.session_id, new_fence=holder.fence)
    if lost is None or not lost.restorable:
        return _revive(tx, caller, mine, lost)
    taken = rows.take(tx, caller, mine, others, item, mine.track or lost.track, tombstone=None)
    return HeartbeatResult("restored", caller.judge(taken), lost)


def _restore_stale(
    tx: Transaction, caller: Caller, mine: Session, others: list[Session], item: str, holder: Session | None
) -> HeartbeatResult:
    """Renew a claim that is still on a stale row; an earlier loss beside it stays."""
    if holder:
        lost = lost_to(mine, holder)
        return _revive(tx, caller, mine, lost, [rows.clear(caller, mine, "idle", tombstone=lost.as_metadata())])
    taken = rows.take(tx, caller, mine, others, item, mine.track)
    return _answer(caller, taken, "renewed")


def _revive(
    tx: Transaction, caller: Caller, mine: Session, lost: Tombstone | None, before: Sequence[Statement] = ()
) -> HeartbeatResult:
    own: dict[str, Any] = {}
    if mine.status == "released":
        own = {"term": None, "moved": None}
        if lost and lost.restorable:
            # Sessions that claimed the item after this one ended did not update its tombstone.
            lost = lost._replace(reason=SILENT_TO_THE_END)
    if lost:
        own["tombstone"] = lost.as_metadata()
    *_, row = tx.commit(*before, Statement("revive_session", **caller.columns(caller.standing(mine), **own)))
    return _answer(caller, rows.written(row), "registered" if mine.status == "released" else "renewed")


def _answer(caller: Caller, session: Session, outcome: str, *, new_fence: bool = False) -> HeartbeatResult:
    """Return the result for a session that may have lost a claim."""
    if session.unsettled_loss:
        return HeartbeatResult("lost", caller.judge(session), session.tombstone)
    return HeartbeatResult(outcome, caller.judge(session), new_fence=new_fence)


def _refuse_gone(caller: Caller) -> None:
    """Raise NotHeld if the caller's shell ended before this heartbeat arrived: its session is not opened."""
    identity = caller.identity
    record = ProcessRecord(**identity.process_record) if identity.process_record else None
    if record and liveness_of(record, identity.host.hostname, identity.host) is Liveness.DEAD:
        raise NotHeld(
            f"the process of session {caller.session_id} is gone, so it is not opened",
            "run it in a terminal that lives",
        )
