"""Write the manual page, `claude-sessions.1`, from the commands' help and the topics."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from claude_sessions_cli import cli, manual

PAGE = Path(__file__).with_name("claude-sessions.1")


def generate() -> str:
    """Return the page as roff."""
    root: Any = get_command(cli.app)
    lines = [
        '.TH CLAUDE-SESSIONS 1 "" "claude-sessions" "User Commands"',
        ".SH NAME",
        r"claude-sessions \- claim work items, so that no two sessions work on the same one",
        ".SH SYNOPSIS",
        r".B claude-sessions",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH COMMANDS",
    ]
    for section, names in manual.SECTIONS.items():
        lines.append(f".SS {_text(section)}")
        for name in names:
            command = root.get_command(None, name)
            for path, one in _walk(name, command):
                lines += _command(path, one)
    for name in manual.topics():
        head, _, body = manual.topic(name).partition("\n")
        lines += [
            f".SH {name.replace('-', ' ').upper()}",
            _text(head),
            ".PP",
            ".nf",
            *map(_line, body.split("\n")),
            ".fi",
        ]
    return "\n".join(lines) + "\n"


def _walk(path: str, command: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [(f"{path} {name}", one) for name, one in command.commands.items()]


def _command(path: str, command: Any) -> list[str]:
    arguments = [one.metavar for one in command.params if one.param_type_name == "argument"]
    lines = [".TP", f".B {_text(' '.join(['claude-sessions', path, *arguments]))}"]
    lines += [_text(re.sub(r"\s+", " ", part)) + "\n.br" for part in inspect.cleandoc(command.help or "").split("\n\n")]
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden and option.name != "help":
            names = ", ".join((*option.opts, *option.secondary_opts))
            value = f" {option.metavar}" if option.metavar else ""
            lines += [".RS", ".TP", f".B {_text(names + value)}", _text(option.help or ""), ".RE"]
    page = manual.PAGES.get(path, manual.Page())
    if page.examples:
        lines += [
            ".RS",
            ".PP",
            ".nf",
            *(_line(f"$ claude-sessions {example}") for example in page.examples),
            ".fi",
            ".RE",
        ]
    return lines


def _line(text: str) -> str:
    """Return a line that is shown as it is."""
    return r"\&" + _text(text)


def _text(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    PAGE.write_text(generate(), encoding="utf-8")
