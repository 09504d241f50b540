"""The command `hook`, which hook.sh runs if something is due."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_sessions_cli import fallback, invocation, log, options, prompt_sync, render, settings
from claude_sessions_cli.errors import SessionsError, UsageError

if TYPE_CHECKING:
    from claude_sessions_cli.claude_code.events import Input
    from claude_sessions_cli.claude_code.stamp import Stamp
    from claude_sessions_cli.database import Database
    from claude_sessions_cli.model import Session
    from claude_sessions_cli.operations.caller import Caller

# The client waits for a hook, and nothing for one in the background.
FOREGROUND_S, BACKGROUND_S = 1.9, 20.0
LEAST_S = 0.5

app = options.new_app()


@app.command()
def hook(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event, as Claude Code calls it.")],
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
    changed: Annotated[bool, typer.Option("--changed", hidden=True, help="The item has changed.")] = False,
    plugin: Annotated[bool, typer.Option("--plugin", hidden=True)] = False,
) -> None:
    """Act on an event of Claude Code.

    For the hooks of `install claude`. Reads the client's JSON from stdin. Always exits 0; problems are in the log.
    """
    if background:
        _detach()
    seconds = BACKGROUND_S if background else max(LEAST_S, FOREGROUND_S - _age())
    timer = invocation.give_up_after(seconds, 0, lambda: _log(event, f"no answer within {seconds:.1f} s"))
    try:
        _run(event, plugin, changed, not background, timer.cancel)
    except Exception as error:
        _log_error(event, error)
    finally:
        timer.cancel()


def _detach() -> None:
    """Leave the process group of the client, which may end it together with a turn."""
    with suppress(OSError):
        os.setsid()


def _age() -> float:
    """Return how long this process has been running: on a busy machine its start takes a part of the time."""
    from claude_sessions_cli import process, times

    try:
        start = process.read(os.getpid()).start
    except (ProcessLookupError, PermissionError):
        return 0.0
    # Clock ticks since the boot, if /proc has them.
    ticks = os.sysconf("SC_CLK_TCK")
    return max(0.0, times.uptime() - int(start) / ticks) if start.isdecimal() else 0.0


def _run(event: str, plugin: bool, changed: bool, answers: bool, answered: Callable[[], object]) -> None:
    """Act on an event; `answered` is called once the client has what it waits for, and no server is waited for."""
    from claude_sessions_cli.claude_code import events

    if event == events.STATUS_LINE:
        _beat(event, None, changed)
    elif event not in (events.START, events.END, events.GUARD, events.QUESTION, *events.BEATS):
        _log("?", "no such event")
    elif answers and not _is_read():
        _log(event, "stdout is closed")
    else:
        try:
            given = events.read_input(event)
        except events.BadInput as error:
            _log(event, str(error))
            return
        if event == events.START:
            _start(given, plugin, answered)
        elif event == events.END:
            _end(given)
        elif event == events.GUARD:
            _guard(given)
        elif event == events.QUESTION:
            _beat(event, given)
            _keep_beating()
        elif not _tell(event, given):
            _beat(event, given)


def _start(given: Input, plugin: bool, answered: Callable[[], object]) -> None:
    from claude_sessions_cli.claude_code import events, settings_file, stamp
    from claude_sessions_cli.errors import HeldByAnother
    from claude_sessions_cli.operations.start import start

    # Otherwise the model would be told twice.
    if plugin and settings_file.installed_in(os.environ):
        return
    caller, path = _caller(given), _stamp_path()
    with _database(caller) as database:
        found = start(database, caller)
        if found.refusal:
            prompt_sync.show_loss(caller, database, found.refusal)
        if found.acting:
            prompt_sync.update(caller, found.acting.session, database)
    kept = stamp.Stamp(told=[events.key_of(found.standings.lost)] if found.standings.lost else [])
    if isinstance(found.refusal, HeldByAnother):
        kept.standing, kept.told = stamp.TWIN, [stamp.TWIN, *kept.told]
    elif found.standings.lost and not found.standings.lost.told:
        kept.standing = stamp.LOST
    render.answer(events.started(found, given.session_id, caller.identity.codebase))
    # Without the stamp, a client that has ended could not be told from another process.
    answered()
    with stamp.run_lock(path):
        stamp.beside(path, "loss").unlink(missing_ok=True)
        _keep(path, kept, caller, found.acting.session if found.acting else None)
    stamp.sweep(path)


def _beat(event: str, given: Input | None, changed: bool = False) -> None:
    from claude_sessions_cli.claude_code import stamp

    path = _stamp_path()
    with stamp.run_lock(path) as locked:
        known = stamp.read(path)
        if not locked:
            return
        is_fresh = known.is_fresh(stamp.now()) and not changed
        if is_fresh or known.standing == stamp.ENDED or _client_has_ended():
            stamp.beside(path, "lock").unlink(missing_ok=True)
            return
        try:
            _renew(path, known, given)
        except Exception as error:
            # Not at once again: the next try is as far away as the next heartbeat.
            _keep(path, known, None)
            _log_error(event, error)


def _client_has_ended() -> bool:
    """Whether the client's process is gone: a heartbeat now would be one of a dead session."""
    from claude_sessions_cli import process

    pid = int(os.environ.get("CLAUDE_PID") or 0)
    try:
        return pid > 0 and process.read(pid).zombie
    except ProcessLookupError:
        return True
    except PermissionError:
        return False


