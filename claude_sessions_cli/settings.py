"""The database and the intervals: from the command line, the environment and `config.toml`, in this order."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from claude_sessions_cli import files
from claude_sessions_cli.errors import UsageError, unknown_word
from claude_sessions_cli.model import STALE_AFTER_LIMIT_S

DEFAULT_STALE_AFTER = "15m"
DEFAULT_HEARTBEAT_EVERY = "60s"
KEYS = ("dsn", "stale_after", "heartbeat_every")
# As a DSN: the private server. Without any rule it is the fallback.
EMBEDDED = "embedded"
NO_RULE = "no rule"
MEND = "mend the file, or name another: CLAUDE_SESSIONS_CONFIG"
ANOTHER_STATE = "name another directory: CLAUDE_SESSIONS_STATE_DIR"
# If one of these is set, libpq's environment names the database.
LIBPQ_VARIABLES = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|h|d)?", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
DURATION_LIMIT_S = 3650 * 86400.0


class Settings(NamedTuple):
    """The settings of one command; durations in seconds, `dsn` None for the private server."""

    dsn: str | None
    dsn_source: str
    stale_after: float
    heartbeat_every: float

    @property
    def is_fallback(self) -> bool:
        """Whether no rule names a database."""
        return self.dsn is None and self.dsn_source == NO_RULE


class Asked(NamedTuple):
    """The database of an answer: its name, the rule that chose it, its Postgres, and why it gave none.

    `is_stopped` is true of a private server that a look does not start.
    """

    name: str | None
    source: str | None
    error: str | None
    server_version: str | None = None
    is_stopped: bool = False


def rule_words(source: str) -> str:
    """Return how a database was chosen, in words.

    >>> rule_words("CLAUDE_SESSIONS_DSN"), rule_words(NO_RULE)
    ('from CLAUDE_SESSIONS_DSN', 'chosen as none is configured')
    """
    return "chosen as none is configured" if source == NO_RULE else f"from {source}"


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `2h` or `1d`; raises UsageError for anything else, and for zero.

    >>> parse_duration("15m")
    900.0
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= DURATION_LIMIT_S:
        raise UsageError(f"not a duration: {text[:40]!r}", "write it like 90, 90s, 15m, 2h or 1d, up to 3650d")
    return seconds


def load(environ: Mapping[str, str], *, dsn: str | None = None, stale_after: float | None = None) -> Settings:
    """Merge the command line's values with the environment and the config file, or raise UsageError."""
    config, path = _read_config(environ)
    if stale_after is None:
        stale_after = _duration("stale_after", environ, config, path, DEFAULT_STALE_AFTER)
    heartbeat_every = _duration("heartbeat_every", environ, config, path, DEFAULT_HEARTBEAT_EVERY)
    if stale_after > STALE_AFTER_LIMIT_S:
        raise UsageError(
            "stale_after is at most 7d: a longer one would keep a dead holder's item for too long", "write 7d or less"
        )
    if stale_after < 3 * heartbeat_every:
        raise UsageError(
            f"stale_after ({stale_after:g}s) is shorter than three heartbeats ({heartbeat_every:g}s each)",
            "one late heartbeat must not cost a live session its claim: raise stale_after or lower heartbeat_every",
        )
    found, source = _find_dsn(environ, config, path, dsn)
    return Settings(found, source, stale_after, heartbeat_every)


def config_path(environ: Mapping[str, str]) -> Path:
    """Return the path of the config file, `CLAUDE_SESSIONS_CONFIG` or the platform's."""
    explicit = environ.get("CLAUDE_SESSIONS_CONFIG")
    if explicit:
        return Path(explicit)
    return platform_directory("config") / "config.toml"


def state_directory(environ: Mapping[str, str], below: str = "") -> Path:
    """Return the directory of this machine's state, `CLAUDE_SESSIONS_STATE_DIR` or the platform's, or one `below` it.

    Raises UsageError if a stranger may write it, or if this account has no home directory.
    """
    root = Path(environ.get("CLAUDE_SESSIONS_STATE_DIR") or platform_directory("state"))
    for directory in dict.fromkeys((root, root / below)):
        with suppress(OSError):  # a missing one will be created, and a closed one reported when it is used
            if stranger := files.stranger_of(directory):
                raise UsageError(
                    f"{directory} is not used: {stranger} may write it",
                    f"chown {os.geteuid()} and chmod go-w it, or {ANOTHER_STATE}",
                )
    return root / below


