#!/usr/bin/env python3
"""A hook that writes down what a Claude Code client tells it. Standard library only.

    record_hook.py --out records.jsonl [--answers answers.json] [--label NAME]      the hook itself
    record_hook.py --settings --command 'python3 -I record_hook.py --out F'         print a settings.json for all events

Appends one JSON line for each call: the event, the whole of stdin, the variables that begin with CLAUDE, and where it
runs: its ancestors with their terminals, its streams, its directory, the time. `answers.json` says how to answer an
event (or `EVENT/LABEL`): {"SessionStart": {"stdout": "...", "stderr": "...", "exit": 2, "sleep": 5, "env_file": "export
X=1\\n"}}.
Ancestors are listed up to two above the client, and only the same user's, so little of the machine around the test is
recorded; values of variables that look like secrets are hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

EVENTS = (
    *("PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification", "UserPromptSubmit"),
    *("UserPromptExpansion", "SessionStart", "SessionEnd", "Stop", "StopFailure", "SubagentStart", "SubagentStop"),
    *("PreCompact", "PostCompact", "PreModelSwitch", "PostModelSwitch", "PermissionRequest", "PermissionDenied"),
    *("Setup", "TeammateIdle", "TaskCreated", "TaskCompleted", "Elicitation", "ElicitationResult", "ConfigChange"),
    *("WorktreeCreate", "WorktreeRemove", "InstructionsLoaded", "CwdChanged", "FileChanged", "DirectoryAdded"),
    *("MessageDisplay", "PreSkillShellCommand"),
)
# A hook of these replaces what the client itself would do, so a silent recorder there breaks the feature.
REPLACING = {"WorktreeCreate", "WorktreeRemove"}
ABOVE_CLIENT = 2


def stat(pid: int) -> tuple[str, list[str]]:
    """Return a process's name and the fields of /proc/PID/stat that follow it (state first)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()


def tty_name(device: int) -> str | None:
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    if device == 0:
        return None
    return f"/dev/pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else f"{major}:{minor}"


def lineage() -> list[dict[str, Any]]:
    """Return this process and its ancestors of the same user, nearest first."""
    chain: list[dict[str, Any]] = []
    pid, left = os.getpid(), None
    while pid > 1 and left != 0:
        left = ABOVE_CLIENT if str(pid) == os.environ.get("CLAUDE_PID") else left and left - 1
        try:
            if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
                break
            name, fields = stat(pid)
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        except OSError:
            break
        chain.append(
            {
                "pid": pid,
                "comm": name,
                "argv0": argv[0],
                "args": " ".join(argv[1:])[:200],
                "pgrp": int(fields[2]),
                "session": int(fields[3]),
                "tty": tty_name(int(fields[4])),
                "start": fields[19],
            }
        )
        pid = int(fields[1])
    return chain


def visible(name: str, value: str) -> str:
    """Return the value of a variable, unless its name says that it is a secret."""
    return "(hidden)" if name.endswith(("TOKEN", "KEY", "SECRET")) else value


def has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def settings(command: str) -> dict[str, Any]:
    """Return settings that call `command` for every event, tools of every name included."""
    watched = [event for event in EVENTS if event not in REPLACING]
    return {"hooks": {event: [{"hooks": [{"type": "command", "command": command}]}] for event in watched}}


def main() -> int:
    parser = argparse.ArgumentParser(description="Record what a Claude Code client tells a hook.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--label", default="")
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--command", default="")
    options = parser.parse_args()
    if options.settings:
        print(json.dumps(settings(options.command), indent=2))
        return 0

    began = time.time()
    raw = sys.stdin.buffer.read()
    try:
        told = json.loads(raw)
    except ValueError:
        told = {"unparsed": raw.decode(errors="replace")}
    event = told.get("hook_event_name", "?")
    entry = {
        "at": began,
        "event": event,
        "label": options.label,
        "stdin": told,
        "env": {name: visible(name, value) for name, value in sorted(os.environ.items()) if name.startswith("CLAUDE")},
        "lineage": lineage(),
        "streams_are_ttys": [os.isatty(fd) for fd in (0, 1, 2)],
        "opens_dev_tty": has_terminal(),
        "cwd": str(Path.cwd()),
    }
    write(options.out, entry)

    answers = json.loads(options.answers.read_text()) if options.answers and options.answers.exists() else {}
    answer = answers.get(f"{event}/{options.label}") or answers.get(event) or {}
    if answer.get("env_file") and os.environ.get("CLAUDE_ENV_FILE"):
        with Path(os.environ["CLAUDE_ENV_FILE"]).open("a") as env_file:
            env_file.write(answer["env_file"])
    if answer.get("sleep"):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda got, _: write(options.out, {"at": time.time(), "event": event, "signal": got}))
        deadline = time.monotonic() + answer["sleep"]
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            if answer.get("tick"):
                write(options.out, {"at": time.time(), "event": event, "tick": True, "ppid": os.getppid()})
        write(options.out, {"at": time.time(), "event": event, "label": options.label, "slept": answer["sleep"]})
    try:
        sys.stdout.write(answer.get("stdout", ""))
        sys.stderr.write(answer.get("stderr", ""))
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    return int(answer.get("exit", 0))


def write(out: Path, entry: dict[str, Any]) -> None:
    with out.open("a") as records:
        records.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
