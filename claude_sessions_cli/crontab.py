"""This user's crontab: read, written, and a block of ours edited in it, with every foreign line left as it is."""

from __future__ import annotations

import os
import shutil
import subprocess

from claude_sessions_cli.errors import SessionsError

BEGIN, END = "# >>> claude-sessions >>>", "# <<< claude-sessions <<<"


def edit(before: bytes, block: str | None) -> bytes:
    """Return a crontab with `block` in the place of the earlier one, or without any; foreign lines stay as they are."""
    lines = before.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.strip() in (BEGIN.encode(), END.encode())]
    kinds = [lines[number].strip().decode() for number in marks]
    if kinds != [BEGIN, END] * (len(kinds) // 2):
        raise SessionsError(
            "the crontab's claude-sessions markers do not pair, so nothing was changed",
            "put them in order with crontab -e: what is theirs begins with >>> and ends with <<<",
        )
    new = [] if block is None else [os.fsencode(block)]
    after: list[bytes] = []
    position = 0
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        after += [*lines[position:begin], *new]
        new, position = [], end + 1
    after += lines[position:]
    if new and after and not after[-1].endswith(b"\n"):
        after.append(b"\n")
    return b"".join([*after, *new])


def read() -> bytes:
    """Return this user's crontab, empty where there is none; raises SessionsError where it cannot be read."""
    done = _crontab(["-l"], check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return done.stdout
    # Anything else might be a crontab that could not be read, and would be lost.
    if "no crontab for" in said or "No such file" in said:
        return b""
    raise SessionsError(f"cannot read the crontab: {said or f'crontab -l exits {done.returncode}'}")


def write(text: bytes) -> None:
    """Replace this user's crontab; an empty one is none."""
    _crontab(["-"] if text else ["-r"], text)


def _crontab(words: list[str], text: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("crontab")
    if program is None:
        raise SessionsError("there is no crontab program here", "install cron, or use another timer: install systemd")
    done = subprocess.run([program, *words], input=text, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if check and done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise SessionsError(f"cannot write the crontab: {said or f'crontab exits {done.returncode}'}")
    return done
