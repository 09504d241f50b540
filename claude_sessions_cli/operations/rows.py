"""A session's row: found among those that a statement returned, cleared, and given a work item."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from claude_sessions_cli.errors import SEE_ALL, SEE_TRIGGERS, NotHeld, PermissionDenied, UsageError
from claude_sessions_cli.failures import trigger_refused
from claude_sessions_cli.model import MOVED, Session
from claude_sessions_cli.names import is_same, nfc
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.tombstones import claim_lost
from claude_sessions_cli.times import time_of
from claude_sessions_cli.transaction import Rows, Statement, Transaction

# Keys that the end of a term removes from the tool's metadata: a new term inherits no command.
ENDED: dict[str, Any] = {"parked_until": None, "term": None, "note": None, "run": None}


def read(tx: Transaction, caller: Caller) -> Session | None:
    """Return the caller's session, in a transaction of its own; None if it is not registered."""
    [found] = tx.commit(Statement("read_session", **caller.key))
    return found.session


def pick(matches: Sequence[Session], prefix: str) -> Session | None:
    """Return the session whose id is `prefix`, or the only one whose id begins with it; live ones before ended ones.

    Raises UsageError if several do.
    """
    exact = [session for session in matches if session.session_id == prefix]
    found = exact or [session for session in matches if session.status != "released"] or matches
    if len(found) > 1:
        candidates = ", ".join(session.session_id for session in found)
        raise UsageError(
            f"more than one session id begins with {prefix}: {candidates}", f"give more of the id; {SEE_ALL}"
        )
    return found[0] if found else None


def split(found: Rows, caller: Caller) -> tuple[Session | None, list[Session]]:
    """Return the caller's session among the rows, if it is there, and the others."""
    sessions = found.sessions
    mine = next((session for session in sessions if session.session_id == caller.session_id), None)
    return mine, [session for session in sessions if session is not mine]


def require_holder(session: Session | None, refusal: str) -> Session:
    """Return a session that holds an item. Raises NotHeld, with `refusal`, if it does not, and if it lost its claim."""
    if session and session.tombstone and session.unsettled_loss:
        raise claim_lost(session.tombstone, session)
    if session is None or not session.holds:
        raise NotHeld(refusal, "claim first: claude-sessions claim SD")
    refuse_stale(session)
    return session


def refuse_stale(session: Session) -> None:
    """Raise NotHeld for a claim on a stale row, which older writers leave: a heartbeat or a claim settles it."""
    if session.status == "stale":
        raise NotHeld(
            f"this session fell silent, and another one may have taken {session.sd_id}",
            "prove that it lives: claude-sessions heartbeat",
        )


def clear(caller: Caller, session: Session, status: str, **own: Any) -> Statement:
    """Return the statement that ends the term of a locked row and sets its status; `own` goes into its metadata."""
    return Statement(
        "clear_claim",
        session_id=session.session_id,
        status=status,
        own=as_json(**{**ENDED, **own}),
        now=caller.now,
    )


def merge(caller: Caller, **own: Any) -> Statement:
    """Return the statement that changes the tool's part of the metadata of the caller's locked row."""
    return Statement("merge_metadata", **caller.key, own=as_json(**own))


def report_loss(caller: Caller, mine: Session, **own: Any) -> Statement:
    """Return the statement that marks or removes a loss that was reported; the term that is over goes with it."""
    return merge(caller, **own, **({} if mine.holds else {"term": None}))


def as_json(**own: Any) -> str:
    """Return metadata as a parameter."""
    # Not as ASCII: a database in another encoding accepts the character, but not its escape.
    return json.dumps(own, ensure_ascii=False)


def lock_item(sd_id: str) -> Statement:
    """Return the statement that makes claims of an item, in whatever form, take turns."""
    return Statement("lock_work_item", sd_id=nfc(sd_id))


def lock_claim(tx: Transaction, caller: Caller, sd_id: str | None) -> Statement:
    """Return the statement that locks the caller's row and, with an item, the rows that a claim of it concerns."""
    if sd_id is None:
        return Statement("lock_session", **caller.key)
    return Statement("lock_claim", **caller.key, forms=tx.forms(sd_id))


def insert(caller: Caller, *, has_terminals: bool = False) -> Statement:
    """Return the statement that registers the caller's session, unless it exists."""
    if has_terminals:
        return Statement("insert_terminal_session", **caller.columns(), **caller.terminal)
    return Statement("insert_session", **caller.columns())


