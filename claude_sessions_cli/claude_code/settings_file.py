"""Claude Code's settings: our hooks and status line merged into a file that its user and the client write too."""

from __future__ import annotations

import json
import mmap
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli import files
from claude_sessions_cli.errors import SessionsError, UsageError
from claude_sessions_cli.settings import home_directory

HERE = Path(__file__).parent
SCOPES = ("user", "project", "local")
BACKUP = ".before-claude-sessions"
# Seconds. The client waits for SessionStart; the one at the end delays the exit no longer than a process start.
TIMEOUT_S = 5
REFRESH_S = 30
TOOLS = "Edit|Write|NotebookEdit|Bash"
# Every client with hooks knows these; an unknown event opens a dialog at each of its starts.
EVENTS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SubagentStop", "Notification", "SessionEnd")
LATER_EVENTS = ("PostToolUseFailure", "CwdChanged")
GUARD = "PreToolUse"
# The client's setting that turns off hooks of every scope.
OFF = "disableAllHooks"
# How often a file is read again that another program is writing.
ATTEMPTS = 5
MISSING: Any = object()
MEND = "mend it, or move it away; nothing was changed"
_OURS = re.compile(
    r"(?:trap 'exit 0' EXIT; )?set -- .*/claude_sessions_cli/claude_code/(?:hook|statusline)\.sh", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to install: the words that run the program, with or without the guard and the status line."""

    words: Sequence[str]
    events: Sequence[str] = EVENTS
    guard: bool = False
    status_line: bool = True


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


class NotSettingsError(SessionsError):
    """The file is not what Claude Code would read; it is left alone."""

    code = UsageError.code
    exit_code = UsageError.exit_code


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
    return [path for path, settings in _read_scopes(environ) if _installed_events(settings)]


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
        return EVENTS
    try:
        with Path(found).open("rb") as program, mmap.mmap(program.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return (*EVENTS, *(event for event in LATER_EVENTS if text.find(event.encode()) >= 0))
    except (OSError, ValueError):
        return EVENTS


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
            after = merge(before, choice)
        except NotSettingsError as error:
            raise NotSettingsError(f"{error.message} in {path}", error.hint) from None
        changed = after != before and not dry_run
        # A client that rewrites the file in between must not lose what it wrote.
        if not changed or _replace(path, raw, after, keeps_backup=_has_ours(before)):
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
    has_line = _is_own(after.get("statusLine"))
    note = None
    if choice and choice.status_line and not has_line:
        note = f"statusLine in {path} is not a command, so it is left as it is"
    if choice and after.get(OFF) is True:
        note = f"{path} sets {OFF}, so no hook runs"
    return Merged("claude", outcome, dry_run, str(path), _installed_events(after), has_line, backup, note)


# -- the values -------------------------------------------------------------------------------------------------------


def merge(settings: dict[str, Any], choice: Choice | None) -> dict[str, Any]:
    """Return settings with our part as chosen, or without it; everything else stays, in its order.

    Raises NotSettingsError if the hooks in them are malformed.
    """
    merged = deepcopy(settings)
    wanted = _groups(choice) if choice else {}
    hooks = merged.get("hooks", {})
    if not isinstance(hooks, dict):
        raise NotSettingsError("`hooks` is not an object", MEND)
    for event in [*hooks, *(event for event in wanted if event not in hooks)]:
        groups = hooks.get(event, [])
        if not isinstance(groups, list):
            if event not in wanted:
                continue
            raise NotSettingsError(f"`hooks.{event}` is not a list", MEND)
        placed = _place(groups, wanted.get(event))
        if placed or event not in hooks or placed == groups:
            hooks[event] = placed
        else:
            del hooks[event]
    if hooks or "hooks" in settings:
        merged["hooks"] = hooks
    if not hooks and settings.get("hooks"):
        del merged["hooks"]
    _merge_status_line(merged, choice)
    return merged


def _groups(choice: Choice) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {event: {"hooks": [_hook(event, choice.words)]} for event in choice.events}
    if choice.guard:
        groups[GUARD] = {"matcher": TOOLS, "hooks": [_hook(GUARD, choice.words)]}
    return groups


def _hook(event: str, words: Sequence[str]) -> dict[str, Any]:
    more = {"async": True} if event == "SessionEnd" else {}
    return {"type": "command", "command": hook_command(event, words), "timeout": TIMEOUT_S, **more}


def hook_command(event: str, words: Sequence[str], script: Path = HERE / "hook.sh") -> str:
    """Return the line of shell that runs the hook. It succeeds without the program, and without the script."""
    file = shlex.quote(str(script))
    return f"trap 'exit 0' EXIT; set -- {shlex.join([event, *words])}; [ ! -r {file} ] || . {file}; exit 0"


def status_command(command: str, interval: str, words: Sequence[str]) -> str:
    """Return the line of shell that shows our status line before the user's own, which `command` prints."""
    file = shlex.quote(str(HERE / "statusline.sh"))
    given = shlex.join([command, interval, str(HERE), *words])
    return f'set -- {given}; [ ! -r {file} ] || . {file}; [ -z "$1" ] || exec /bin/sh -c "$1"'


def _place(groups: list[Any], wanted: dict[str, Any] | None) -> list[Any]:
    """Return the hooks of an event with ours in its old place, else at the end."""
    placed: list[Any] = []
    for group in groups:
        own = _own_hooks(group)
        if not own:
            placed.append(group)
            continue
        kept = [hook for hook in group["hooks"] if hook not in own]
        if kept:
            placed.append({**group, "hooks": kept})
        if wanted:
            # What its user has added to it stays.
            placed.append(group if not kept and own == wanted["hooks"] else wanted)
            wanted = None
    return [*placed, wanted] if wanted else placed


def _own_hooks(group: object) -> list[Any]:
    hooks = group.get("hooks") if isinstance(group, dict) else None
    return [hook for hook in hooks if _is_own(hook)] if isinstance(hooks, list) else []


def _is_own(hook: object) -> bool:
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and _OURS.match(command) is not None


def _installed_events(settings: Mapping[str, Any]) -> list[str]:
    hooks = settings.get("hooks")
    if not isinstance(hooks, dict):
        return []
    return [event for event, groups in hooks.items() if isinstance(groups, list) and any(map(_own_hooks, groups))]


def _has_ours(settings: Mapping[str, Any]) -> bool:
    return bool(_installed_events(settings)) or _is_own(settings.get("statusLine"))


def _merge_status_line(merged: dict[str, Any], choice: Choice | None) -> None:
    line = merged.get("statusLine", MISSING)
    if isinstance(line, dict) and _is_own(line):
        line = _without_ours(line)
    if choice and choice.status_line:
        line = _with_ours(line, choice.words)
    if line is MISSING:
        merged.pop("statusLine", None)
    else:
        merged["statusLine"] = line


def _with_ours(line: Any, words: Sequence[str]) -> Any:
    """Return our status line, which carries the user's own; one that is not a command stays as it is."""
    if line is MISSING or line is None:
        kept = "" if line is MISSING else json.dumps(None)
        return {"type": "command", "command": status_command("", kept, words), "refreshInterval": REFRESH_S}
    command = line.get("command") if isinstance(line, dict) and line.get("type") == "command" else None
    if not isinstance(command, str) or not command:
        return line
    interval = line.get("refreshInterval", MISSING)
    often = isinstance(interval, (int, float)) and not isinstance(interval, bool) and 0 < interval <= REFRESH_S
    kept = "" if interval is MISSING else json.dumps(interval)
    chained = status_command(command, kept, words)
    return {**line, "command": chained, "refreshInterval": interval if often else REFRESH_S}


def _without_ours(line: dict[str, Any]) -> Any:
    """Return the user's own status line, which ours carries."""
    try:
        _, _, command, kept, *_ = shlex.split(line["command"])
        interval = json.loads(kept) if kept else MISSING
    except ValueError:
        return MISSING
    if not command:
        return interval
    mine = {**line, "command": command}
    if interval is MISSING:
        mine.pop("refreshInterval", None)
    else:
        mine["refreshInterval"] = interval
    return mine


# -- the file ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """Return the settings in a file and its bytes, None without a file. Raises NotSettingsError."""
    try:
        raw = files.read(path)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise NotSettingsError(f"cannot read {path}: {error.strerror}", MEND) from None
    try:
        settings = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_float
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) and str(error).isprintable() else "it is too deep"
        raise NotSettingsError(
            f"{path} is not JSON: {reason[:120]}", "mend it, or move it away; nothing was changed"
        ) from None
    if not isinstance(settings, dict):
        raise NotSettingsError(f"{path} is not a JSON object", "mend it, or move it away; nothing was changed")
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
    return HERE / "plugin"


def describe(choice: Choice) -> dict[str, str]:
    """Return the command of each entry that would be written, by its name."""
    commands = {event: str(group["hooks"][0]["command"]) for event, group in _groups(choice).items()}
    line = {"statusLine": status_command("", "", choice.words)} if choice.status_line else {}
    return {**commands, **line}