def _renew(path: Path, known: Stamp, given: Input | None) -> None:
    from claude_sessions_cli.claude_code import events, stamp
    from claude_sessions_cli.errors import HeldByAnother, NotHeld

    caller = _caller(given)
    session, standing, key, text = None, stamp.OK, None, ""
    looked_at = prompt_sync.shown_database(caller)
    try:
        with _database(caller) as database:
            result = invocation.beat(caller, database, looked_at, register=True)
        session, lost = result.session.session, result.tombstone
        if result.outcome == "lost" and lost and not lost.told:
            standing, key, text = stamp.LOST, events.key_of(lost), events.loss_text(lost)
    except (HeldByAnother, NotHeld) as error:
        standing, key, text = stamp.TWIN, stamp.TWIN, events.refusal_text(error)
    known.standing = standing
    if key is None:
        stamp.beside(path, "loss").unlink(missing_ok=True)
    elif key not in known.told:
        from claude_sessions_cli import files

        files.write(stamp.beside(path, "loss"), f"{text}\n".encode())
        known.told.append(key)
    _keep(path, known, caller, session)


def _keep_beating() -> None:
    """Become a shell that sends heartbeats until the question is answered: a resident Python would cost more."""
    from claude_sessions_cli import files, process
    from claude_sessions_cli.claude_code import entries, stamp

    path, pid = _stamp_path(), int(os.environ.get("CLAUDE_PID") or 0)
    keep, start = stamp.beside(path, "keep"), stamp.read(path).start
    if not start.isdecimal() or _is_kept(keep):
        return
    files.write(keep, f"{os.getpid()}\n".encode())
    every = str(max(1, int(settings.load(os.environ).heartbeat_every)))
    script = [str(entries.HERE / "keep.sh"), str(pid), start, str(path), every]
    os.execv("/bin/sh", ["/bin/sh", *script, *process.this_program(sys.argv[0])])


def _is_kept(keep: Path) -> bool:
    """Whether a shell sends heartbeats already."""
    from claude_sessions_cli import files

    with suppress(OSError, ValueError):
        os.kill(int(files.read(keep)), 0)
        return True
    return False


