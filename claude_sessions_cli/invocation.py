"""What every command does around its operation: find the settings, the caller and the database."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from claude_sessions_cli import __version__, identity, prompt, settings
from claude_sessions_cli.errors import EXIT_UNREACHABLE, NotHeld
from claude_sessions_cli.process import Process
from claude_sessions_cli.settings import Settings

if TYPE_CHECKING:
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import ClaimResult, Session
    from claude_sessions_cli.operations.caller import Caller
    from claude_sessions_cli.render import Output


def find_caller(
    found: Settings,
    *,
    session: str | None = None,
    pid: int | None = None,
    tty: str | None = None,
    required: bool = True,
) -> Caller:
    """Return who acts; raises NoIdentity where that is `required` and cannot be found."""
    from claude_sessions_cli.operations.caller import Caller

    who = identity.detect(os.environ, session=session, pid=pid, tty=tty)
    if required:
        identity.require(who)
    return Caller(who, found)


def find_ending(found: Settings, pid: int, tty: str | None) -> Caller:
    """Return the session of a shell that asks for its end, and may be gone before this process has started.

    Its hook says in CLAUDE_SESSIONS_SHELL which process it was; where starts cannot be known without asking, the file
    of its prompt knows the session.
    """
    from claude_sessions_cli.operations.caller import Caller

    terminal, told, start = ([*os.environ.get("CLAUDE_SESSIONS_SHELL", "").split(":", 2), "", ""])[:3]
    if told != str(pid):
        return find_caller(found, pid=pid, tty=tty)
    anchor = Process(pid, 0, tty or terminal or None, start, zombie=False, name="")
    known = None if start else prompt.read(os.environ, anchor)
    if not (start or known):
        return find_caller(found, pid=pid, tty=tty)
    who = identity.detect(os.environ, session=known.session_id if known else None, tty=tty, anchor=anchor)
    return Caller(who, found)


def load_settings(dsn: str | None, stale_after: float | None = None) -> Settings:
    """Return the settings of this invocation."""
    return settings.load(os.environ, dsn=dsn, stale_after=stale_after)


def give_up_after(seconds: float | None) -> None:
    """End this process after so many seconds: a background call whose server hangs must not stay for ever.

    Nor must it keep open what its shell had: a lock that ends with the shell, a pipe whose reader waits for its end.
    """
    if seconds is not None:
        _close_inherited()
        # At once, as if killed: to roll back would wait for the same server.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_UNREACHABLE))
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _close_inherited() -> None:
    with suppress(OSError):
        with os.scandir("/dev/fd") as entries:
            numbers = [int(entry.name) for entry in entries]
        os.closerange(3, max(numbers) + 1)


def look_at_prompt(caller: Caller) -> prompt.Edition:
    """Return which edition of its file the prompt of the caller's terminal has now."""
    anchor = _terminal_of(caller)
    return prompt.edition(os.environ, anchor) if anchor else None


def remember(caller: Caller, session: Session) -> None:
    """Tell the prompt of the caller's terminal how its session stands."""
    anchor = _terminal_of(caller)
    if session.status == "released":
        forget(caller)
    elif anchor is not None:
        prompt.write(os.environ, anchor, prompt.State.of(session))


def forget(caller: Caller) -> None:
    """Leave nothing for the prompt of a terminal whose session is over."""
    anchor = _terminal_of(caller)
    if anchor is not None:
        prompt.forget(os.environ, anchor)


@contextmanager
def loss_remembered(caller: Caller) -> Iterator[None]:
    """Tell the prompt of the caller's terminal of a loss that is raised."""
    try:
        yield
    except NotHeld as error:
        anchor = _terminal_of(caller)
        if anchor is not None and error.lost_item is not None:
            prompt.write(os.environ, anchor, prompt.State.of_loss(error.lost_item, caller.session_id))
        raise


def _terminal_of(caller: Caller) -> Process | None:
    """Return the process whose terminal shows the caller's session; a session named for one command is not shown."""
    named = any(rule.rule == "session: --session" and rule.used for rule in caller.identity.rules)
    return None if named else caller.identity.anchor


@contextmanager
def open_database(found: Settings, output: Output) -> Iterator[Database]:
    """Connect to the database of the settings; the embedded server is started, and its schema applied, where needed."""
    # psycopg is most of what a command costs: not before its options are known to be right.
    from claude_sessions_cli import database

    if found.dsn is not None:
        with database.connect(found.dsn, found.dsn_source) as connection:
            yield connection
        return

    from claude_sessions_cli.embedded import server

    with database.connect(server.ensure(output.note), found.dsn_source) as connection:
        marker = server.schema_marker()
        if not marker.exists() or marker.read_text() != __version__:
            from claude_sessions_cli.operations import schema

            schema.apply(connection)
            marker.write_text(__version__)
        yield connection


def claim_or_wait(
    database: Database,
    caller: Caller,
    sd_ids: Sequence[str],
    seconds: float | None,
    claim_one: Callable[[str], ClaimResult],
    output: Output,
) -> ClaimResult:
    """Claim the first free one of the items; with `seconds`, wait that long for one, with a count-down."""
    # A plain claim must not pay for what it does not use.
    if seconds is None and len(sd_ids) == 1:
        return claim_one(sd_ids[0])
    from claude_sessions_cli.operations import wait

    def attempt() -> ClaimResult:
        return wait.claim_any(database, caller, sd_ids, claim_one)

    if seconds is None:
        return attempt()
    with output.count_down() as progress:
        return wait.wait(database, attempt, sd_ids, seconds, progress)
