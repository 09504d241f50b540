"""The lines of this tool in the files that shells run at their start."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.errors import SessionsError

_LINE = re.compile(
    r"^(?!\s*#).*claude-sessions[\"']?\s+(?:shell-init|completion|--show-completion)\b.*\n?", re.MULTILINE
)
_COMPLETION = re.compile(r"^(?!\s*#).*claude-sessions[\"']?\s+(?:completion|--show-completion)\b", re.MULTILINE)
# What --install-completion adds for bash.
_SOURCE = re.compile(r"(?:^\n)?^source '.*/\.bash_completions/claude-sessions\.sh'\n?", re.MULTILINE)
# The same for zsh.
_FPATH = re.compile(
    r"^fpath\+=~/\.zfunc; autoload -Uz compinit; compinit\n(?:\nzstyle ':completion:\*' menu select\n)?", re.MULTILINE
)


def paths(environ: Mapping[str, str], home: Path) -> dict[Path, str]:
    """Return the files that may hold such lines, each with its shell."""
    zsh = Path(environ.get("ZDOTDIR") or home)
    fish = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish"
    found = {home / name: "bash" for name in (".bashrc", ".bash_profile", ".bash_login", ".profile")}
    found |= {zsh / name: "zsh" for name in (".zshrc", ".zprofile", ".zshenv")}
    return found | dict.fromkeys((fish / "config.fish", *sorted(fish.glob("conf.d/*.fish"))), "fish")


def without_lines(text: str, *, completion_is_last: bool = False) -> str:
    """Return the text of such a file without this tool's lines.

    With `completion_is_last`, without the lines that look into ~/.zfunc either.
    """
    text = _LINE.sub("", _SOURCE.sub("", text))
    return _FPATH.sub("", text) if completion_is_last else text


def has_lines(path: Path, *, completion_is_last: bool) -> bool:
    """Whether a file has lines of this tool; a file that cannot be read has none."""
    try:
        text = _read(path)
        return without_lines(text, completion_is_last=completion_is_last) != text
    except OSError:
        return False


def remove_lines(path: Path, shell: str, *, completion_is_last: bool, dry_run: bool) -> None:
    """Take this tool's lines out of a file; delete it if it is empty then.

    Raises OSError, SessionsError if the shell could not read the rest.
    """
    text = _read(path)
    after = without_lines(text, completion_is_last=completion_is_last)
    if _is_valid(shell, text) and not _is_valid(shell, after):
        raise SessionsError(f"without them, {shell} cannot parse the file", "remove the lines by hand")
    if dry_run:
        return
    if not after.strip():
        path.unlink()
        return
    # A link to a repository of settings stays.
    target = path.resolve()
    files.write(target, after.encode(errors="surrogateescape"), stat.S_IMODE(target.stat().st_mode))


def _read(path: Path) -> str:
    return files.read(path).decode(errors="surrogateescape")


def _is_valid(shell: str, text: str) -> bool:
    if not shutil.which(shell):
        return True
    done = subprocess.run([shell, "-n"], input=text.encode(errors="surrogateescape"), capture_output=True)
    return done.returncode == 0


def completed_shells(environ: Mapping[str, str], home: Path) -> list[str]:
    """Return the shells whose words are completed: by a file of --install-completion, or a line of a start-up file."""
    found = []
    for shell, path in completion_files(home).items():
        with suppress(OSError):  # a home that is closed to this account
            found += [shell] if path.exists() else []
    for path, shell in paths(environ, home).items():
        with suppress(OSError):
            if _COMPLETION.search(_read(path)):
                found.append(shell)
    return sorted(set(found))


def completion_files(home: Path) -> dict[str, Path]:
    """Return the files that --install-completion writes, by shell."""
    return {
        "bash": home / ".bash_completions" / "claude-sessions.sh",
        "zsh": home / ".zfunc" / "_claude-sessions",
        "fish": home / ".config" / "fish" / "completions" / "claude-sessions.fish",
    }