def usable_state_directory(environ: Mapping[str, str]) -> Path:
    """Return the absolute path of the state directory, which this account can write. Raises UsageError."""
    directory = state_directory(environ).absolute()
    try:
        files.require_writable(directory)
    except OSError as error:
        raise UsageError(f"cannot use {directory}: {error.strerror}", ANOTHER_STATE) from None
    return directory


def platform_directory(kind: str) -> Path:
    """Return the place of this account's `config`, `data` or `state`. Raises UsageError without a home directory."""
    import platformdirs

    try:
        found = Path(getattr(platformdirs, f"user_{kind}_dir")("claude-sessions", appauthor=False))
    except RuntimeError:
        raise _homeless() from None
    # Earlier versions of platformdirs return a path that begins with `~`.
    if not found.is_absolute():
        raise _homeless()
    return found


def home_directory(environ: Mapping[str, str]) -> Path:
    """Return the user's home directory. Raises UsageError without one."""
    try:
        return Path(environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise _homeless() from None


def _homeless() -> UsageError:
    return UsageError(
        f"no home directory: HOME is not set, and this machine has no account of uid {os.geteuid()}",
        "set HOME; or CLAUDE_SESSIONS_CONFIG, CLAUDE_SESSIONS_STATE_DIR and CLAUDE_SESSIONS_DATA_DIR",
    )


def _read_config(environ: Mapping[str, str]) -> tuple[dict[str, Any], Path]:
    path = config_path(environ)
    try:
        text = files.read(path).decode()
        stranger = files.stranger_of(path)
    except (FileNotFoundError, NotADirectoryError):
        if environ.get("CLAUDE_SESSIONS_CONFIG"):
            raise UsageError(
                f"CLAUDE_SESSIONS_CONFIG names a file that does not exist: {path}", "create it, or unset the variable"
            ) from None
        return {}, path
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read {path}: {reason}", MEND) from None
    if stranger:
        raise UsageError(
            f"{path} is not read: {stranger} may write it or its directory",
            f"chown {os.geteuid()} and chmod go-w them, or name another file: CLAUDE_SESSIONS_CONFIG",
        )
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        config = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number may have too many digits
        raise UsageError(f"{path} is not TOML: {error}", MEND) from None
    unknown = [key for key in config if key not in KEYS]
    if unknown:
        raise unknown_word(
            f"{path} has unknown keys: {', '.join(unknown)}", unknown[0], KEYS, f"use one of {', '.join(KEYS)}"
        )
    return config, path


def _duration(key: str, environ: Mapping[str, str], config: Mapping[str, Any], path: Path, default: str) -> float:
    variable = f"CLAUDE_SESSIONS_{key.upper()}"
    value, source = environ.get(variable), variable
    if not value:
        value, source = config.get(key), f"{key} in {path}"
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"{source} is not a duration", 'write it like "15m"')
    try:
        return parse_duration(str(value))
    except UsageError as error:
        raise UsageError(f"{source}: {error.message}", error.hint) from None


def _find_dsn(
    environ: Mapping[str, str], config: Mapping[str, Any], path: Path, given: str | None
) -> tuple[str | None, str]:
    found, source = _first_dsn(environ, config, path, given)
    return None if found and found.strip() == EMBEDDED else found, source


def _first_dsn(
    environ: Mapping[str, str], config: Mapping[str, Any], path: Path, given: str | None
) -> tuple[str | None, str]:
    if given is not None:
        if not given.strip():
            # Most likely an unset variable: the fallback would claim in another database.
            raise UsageError("--dsn is empty", "leave it out to use the configured database")
        return given, "--dsn"
    if environ.get("CLAUDE_SESSIONS_DSN"):
        return environ["CLAUDE_SESSIONS_DSN"], "CLAUDE_SESSIONS_DSN"
    configured = config.get("dsn")
    if configured is not None:
        return _configured_dsn(configured, environ, path), f"dsn in {path}"
    if any(environ.get(variable) for variable in LIBPQ_VARIABLES):
        return "", "libpq's environment"
    return None, NO_RULE


def _configured_dsn(value: object, environ: Mapping[str, str], path: Path) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"dsn in {path} is not a text", 'write it like dsn = "postgresql://host/database"')
    if not value.startswith("env:"):
        return value
    variable = value.removeprefix("env:")
    if not environ.get(variable):
        raise UsageError(f"dsn in {path} reads the variable {variable}, which is not set", f"set {variable}")
    return environ[variable]
