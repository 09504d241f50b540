"""What a timer runs: the command `upkeep`, on the database and with the settings that this command has."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_sessions_cli import fallback, process, settings
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.timers import upkeep_log

# Variables that name a place and are no secret. A timer does not inherit the environment of the user's shell.
KEPT_PATHS = (
    *("CLAUDE_SESSIONS_CONFIG", "CLAUDE_SESSIONS_DATA_DIR", "CLAUDE_SESSIONS_STATE_DIR"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"),
)
KEPT_VARIABLES = (*KEPT_PATHS, "CLAUDE_SESSIONS_STALE_AFTER", "CLAUDE_SESSIONS_HEARTBEAT_EVERY")
# libpq's parameters that do not change which database is reached, or whether.
HARMLESS_PARAMETERS = frozenset(
    {
        *("application_name", "client_encoding", "connect_timeout", "sslcompression"),
        *("min_protocol_version", "max_protocol_version"),
    }
)

# The option of `upkeep` for hosts of which another one reaps.
ONLY_HERE = "--here"


@dataclass(frozen=True, slots=True)
class Write:
    """A text that a timer keeps, and the place of it."""

    to: str
    text: str


@dataclass(frozen=True, slots=True)
class TimerResult:
    """What happened to a timer: `installed`, `already_installed`, `removed` or `not_installed`; a note for people.

    `runs` is False if it is installed, and nothing on this machine runs it.
    """

    timer: str
    outcome: str
    dry_run: bool
    writes: list[Write]
    note: str | None = None
    runs: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """The words of the command, the variables that it needs, and the state directory."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    directory: Path

    @property
    def work(self) -> str:
        """What it runs, in the words of the commands."""
        return "heartbeat --here" if ONLY_HERE in self.words else "heartbeat --here and reap"

    @property
    def log(self) -> Path:
        """The log of its runs."""
        return upkeep_log.log_path(self.directory)


def plan(environ: Mapping[str, str], called: str, dsn: str | None, *, only_here: bool = False) -> Job:
    """Return the job of a timer; `called` is argv[0]. With `only_here` it judges the sessions of this host alone.

    Raises UsageError if it would use another database than this, could not write its state, or has no account.
    """
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise UsageError(
            f"nothing runs timers of uid {os.geteuid()}: this machine has no account of that number",
            "add that account, or install the timer as another one",
        ) from None
    variables = {name: environ[name] for name in KEPT_VARIABLES if environ.get(name)}
    # A timer starts in another directory.
    variables |= {name: str(Path(path).absolute()) for name, path in variables.items() if name in KEPT_PATHS}
    found = settings.load(environ, dsn=dsn)
    config = settings.config_path(environ)
    hint = f'write a line dsn = "..." into {config}; a password belongs in ~/.pgpass'
    try:
        alone = settings.load(variables)
    except UsageError as error:
        raise UsageError(f"{error.message}, when a timer runs", hint) from None
    fallback.refuse(environ, found)
    if (alone.dsn, alone.is_fallback) != (found.dsn, found.is_fallback):
        raise UsageError(f"the database is named by {found.dsn_source}, which is not set when a timer runs", hint)
    if found.dsn is not None and (missing := _missing_variables(environ, found.dsn, found.dsn_source)):
        verb = "is" if len(missing) == 1 else "are"
        message = f"{found.dsn_source} depends on {', '.join(missing)}, which {verb} not set when a timer runs"
        raise UsageError(message, hint)
    # Set in any case: a crontab may set another HOME for its lines.
    variables["HOME"] = str(settings.home_directory(environ).absolute())
    words = (*process.this_program(called), "upkeep", *([ONLY_HERE] if only_here else []))
    job = Job(words, variables, settings.state_directory(environ).absolute())
    for text in (*job.words, *job.variables.values(), str(job.directory)):
        if not text.isprintable():
            raise UsageError(
                f"a timer cannot run this: {text[:60]!r} contains control characters", "rename it without them"
            )
    # Each run would refuse it.
    settings.usable_state_directory(environ)
    return job


def _missing_variables(environ: Mapping[str, str], dsn: str, source: str) -> list[str]:
    """Return the variables of `environ` that libpq would complete `dsn` from."""
    from claude_sessions_cli import connection  # late: it imports psycopg

    given = connection.parse_dsn(dsn, source)
    return [
        variable
        for variable, parameter in connection.connection_variables().items()
        if environ.get(variable)
        and variable not in KEPT_VARIABLES
        and parameter not in given
        and parameter not in HARMLESS_PARAMETERS
    ]