def register(tx: Transaction, caller: Caller, before: Sequence[Statement], *look: Statement) -> tuple[Rows, ...]:
    """Register the caller's session, unless it exists, between two groups of statements.

    Return the rows that were inserted, and those of `look`. It is one message, and two if the first one finds that the
    table has columns for the session's terminal.
    """
    inserted, *found = tx.send(*before, insert(caller), *look)[len(before) :]
    if tx.has_terminals and split(found[0], caller)[0] is None:
        inserted, *found = tx.send(insert(caller, has_terminals=True), *look)
    return inserted, *found


def require(session: Session | None) -> Session:
    """Return a session that was there a moment ago. Raises NotHeld if another program deleted it since."""
    if session is None:
        raise NotHeld("another program deleted this session", "claim again: claude-sessions claim SD")
    return session


def written(rows: Rows) -> Session:
    """Return the row of a statement that cannot miss, because this transaction has locked it."""
    if rows.session is None:
        raise trigger_refused()
    return rows.session


def take(
    tx: Transaction,
    caller: Caller,
    mine: Session,
    others: Sequence[Session],
    sd_id: str,
    track: str | None,
    evictions: Sequence[Statement] = (),
    *,
    moves: bool = False,
    **own: Any,
) -> Session:
    """Give the caller an item that has no holder after the `evictions`, and commit.

    Its row and `others`, those of `lock_claim`, are locked. A session that `moves` to this process gets a new fence.
    `own` goes into the tool's metadata.
    """
    *before, term = _begin_term(tx, caller, mine, others, sd_id, track, moves, own)
    # The holders evicted now, and earlier losers whose tombstone has no successor yet.
    losers = [
        other.session_id for other in others if is_same(other.sd_id, sd_id) or _lost_without_successor(other, sd_id)
    ]
    successor = (
        [Statement("name_successor", session_ids=losers, by=caller.session_id, now=caller.now)] if losers else []
    )
    answers = tx.commit(*evictions, *before, term, *successor)
    return written(answers[len(evictions) + len(before)])


def _lost_without_successor(session: Session, sd_id: str) -> bool:
    lost = session.tombstone
    return lost is not None and lost.by is None and is_same(lost.sd_id, sd_id)


def _begin_term(
    tx: Transaction,
    caller: Caller,
    mine: Session,
    others: Sequence[Session],
    sd_id: str,
    track: str | None,
    moves: bool,
    own: dict[str, Any],
) -> list[Statement]:
    """Return the statements that begin the caller's term, or refresh it; the last one returns its row."""
    stale_after = caller.settings.stale_after
    if mine.runner:
        # The command trusts the window under which it was entered.
        stale_after = mine.effective_stale_after(stale_after)
    own = {"stale_after": stale_after, "parked_until": None, "release_reason": None, **own}
    columns = caller.columns(caller.standing(mine), **own)
    fences = [row.fence for row in (mine, *others) if is_same(row.sd_id, sd_id)]
    tombstones = [row.tombstone for row in (mine, *others) if row.tombstone and is_same(row.tombstone.sd_id, sd_id)]
    fences += [fence for lost in tombstones for fence in (lost.fence, lost.new_fence)]
    # If other programs gave the item a second holder, the later of the two fences counts.
    is_latest = mine.fence is not None and mine.fence == _latest(fences)
    had_it = is_same(mine.sd_id, sd_id)
    if mine.holds and had_it and is_latest and not moves:
        return [Statement("renew_claim", **columns, track=track)]
    before = []
    if mine.sd_id is not None:
        # Other programs' triggers must see the old item go before the new one comes.
        reason = MOVED if moves else "new fence" if had_it else "switched"
        before.append(clear(caller, mine, "idle", release_reason=reason))
        track = (track or mine.track) if had_it else track
    # No statement may name the history where there is none.
    if tx.has_history:
        before.append(Statement("read_fence_floor", forms=tx.forms(sd_id)))
    floor = time_of(_latest(fences))
    # A command that still runs belongs to the term before.
    columns = caller.columns(caller.standing(mine), **own, run=None)
    return [*before, Statement("take_claim", **columns, sd_id=nfc(sd_id), track=track, floor=floor)]


def _latest(fences: Sequence[int | None]) -> int | None:
    return max((fence for fence in fences if fence is not None), default=None)


def not_registered(caller: Caller) -> PermissionDenied:
    """Return the error of a session that has no row just after it was registered."""
    return PermissionDenied(
        f"session {caller.session_id} could not be registered: a trigger of the table refused it, or another program"
        " deleted it",
        SEE_TRIGGERS,
    )
