"""What we enter into Claude Code's settings: the hooks and the status line, merged with what others have there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_sessions_cli.errors import SessionsError, UsageError

HERE = Path(__file__).parent
# Seconds. The client waits for SessionStart; the one at the end delays the exit no longer than a process start.
TIMEOUT_S = 5
REFRESH_S = 30
TOOLS = "Edit|Write|NotebookEdit|Bash"
# Every client with hooks knows these; an unknown event opens a dialog at each of its starts.
EVENTS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SubagentStop", "Notification", "SessionEnd")
LATER_EVENTS = ("PostToolUseFailure", "CwdChanged")
GUARD = "PreToolUse"
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


class NotSettingsError(SessionsError):
    """The settings are not what Claude Code would read; the file is left alone."""

    code = UsageError.code
    exit_code = UsageError.exit_code


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
    return [hook for hook in hooks if is_own(hook)] if isinstance(hooks, list) else []


def is_own(hook: object) -> bool:
    """Whether a hook or a status line runs one of our scripts."""
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and _OURS.match(command) is not None


def installed_events(settings: Mapping[str, Any]) -> list[str]:
    """Return the events that have a hook of ours."""
    hooks = settings.get("hooks")
    if not isinstance(hooks, dict):
        return []
    return [event for event, groups in hooks.items() if isinstance(groups, list) and any(map(_own_hooks, groups))]


def has_ours(settings: Mapping[str, Any]) -> bool:
    """Whether anything of ours is in the settings."""
    return bool(installed_events(settings)) or is_own(settings.get("statusLine"))


def _merge_status_line(merged: dict[str, Any], choice: Choice | None) -> None:
    line = merged.get("statusLine", MISSING)
    if isinstance(line, dict) and is_own(line):
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


def describe(choice: Choice) -> dict[str, str]:
    """Return the command of each entry that would be written, by its name."""
    commands = {event: str(group["hooks"][0]["command"]) for event, group in _groups(choice).items()}
    line = {"statusLine": status_command("", "", choice.words)} if choice.status_line else {}
    return {**commands, **line}