def _tell(event: str, given: Input) -> bool:
    """Tell the model of a loss, once; return whether there was one. A sub-agent is not the one to tell."""
    from claude_sessions_cli import files
    from claude_sessions_cli.claude_code import events, stamp

    pending = stamp.beside(_stamp_path(), "loss")
    if event not in events.TOLD_AT or not pending.exists():
        return False
    if given.agent_id is None:
        # If several hooks run at once, only one can rename it.
        taken = pending.with_name(f"{pending.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            pending.rename(taken)
            try:
                render.answer(events.context(event, files.read(taken).decode().rstrip("\n")))
            except OSError:
                taken.rename(pending)
                raise
            taken.unlink()
    return True


def _guard(given: Input) -> None:
    from claude_sessions_cli import process
    from claude_sessions_cli.claude_code import events, stamp
    from claude_sessions_cli.operations.whoami import whoami

    words = process.this_program(sys.argv[0])
    # Several words are those of an interpreter, which could run anything.
    if events.passes(given, words if len(words) == 1 else []):
        return
    caller, path = _caller(given), _stamp_path()
    with _database(caller) as database:
        found = whoami(database, caller)
    standing, reason = events.standing_of(found)
    if standing:
        render.answer(events.denial(reason))
        return
    with stamp.run_lock(path) as locked:
        if locked:
            known = stamp.read(path)
            known.standing = stamp.OK
            stamp.beside(path, "loss").unlink(missing_ok=True)
            stamp.write(path, known)


def _end(given: Input) -> None:
    from claude_sessions_cli import identity
    from claude_sessions_cli.claude_code import events, stamp
    from claude_sessions_cli.operations.end import end

    if given.reason in events.GOES_ON:
        return
    path = _stamp_path()
    with stamp.run_lock(path, wait=True):
        known = stamp.read(path)
        # A heartbeat that comes later must not open the session again.
        known.standing = stamp.ENDED
        stamp.write(path, known)
        stamp.beside(path, "loss").unlink(missing_ok=True)
        caller = _caller(given, known.start)
        # A `run` around the client ends its session itself.
        if caller.identity.id_from == identity.EXPORTED or caller.identity.anchor is None:
            return
        with _database(caller) as database:
            ended = end(database, caller)
            if ended:
                prompt_sync.clear(caller, database)


def _caller(given: Input | None, start: str = "-") -> Caller:
    """Return the session that a hook acts as. The hook may have lost its ancestors: the client's process names them.

    `start` is that of the client's process, which may have ended.
    """
    from claude_sessions_cli import identity, process
    from claude_sessions_cli.operations.caller import Caller

    pid = int(os.environ.get("CLAUDE_PID") or 0)
    own = process.lineage(os.getpid())
    above = process.lineage(pid) if pid and all(found.pid != pid for found in own) else []
    gone = process.Process(pid, 0, None, start, zombie=False, name="") if not above and start != "-" else None
    is_below = any(found.pid == pid for found in own)
    who = identity.detect(
        os.environ,
        hook_input=given.session_id if given else None,
        lineage=[*own[:1], *above] if above else own,
        anchor=None if is_below else gone,
    )
    identity.require(who)
    return Caller(who, settings.load(os.environ))


def _stamp_path() -> Path:
    from claude_sessions_cli.claude_code import stamp

    return stamp.path_of(os.environ, int(os.environ.get("CLAUDE_PID") or os.getppid()))


def _keep(path: Path, known: Stamp, caller: Caller | None, session: Session | None = None) -> None:
    """Write the stamp after a heartbeat, or after the attempt at one."""
    from claude_sessions_cli.claude_code import stamp

    every = settings.parse_duration(settings.DEFAULT_HEARTBEAT_EVERY)
    if caller:
        every = caller.settings.heartbeat_every
        known.start = caller.identity.anchor.start if caller.identity.anchor else known.start
        known.show(session)
    known.at = stamp.now()
    known.due = known.at + max(1, int(every))
    stamp.write(path, known)


@contextmanager
def _database(caller: Caller) -> Iterator[Database]:
    """Connect to the database; unlike other commands, a hook starts no server."""
    from claude_sessions_cli import database

    dsn = caller.settings.dsn
    fallback.refuse(os.environ, caller.settings)
    if dsn is None:
        from claude_sessions_cli.embedded import server

        dsn = server.running_dsn()
    with database.connect(dsn, caller.settings.dsn_source) as connection:
        fallback.remember(os.environ, caller.settings)
        yield connection


def _is_read() -> bool:
    """Whether somebody may read the answer; for a closed stdout the program has opened /dev/null."""
    with suppress(OSError):
        return os.fstat(1).st_rdev != Path(os.devnull).stat().st_rdev
    return False


def _log_error(event: str, error: Exception) -> None:
    if isinstance(error, UsageError):
        # The rest quotes a value of the environment.
        text = error.message.partition(": ")[0]
    elif isinstance(error, SessionsError):
        text = error.message
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}"
    else:
        text = f"unforeseen: {type(error).__name__}"
    _log(event, text)


def _log(event: str, text: str) -> None:
    """Add a line to the log; never of the input, whose texts are private, nor of the environment."""
    with suppress(OSError, UsageError):
        log.append(settings.state_directory(os.environ).absolute() / "hook.log", f"{event} {text}")
