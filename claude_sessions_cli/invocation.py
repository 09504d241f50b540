"""Settings, caller and database of one run of a command; the prompt kept current."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from claude_sessions_cli import __version__, fallback, identity, prompt, prompt_sync, settings
from claude_sessions_cli.errors import (
    EXIT_UNREACHABLE,
    HeldByAnother,
    HoldsAnother,
    SessionsError,
    Unreachable,
    UsageError,
)
from claude_sessions_cli.process import Process
from claude_sessions_cli.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from claude_sessions_cli.database import Database
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.model import JudgedSession
    from claude_sessions_cli.operations.caller import Caller
    from claude_sessions_cli.operations.claim import ClaimResult
    from claude_sessions_cli.operations.heartbeat import HeartbeatResult
    from claude_sessions_cli.operations.whoami import Standings
    from claude_sessions_cli.render import Output
    from claude_sessions_cli.settings import Asked


def find_caller(
    found: Settings,
    *,
    session: str | None = None,
    pid: int | None = None,
    tty: str | None = None,
    required: bool = True,
) -> Caller:
    """Return the caller. Raises NoIdentity if it is `required` and no rule finds it."""
    from claude_sessions_cli.operations.caller import Caller

    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    if required:
        identity.require(who)
    return Caller(who, found)


def find_ending(found: Settings, pid: int, tty: str | None) -> Caller:
    """Return the caller of `release --end` at a shell's exit; the shell may have ended before this process started.

    CLAUDE_SESSIONS_SHELL names its process. On a system where a shell cannot know its start time, its prompt files name
    the session.
    """
    from claude_sessions_cli.operations.caller import Caller

    terminal, shell_pid, start = ([*os.environ.get("CLAUDE_SESSIONS_SHELL", "").split(":", 2), "", ""])[:3]
    if shell_pid != str(pid):
        return find_caller(found, pid=pid, tty=tty)
    anchor = Process(pid, 0, tty or terminal or None, start, zombie=False, name="")
    session = None if start else prompt.session_of(os.environ, anchor)
    if not (start or session):
        return find_caller(found, pid=pid, tty=tty)
    who = identity.detect(os.environ, session=session, tty=tty, anchor=anchor)
    return Caller(who, found)


def load_settings(dsn: str | None, stale_after: float | None = None) -> Settings:
    """Return the settings of this invocation. Raises Unreachable if the private server must not stand in."""
    found = settings.load(os.environ, dsn=dsn, stale_after=stale_after)
    fallback.refuse(os.environ, found)
    return found


def give_up_after(
    seconds: float, code: int = EXIT_UNREACHABLE, last_words: Callable[[], None] = lambda: None
) -> threading.Timer:
    """Exit with `code` after `seconds`, so that a background call does not outlive a server that hangs.

    Returns the timer, which can be cancelled.
    """

    def give_up() -> None:
        last_words()
        # At once, as if killed: a rollback would wait for the same server.
        os._exit(code)

    # A thread, not a signal: Python runs no signal handler while libpq looks up a host name.
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    return timer


def limit_background_call(seconds: float | None) -> None:
    """Give up after `seconds` if a shell's hook calls, and close the descriptors of its shell.

    A lock may end with the shell, and a reader may wait for the end of a pipe.
    """
    if seconds is not None:
        _close_inherited()
        give_up_after(seconds)


def _close_inherited() -> None:
    with suppress(OSError):
        with os.scandir("/dev/fd") as entries:
            numbers = [int(entry.name) for entry in entries]
        os.closerange(3, max(numbers) + 1)


def beat(
    caller: Caller,
    database: Database,
    looked_at: str | None,
    *,
    register: bool,
    if_older_than: float | None = None,
    in_background: bool = True,
    shown: bool = True,
) -> HeartbeatResult:
    """Send a heartbeat, and show what it found in the prompt of the caller's terminal.

    `looked_at` is the database that the prompt showed before the connection. Raises the errors of `heartbeat`.
    """
    from claude_sessions_cli.operations.heartbeat import heartbeat

    before, witness = prompt_sync.version(caller, database), prompt_sync.seen_claim(caller, database)

    def is_current() -> bool:
        # A command that ran during a heartbeat in the background has shown newer facts.
        return not in_background or prompt_sync.version(caller, database) == before

    def is_shown() -> bool:
        # Meanwhile the shell may have turned to another database.
        return shown and (not in_background or prompt_sync.shown_database(caller) == looked_at)

    try:
        result = heartbeat(database, caller, register=register, if_older_than=if_older_than, witness=witness)
    except SessionsError as error:
        if is_current():
            prompt_sync.show_loss(caller, database, error, shown=is_shown)
        raise
    # After `uninstall --data`, a terminal that is open writes nothing again.
    if is_current() and (not in_background or result.outcome == "registered" or prompt.has_state(os.environ)):
        prompt_sync.update(caller, result.session.session, database, shown=is_shown)
    return result


def deadline_after(seconds: float | None) -> float | None:
    """Return the monotonic time `seconds` from now; None if `seconds` is None."""
    return None if seconds is None else time.monotonic() + seconds


@contextmanager
def open_database(
    found: Settings, output: Output, deadline: float | None = None, *, starts: bool = True
) -> Iterator[Database]:
    """Connect to the database of the settings; start the private server and apply its schema if needed.

    With a `deadline`, wait that long for a server that is full or starting. A hook `starts` no server.
    """
    # Late: importing psycopg is most of a command's time, and a usage error does not need it.
    from claude_sessions_cli import database

    if found.dsn is not None:
        with database.connect(found.dsn, found.dsn_source, deadline, output.note) as connection:
            if starts or prompt.has_state(os.environ):
                fallback.remember(os.environ, found)
            yield connection
        return

    from claude_sessions_cli.embedded import server

    dsn = server.ensure(output.note) if starts else server.running_dsn()
    with database.connect(dsn, "the private server", deadline, output.note) as connection:
        if starts:
            _apply_schema(connection, server.schema_marker())
        yield connection


def _apply_schema(connection: Database, marker: Path) -> None:
    """Apply the schema to the private server, once for each version of the tool."""
    from claude_sessions_cli import files

    with suppress(OSError):
        if files.read(marker) == __version__.encode():
            return
    from claude_sessions_cli.operations import schema

    schema.apply(connection)
    with suppress(OSError):  # on a full disk, the next command applies it again
        files.write(marker, __version__.encode())


def ask_standings(
    who: Identity, dsn: str | None, output: Output
) -> tuple[Identity, Standings | None, Asked, SessionsError | None]:
    """Return what the database says of a session, which database it is, and the error if it does not answer.

    The identity has the whole id of a session that was named by the beginning of it. Starts no server.
    """
    asked = settings.Asked(None, None, None)
    try:
        found = load_settings(dsn)
        asked = asked._replace(source=found.dsn_source)
        if found.dsn is None:
            from claude_sessions_cli.embedded import server

            asked = asked._replace(name=f"the private server in {server.status().data_dir}")
            if not server.status().running:
                asked = asked._replace(is_stopped=True)
                raise Unreachable(f"{asked.name} is not running", server.START)

        from claude_sessions_cli.operations.caller import Caller
        from claude_sessions_cli.operations.whoami import whoami

        with open_database(found, output, starts=False) as database:
            asked = asked._replace(name=asked.name or database.description, server_version=database.server_version)
            standings = whoami(database, Caller(who, found))
    except SessionsError as error:
        # From a database that answered, it is about the caller's arguments.
        if isinstance(error, UsageError) and asked.server_version:
            raise
        return who, None, asked._replace(error=error.message), error
    if standings.session:
        who = who._replace(session_id=standings.session.session.session_id)
    return who, standings, asked, None


def claim_or_wait(
    database: Database,
    caller: Caller,
    sd_ids: Sequence[str],
    deadline: float | None,
    claim_one: Callable[[str], ClaimResult],
    output: Output,
) -> ClaimResult:
    """Claim the first free one of the items; with a `deadline`, wait for one until then, with a count-down."""
    if caller.settings.is_fallback and not fallback.can_remember(os.environ):
        from claude_sessions_cli.embedded import server

        output.note(f"no database is configured: this one is private, in {server.status().data_dir}")
    # A plain claim must not pay for what it does not use.
    if deadline is None and len(sd_ids) == 1:
        return _corrected(caller, claim_one(sd_ids[0]))
    from claude_sessions_cli.operations import wait
    from claude_sessions_cli.operations.claim import mark_loss

    def attempt() -> ClaimResult:
        return wait.claim_any(database, caller, sd_ids, claim_one)

    try:
        if deadline is None:
            return _corrected(caller, attempt())
        with output.count_down() as progress:
            return _corrected(caller, wait.wait(database, attempt, sd_ids, deadline, progress))
    except (HeldByAnother, HoldsAnother):
        # An attempt before it reported nothing. If this one fails, the next command reports the loss again.
        with suppress(SessionsError):
            mark_loss(database, caller)
        raise


def _corrected(caller: Caller, result: ClaimResult) -> ClaimResult:
    if result.evicted:
        prompt_sync.correct(caller, [result.evicted])
    session = result.session.session
    if session.moved:
        # By force, from a terminal that shows the claim.
        prompt_sync.correct_one(caller, session.moved.process, session.session_id, session.sd_id, session.moved.fence)
    return result


def act_on_claim(
    command: str,
    operation: Callable[[Database, Caller], JudgedSession],
    answer: Callable[[JudgedSession], tuple[dict[str, Any], str]],
    *,
    session: str | None,
    pid: int | None,
    tty: str | None,
    dsn: str | None,
    json: bool,
    quiet: bool,
) -> None:
    """Run a command on the claim of the caller's session; `answer` adds to the session's data and gives the line."""
    found = load_settings(dsn)
    caller = find_caller(found, session=session, pid=pid, tty=tty)

    from claude_sessions_cli import as_json, render

    output = render.Output(command, json, quiet)
    with open_database(found, output) as database, prompt_sync.shows_loss(caller, database):
        held = operation(database, caller)
    prompt_sync.update(caller, held.session, database)
    data, line = answer(held)
    output.result({"session": as_json.session_data(held), **data}, lambda: [line])
