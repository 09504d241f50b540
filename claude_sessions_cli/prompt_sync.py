"""The prompts of this host, kept in step with what a command did: its claim, its loss, the end of another's term."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from claude_sessions_cli import prompt
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError
from claude_sessions_cli.model import Liveness
from claude_sessions_cli.process import Process

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import JudgedSession, ProcessRecord, Session, Witness
    from claude_sessions_cli.operations.caller import Caller


def shown_database(caller: Caller) -> str | None:
    """Return the database that the prompt of the caller's terminal shows; None without a prompt file."""
    anchor = _terminal_of(caller)
    state = prompt.read(os.environ, anchor) if anchor else None
    return state.database if state else None


def seen_claim(caller: Caller, database: Database) -> Witness | None:
    """Return what the prompt of the caller's terminal has seen of its claim in this database."""
    anchor = _terminal_of(caller)
    state = prompt.read(os.environ, anchor, database.name) if anchor else None
    return state.witness if state and state.session_id == caller.session_id else None


def version(caller: Caller, database: Database) -> prompt.Version:
    """Return the version of what the caller's terminal last knew of this database."""
    anchor = _terminal_of(caller)
    return prompt.version(os.environ, anchor, database.name) if anchor else None


def update(caller: Caller, session: Session, database: Database, *, shown: Callable[[], bool] = prompt.always) -> None:
    """Show in the prompt of the caller's terminal what its session holds.

    If it is not to be `shown`, a prompt of another database only counts the claim.
    """
    if session.status == "released":
        clear(caller, database)
    elif _terminal_of(caller):
        _write(caller, prompt.State.of(session, database.name), shown)


def clear(caller: Caller, database: Database) -> None:
    """Show nothing in the prompt of a terminal whose session has ended."""
    anchor = _terminal_of(caller)
    if anchor is not None:
        prompt.remove(os.environ, anchor, database.name)


@contextmanager
def shows_loss(caller: Caller, database: Database) -> Iterator[None]:
    """Show a loss that is raised in the prompt of the caller's terminal."""
    try:
        yield
    except SessionsError as error:
        show_loss(caller, database, error)
        raise


def show_loss(
    caller: Caller, database: Database, error: SessionsError, *, shown: Callable[[], bool] = prompt.always
) -> None:
    """Show in the prompt of the caller's terminal the claim that is lost by an error, if it is lost."""
    anchor = _terminal_of(caller)
    lost = error.lost_item if isinstance(error, NotHeld) else None
    if anchor and isinstance(error, HeldByAnother) and error.holder:
        # The session is open in another process: what the prompt still shows of it has moved there.
        known, other = prompt.read(os.environ, anchor, database.name), error.holder.session.session_id
        if known and known.kind == prompt.HELD and known.session_id == other == caller.session_id:
            lost = known.item
    if anchor and lost is not None:
        _write(caller, prompt.State.of_loss(lost, caller.session_id, database.name), shown)


def _write(caller: Caller, state: prompt.State, shown: Callable[[], bool]) -> None:
    anchor = _terminal_of(caller)
    if anchor is None:
        return
    # The next command may be without the option.
    if caller.settings.dsn_source == "--dsn" and shown_database(caller) is not None:
        prompt.write(os.environ, anchor, state, shown=lambda: False)
        return
    prompt.write(os.environ, anchor, state, shown=shown)


def correct(caller: Caller, ended: Iterable[JudgedSession]) -> None:
    """Show in the prompts of other terminals of this host that the caller ended their terms.

    Each of the sessions holds its term still, or has a tombstone of it.
    """
    for judged in ended:
        session = judged.session
        # A dead process has no prompt.
        if session.process is None or judged.liveness is Liveness.DEAD:
            continue
        lost = session.tombstone
        item, fence = (session.sd_id, session.fence) if session.sd_id or not lost else (lost.sd_id, lost.fence)
        correct_one(caller, session.process, session.session_id, item, fence)


def correct_one(caller: Caller, record: ProcessRecord, session_id: str, item: str | None, fence: int | None) -> None:
    host = caller.identity.host
    if item and all((host.boot_id, host.pid_ns)) and (record.boot_id, record.pid_ns) == (host.boot_id, host.pid_ns):
        prompt.correct(os.environ, record, session_id, item, fence)


def _terminal_of(caller: Caller) -> Process | None:
    """Return the process whose prompt shows the caller's session; None for a session named for one command."""
    named = any(rule.rule == "session: --session" and rule.used for rule in caller.identity.rules)
    return None if named else caller.identity.anchor
