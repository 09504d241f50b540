"""Short ids: a session named by the beginning of its random id, as `list` shows it."""

from __future__ import annotations

from collections.abc import Sequence

from claude_sessions_cli.database import Database
from claude_sessions_cli.identity import OPTION
from claude_sessions_cli.model import Session
from claude_sessions_cli.names import is_random, is_short
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.transaction import Rows, Statement


def find(caller: Caller) -> Statement:
    """Return the statement that finds the sessions whose ids begin with the caller's."""
    return Statement("find_sessions", prefix=caller.session_id, now=caller.now)


def is_named_short(caller: Caller) -> bool:
    """Whether the caller's id may be the beginning of another one."""
    return caller.identity.id_from == OPTION and is_short(caller.session_id)


def session_named(caller: Caller, mine: Session | None, found: Sequence[Rows]) -> Session | None:
    """Return the session whose random id the caller gave the beginning of; `found` are the rows of `look`.

    Raises UsageError if there are several. A name that somebody chose has no short form: `worker` is not `worker-2`.
    """
    if mine or not is_named_short(caller):
        return None
    named = [session for looked in found for session in looked.sessions if is_random(session.session_id)]
    return rows.pick([session for session in named if session.session_id != caller.session_id], caller.session_id)


def as_named(database: Database, caller: Caller) -> Caller:
    """Return the caller under the whole id of the session that it named by the beginning of it."""
    if not is_named_short(caller):
        return caller
    [found] = database.read(lambda tx: tx.commit(find(caller)))
    mine, _ = rows.split(found, caller)
    named = session_named(caller, mine, [found])
    return caller.as_session(named.session_id) if named else caller
