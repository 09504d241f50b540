"""Claude Code's settings files: found, read, and changed while their user and the client write them too."""

from __future__ import annotations

import json
import mmap
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli import files
from claude_sessions_cli.claude_code import entries
from claude_sessions_cli.claude_code.entries import Choice, NotSettingsError
from claude_sessions_cli.errors import SessionsError, UsageError
from claude_sessions_cli.settings import home_directory

SCOPES = ("user", "project", "local")
BACKUP = ".before-claude-sessions"
# The client's setting that turns off hooks of every scope.
OFF = "disableAllHooks"
# How often a file is read again that another program is writing.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Merged:
    """What happened to a settings file: `installed`, `already_installed`, `removed` or `not_installed`.

    `events` have a hook now, or would. `backup` is the file from before the installation, `note` something for people.
    """

    agent: str
    outcome: str
    dry_run: bool
    file: str
    events: list[str]
    status_line: bool
    backup: str | None = None
    note: str | None = None


def path_of(scope: str, environ: Mapping[str, str]) -> Path:
    """Return the settings file of the user, of the project, or of this user in it.

    The project is the working directory, unless a client that runs a hook says otherwise. Raises UsageError without a
    home directory.
    """
    if scope == "user":
        home = environ.get("CLAUDE_CONFIG_DIR")
        return (Path(home) if home else home_directory(environ) / ".claude") / "settings.json"
    project = Path(environ.get("CLAUDE_PROJECT_DIR") or Path.cwd())
    return project / ".claude" / ("settings.json" if scope == "project" else "settings.local.json")


def installed_in(environ: Mapping[str, str]) -> list[Path]:
    """Return the settings files, of a client that runs here, that have our hooks."""
    return [path for path, settings in _read_scopes(environ) if entries.installed_events(settings)]


def disabled_in(environ: Mapping[str, str]) -> Path | None:
    """Return the settings file that turns off all hooks, those of the others too; None if they run."""
    decided = [(path, settings[OFF]) for path, settings in _read_scopes(environ) if OFF in settings]
    # The narrowest scope decides.
    return next((path for path, is_off in decided[-1:] if is_off is True), None)


def _read_scopes(environ: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the readable settings files and what they say, the narrowest scope last."""
    # The project may be the user's home.
    for path in dict.fromkeys(_paths(environ)):
        with suppress(OSError, SessionsError):
            settings, _ = _read(path)
            yield path, settings


def _paths(environ: Mapping[str, str]) -> Iterator[Path]:
    for scope in SCOPES:
        with suppress(UsageError):
            yield path_of(scope, environ)


def backups(environ: Mapping[str, str]) -> list[Path]:
    """Return the backups of such settings files, of before the installation."""
    beside = dict.fromkeys(_backup_of(path.resolve()) for path in _paths(environ))
    return [path for path in beside if path.is_file()]


def known_events(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the events that the installed client knows: it names them in its program."""
    found = shutil.which("claude", path=environ.get("PATH"))
    if found is None:
        return entries.EVENTS
    try:
        with Path(found).open("rb") as program, mmap.mmap(program.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return (*entries.EVENTS, *(event for event in entries.LATER_EVENTS if text.find(event.encode()) >= 0))
    except (OSError, ValueError):
        return entries.EVENTS


def install(path: Path, choice: Choice, *, dry_run: bool = False) -> Merged:
    """Add our hooks to a settings file, or update them. Raises NotSettingsError for a file that is not understood."""
    return _change(path, choice, dry_run)


def remove(path: Path, *, dry_run: bool = False) -> Merged:
    """Take our hooks out of a settings file, and give the user's own status line back."""
    return _change(path, None, dry_run)


def _change(path: Path, choice: Choice | None, dry_run: bool) -> Merged:
    for _ in range(ATTEMPTS):
        before, raw = _read(path)
        try:
            after = entries.merge(before, choice)
        except NotSettingsError as error:
            raise NotSettingsError(f"{error.message} in {path}", error.hint) from None
        changed = after != before and not dry_run
        # A client that rewrites the file in between must not lose what it wrote.
        if not changed or _replace(path, raw, after, keeps_backup=entries.has_ours(before)):
            backup = _backup_of(path.resolve())
            saved = str(backup) if changed and backup.exists() else None
            return _merged(path, before, after, choice, dry_run, saved)
    raise SessionsError(f"{path} changes all the time", "close the program that writes it, and try again")


def _merged(
    path: Path, before: dict[str, Any], after: dict[str, Any], choice: Choice | None, dry_run: bool, backup: str | None
) -> Merged:
    if choice:
        outcome = "installed" if before != after else "already_installed"
    else:
        outcome = "removed" if before != after else "not_installed"
    has_line = entries.is_own(after.get("statusLine"))
    note = None
    if choice and choice.status_line and not has_line:
        note = f"statusLine in {path} is not a command, so it is left as it is"
    if choice and after.get(OFF) is True:
        note = f"{path} sets {OFF}, so no hook runs"
    return Merged("claude", outcome, dry_run, str(path), entries.installed_events(after), has_line, backup, note)


def _read(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """Return the settings in a file and its bytes, None without a file. Raises NotSettingsError."""
    try:
        raw = files.read(path)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise NotSettingsError(f"cannot read {path}: {error.strerror}", entries.MEND) from None
    try:
        settings = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_float
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) and str(error).isprintable() else "it is too deep"
        raise NotSettingsError(f"{path} is not JSON: {reason[:120]}", entries.MEND) from None
    if not isinstance(settings, dict):
        raise NotSettingsError(f"{path} is not a JSON object", entries.MEND)
    return settings, raw


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        # One of the two would be lost.
        raise ValueError("a key stands twice in one object")
    return made


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON value")


def _float(word: str) -> float:
    value = float(word)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _backup_of(target: Path) -> Path:
    return target.with_name(target.name + BACKUP)


def _replace(path: Path, raw: bytes | None, settings: dict[str, Any], *, keeps_backup: bool) -> bool:
    """Write the settings as the client would; return False if another program has changed the file since.

    A backup of `raw` stands beside it then, unless one of an earlier file is to be kept.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        # Half a character, which JSON can only spell out.
        data = json.dumps(settings, indent=2).encode()
    target = path.resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o600
        target.parent.mkdir(parents=True, exist_ok=True)
    if raw is not None and not keeps_backup:
        files.write(_backup_of(target), raw, mode)
    try:
        now = files.read(target)
    except FileNotFoundError:
        now = None
    if now != raw:
        return False
    if settings or path.is_symlink():
        files.write(target, data, mode)
    else:
        # As before the installation; what links to a file expects one.
        target.unlink(missing_ok=True)
        files.remove_empty(path.parent, path.parent.parent)
    return True


def plugin_directory() -> Path:
    """Return the directory of the plugin, which is a marketplace of one plugin too."""
    return entries.HERE / "plugin"
