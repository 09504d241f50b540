"""Removal: what the tool has left on this host for its user, taken away again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from claude_sessions_cli import files, settings
from claude_sessions_cli.claude_code import settings_file
from claude_sessions_cli.embedded import server
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.shell import rc_files
from claude_sessions_cli.timers import install

# The directories may be those of other programs too: what is not the tool's own stays.
STATE = ("terminals", "agents", "hook.log*", "upkeep.log*", "upkeep.json", "upkeep.lock", "database-rule")
DATA = (
    *("postgres", "postgres-[0-9]*", "postgres.new", "postgres.log*", "postgres.lock", "pg_hba.conf", "pg_ident.conf"),
    *("schema-applied", "software-*", "software.new", "stopped"),
)
# It is stopped; its data is another thing.
SERVER = "server"


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that is gone, or would be; if it is `left`, the note says why."""

    what: str
    place: str
    left: bool = False
    note: str | None = None


def remove_set_up(environ: Mapping[str, str], *, dry_run: bool) -> Iterator[Removal]:
    """Take away hooks, timers and completion, one after another; a failure stops no other."""
    for path in settings_file.installed_in(environ):
        yield _attempt("agent hooks", path, partial(settings_file.remove, path, dry_run=dry_run))
    for kind in install.KINDS:
        # A machine without cron has no crontab to ask.
        with suppress(SessionsError, OSError):
            result = install.remove(kind, environ, dry_run=dry_run)
            if result.outcome == "removed":
                yield Removal("timer", kind, note=result.note)
    home = settings.home_directory(environ)
    completions = [path for path in rc_files.completion_files(home).values() if path.exists()]
    zfunc = home / ".zfunc"
    is_last = zfunc.is_dir() and all(path in completions for path in zfunc.iterdir())
    for path, shell in rc_files.paths(environ, home).items():
        if rc_files.has_lines(path, completion_is_last=is_last):
            change = partial(rc_files.remove_lines, path, shell, completion_is_last=is_last, dry_run=dry_run)
            yield _attempt("lines for the shell", path, change)
    for path in completions:
        yield _attempt("completion", path, partial(_delete, [path], home, dry_run))
    if server.status().running:
        yield _attempt(SERVER, server.status().data_dir, partial(_stop, dry_run))


def remove_data(environ: Mapping[str, str], *, dry_run: bool) -> Iterator[Removal]:
    """Delete the configuration, the state and the private server's data."""
    home = settings.home_directory(environ)
    config = settings.config_path(environ)
    private = server.status()
    for what, directory, names in (
        # A link: the short path to a socket whose own is too long.
        ("data", private.socket_dir.parent, ("socket",)),
        ("data", private.data_dir, DATA),
        ("state", settings.state_directory(environ), STATE),
    ):
        found = [path for name in names for path in sorted(directory.glob(name)) if not _is_foreign(path)]
        if found:
            yield _attempt(what, directory, partial(_delete, found, home, dry_run))
    if os.path.lexists(config):
        yield _attempt("configuration", config, partial(_delete, [config], home, dry_run))
    for path in settings_file.backups(environ):
        yield _attempt("backup", path, partial(_delete, [path], home, dry_run))


def _is_foreign(path: Path) -> bool:
    """Whether a directory is named like a cluster but is not one."""
    return path.name.startswith("postgres") and path.is_dir() and not (path / "PG_VERSION").exists()


def _attempt(what: str, place: Path, change: Callable[[], object]) -> Removal:
    try:
        change()
    except SessionsError as error:
        return Removal(what, str(place), True, error.message)
    except OSError as error:
        return Removal(what, str(place), True, error.strerror)
    return Removal(what, str(place))


def _stop(dry_run: bool) -> None:
    if not dry_run:
        server.stop()


def _delete(found: Sequence[Path], home: Path, dry_run: bool) -> None:
    """Delete files and directories, and each directory above them that is empty then."""
    if dry_run:
        return
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    files.remove_empty(found[0].parent, home)
