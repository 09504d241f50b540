"""A line in this user's crontab. Foreign lines stay byte for byte."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.errors import SessionsError, UsageError
from claude_sessions_cli.timers.job import Job, TimerResult, Write

HELP = "Add a line to this user's crontab"
PLATFORM: str | None = None
DAEMONS = ("cron", "crond", "fcron", "bcron-sched", "dcron")
# systemd-cron has no daemon: it makes timers of crontabs.
GENERATORS = tuple(f"{lib}/systemd/system-generators/systemd-crontab-generator" for lib in ("usr/lib", "lib"))
BEGIN, END = "# >>> claude-sessions >>>", "# <<< claude-sessions <<<"
LINE_LIMIT = 990
ANOTHER = "use another timer: claude-sessions install systemd"
SAFE = re.compile(r"[\w@+=:,./%-]+", re.ASCII)
UNSAFE = re.compile(r"""[$`"'!\\]""")
SPELLINGS = {"'": '$(printf "\\047")', "!": '$(printf "\\041")', "\\": '$(printf "\\134")'}


def install(job: Job, environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Install the line, or update it."""
    return _change(_block(job), dry_run)


def remove(environ: Mapping[str, str], *, dry_run: bool) -> TimerResult:
    """Remove the line."""
    return _change(None, dry_run)


def cron_line(job: Job) -> str:
    """Return the line of the crontab; raises UsageError if it is too long for cron.

    cron ends the command at an unescaped percent sign. A crontab may name any SHELL for its lines, whose words for a
    variable and a redirection differ: so the line calls sh, with one word that all shells read alike. The program opens
    its log itself: a redirection to a directory that is gone would keep the command from running, and one that works
    would grow after the program is uninstalled.
    """
    words = [f"{name}={_quote(value)}" for name, value in job.variables.items()]
    words += [*map(_quote, job.words), "--log", ">/dev/null", "2>&1"]
    line = f"* * * * * /bin/sh -c '{' '.join(words)}'".replace("%", "\\%")
    if len(os.fsencode(line)) > LINE_LIMIT:
        raise UsageError("the paths are too long for a line of a crontab", ANOTHER)
    return line


def _quote(text: str) -> str:
    """Return a word of sh that may stand between single quotes of sh, csh and fish.

    There, csh reads an exclamation mark, and fish a backslash before another one or a quote.
    """
    if SAFE.fullmatch(text):
        return text
    return '"' + UNSAFE.sub(lambda found: SPELLINGS.get(found[0]) or f"\\{found[0]}", text) + '"'


def _block(job: Job) -> str:
    return f"{BEGIN}\n# Each minute: {job.work}. Log: {job.log}\n{cron_line(job)}\n{END}\n"


def _change(block: str | None, dry_run: bool) -> TimerResult:
    before = _read()
    after = edit(before, block)
    if block is None:
        outcome = "removed" if BEGIN.encode() in before else "not_installed"
    else:
        outcome = "already_installed" if after == before else "installed"
    if after != before and not dry_run:
        _write(after)
    user = files.account_name(os.geteuid())
    writes = [Write(f"the crontab of {user}", block or "")]
    if block is None or daemon_runs() is not False:
        return TimerResult("cron", outcome, dry_run, writes)
    note = "no cron daemon is running on this machine, so nothing runs the timer: start one, or use another timer"
    return TimerResult("cron", outcome, dry_run, writes, note, runs=False)


def daemon_runs(system: Path = Path("/")) -> bool | None:
    """Return whether a cron daemon runs; None if that cannot be seen."""
    processes = system / "proc"
    try:
        (processes / "1/comm").read_bytes()
        numbers = [process for process in processes.iterdir() if process.name.isdigit()]
    except OSError:
        # No Linux, or the processes of others are hidden. On macOS, launchd starts cron for the first crontab.
        return None
    if (system / "run/systemd/system").is_dir() and any((system / path).exists() for path in GENERATORS):
        return True
    return any(map(_is_daemon, numbers))


def _is_daemon(process: Path) -> bool:
    try:
        name = (process / "comm").read_text(errors="replace").strip()
        words = (process / "cmdline").read_bytes().split(b"\0") if name == "busybox" else []
    except OSError:
        return False
    return name in DAEMONS or b"crond" in words[1:2]


def edit(before: bytes, block: str | None) -> bytes:
    """Return a crontab with `block` as our only block, or with none; raises SessionsError if markers do not pair."""
    lines = before.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.strip() in (BEGIN.encode(), END.encode())]
    kinds = [lines[number].strip().decode() for number in marks]
    if kinds != [BEGIN, END] * (len(kinds) // 2):
        raise SessionsError(
            "the crontab's claude-sessions markers do not pair, so nothing was changed",
            f"repair them with crontab -e: a block begins with {BEGIN} and ends with {END}",
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


def _read() -> bytes:
    """Return this user's crontab, empty if there is none; raises SessionsError if it cannot be read."""
    done = _crontab(["-l"], check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return done.stdout
    # After any other error, writing could replace a crontab that was not read.
    if "no crontab for" in said or "No such file" in said:
        return b""
    raise SessionsError(f"cannot read the crontab: {said or f'crontab -l exits {done.returncode}'}", ANOTHER)


def _write(text: bytes) -> None:
    """Replace this user's crontab; remove it if empty."""
    _crontab(["-"] if text else ["-r"], text)


def _crontab(words: list[str], text: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("crontab")
    if program is None:
        raise SessionsError("the program crontab is missing", f"install cron, or {ANOTHER}")
    done = subprocess.run([program, *words], input=text, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if check and done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise SessionsError(f"cannot write the crontab: {said or f'crontab exits {done.returncode}'}", ANOTHER)
    return done
