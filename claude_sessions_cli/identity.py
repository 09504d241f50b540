"""Who am I: which session this command belongs to, and which process that session is.

Every rule is written down with its value, so that `whoami --explain` and the error of a command without an identity can
show why a session was or was not found. Nothing guesses: a rule holds or it does not.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claude_sessions_cli import __version__, process
from claude_sessions_cli.errors import NoIdentity, UsageError
from claude_sessions_cli.process import Host, Process

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
NIL_UUID = "00000000-0000-0000-0000-000000000000"
TTY = re.compile(r"/dev/[A-Za-z0-9/._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of identity: what it looked at, what it found, whether it won, and why if it did not."""

    rule: str
    value: str | None
    used: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """The session of this command. `anchor` is None where the session's process cannot be seen from here."""

    session_id: str | None
    anchor: Process | None
    tty: str | None
    codebase: str
    cwd: str
    branch: str | None
    host: Host
    rules: list[Rule] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """The anchor's pid."""
        return self.anchor.pid if self.anchor else None

    @property
    def process_record(self) -> dict[str, Any] | None:
        """What the row keeps to prove later that this process lives; None without an anchor."""
        if self.anchor is None:
            return None
        return {
            "pid": self.anchor.pid,
            "start": self.anchor.start,
            "boot_id": self.host.boot_id,
            "pid_ns": self.host.pid_ns,
        }

    def own_metadata(self) -> dict[str, Any]:
        """Return the tool's part of the row's metadata, without what this command cannot see."""
        part = {
            "process": self.process_record,
            "cwd": self.cwd,
            "branch": self.branch,
            "host_os": platform.system().lower(),
            "cli": __version__,
        }
        return {key: value for key, value in part.items() if value is not None}


def check_session_id(value: str, source: str) -> str:
    """Return a well-formed session id, or raise UsageError naming the source."""
    if value == NIL_UUID:
        raise UsageError(f"{source} is the nil UUID, which is no session")
    if not SESSION_ID.fullmatch(value):
        raise UsageError(
            f"{source} is not a session id: {shorten(value)}",
            "a session id is 1 to 128 of A-Z a-z 0-9 . _ : - and begins with a letter or digit",
        )
    return value


def detect(
    environ: Mapping[str, str],
    *,
    session: str | None = None,
    pid: int | None = None,
    tty: str | None = None,
    lineage: list[Process] | None = None,
) -> Identity:
    """Find out which session this command belongs to.

    `session`, `pid` and `tty` are what the command line says; `lineage` are this process and its ancestors, nearest
    first. Raises UsageError where a given value is wrong; an identity that was not found has no `session_id`.
    """
    if lineage is None:
        lineage = [process.read(os.getpid()), *process.ancestors(os.getpid())]
    host = process.this_host()
    exported = _exported_anchor(environ, lineage, host)
    anchor, anchor_rules = _find_anchor(environ, lineage, pid, exported)
    session_id, id_rules = _find_session_id(environ, lineage, session, anchor, host, exported)
    if tty is not None and not TTY.fullmatch(tty):
        raise UsageError(f"--tty is not a terminal: {shorten(tty)}", "a terminal is named like /dev/pts/3")
    cwd = Path.cwd()
    codebase, branch = describe_directory(cwd)
    return Identity(
        session_id=session_id,
        anchor=anchor,
        tty=tty or (anchor.tty if anchor else None),
        codebase=codebase,
        cwd=str(cwd),
        branch=branch,
        host=host,
        rules=[*id_rules, *anchor_rules],
    )


def require(identity: Identity) -> str:
    """Return the session id, or raise NoIdentity that says which rules failed."""
    if identity.session_id is None:
        failed = "; ".join(f"{rule.rule}: {rule.why}" for rule in identity.rules if not rule.used and rule.why)
        raise NoIdentity(
            f"no session: {failed}",
            "run it in a terminal, or say which session with --session ID or CLAUDE_SESSIONS_SESSION_ID",
        )
    return identity.session_id


@dataclass(frozen=True, slots=True)
class _ExportedAnchor:
    """What CLAUDE_SESSIONS_ANCHOR says of an id that the tool itself exported."""

    counts: bool
    anchor: Process | None
    why: str = ""


def _exported_anchor(environ: Mapping[str, str], lineage: list[Process], host: Host) -> _ExportedAnchor | None:
    value = environ.get("CLAUDE_SESSIONS_ANCHOR")
    if not value:
        return None
    # The namespace holds a colon itself: pid:[4026531836].
    namespace, pid, start = ([*value.rsplit(" ", 2), "", ""])[:3]
    if namespace != host.pid_ns:
        return _ExportedAnchor(True, None)
    for ancestor in lineage[1:]:
        if (str(ancestor.pid), ancestor.start) == (pid, start):
            nearest = next((seen for seen in lineage[1:] if seen.is_claude), None)
            if ancestor.is_claude and nearest is not ancestor:
                return _ExportedAnchor(False, None, "it belongs to an agent that started this one")
            return _ExportedAnchor(True, ancestor)
    return _ExportedAnchor(False, None, "its process (CLAUDE_SESSIONS_ANCHOR) is not an ancestor of this command")


def _find_anchor(
    environ: Mapping[str, str], lineage: list[Process], pid: int | None, exported: _ExportedAnchor | None
) -> tuple[Process | None, list[Rule]]:
    parents = lineage[1:]
    by_pid = {parent.pid: parent for parent in parents}
    found: list[tuple[str, Process | None, str]] = []

    if pid is not None:
        found.append(("--pid", _given_process(pid), ""))
    if exported and environ.get("CLAUDE_SESSIONS_SESSION_ID"):
        found.append(("CLAUDE_SESSIONS_ANCHOR", exported.anchor, exported.why or "in another pid namespace"))

    agent = next((parent for parent in parents if parent.is_claude), None)
    claude_pid = environ.get("CLAUDE_PID", "")
    if claude_pid.isdecimal() and int(claude_pid) in by_pid:
        agent = by_pid[int(claude_pid)]
    found.append(("claude process", agent, "no ancestor is a claude process"))

    hook, why = _hooked_shell(environ.get("CLAUDE_SESSIONS_SHELL", ""), by_pid)
    found.append(("CLAUDE_SESSIONS_SHELL", hook, why))

    shell = _terminal_shell(lineage)
    why = "this command has no terminal" if lineage[0].tty is None else "no interactive shell runs in this terminal"
    found.append(("terminal", shell, why))

    winner = next((anchor for _, anchor, _ in found if anchor), None)
    rules: list[Rule] = []
    for name, anchor, why in found:
        value = f"{anchor.program} (pid {anchor.pid})" if anchor else None
        used = anchor is not None and anchor is winner and not any(rule.used for rule in rules)
        rules.append(Rule(f"anchor: {name}", value, used, "" if anchor else why))
    return winner, rules


def _given_process(pid: int) -> Process:
    try:
        return process.read(pid)
    except ProcessLookupError:
        raise UsageError(f"--pid {pid}: no such process") from None
    except PermissionError:
        raise UsageError(f"--pid {pid}: that process is hidden from this user") from None


def _hooked_shell(value: str, by_pid: Mapping[int, Process]) -> tuple[Process | None, str]:
    if not value:
        return None, "the shell hook is not installed here"
    _, pid, start = ([*value.split(":", 2), "", ""])[:3]
    shell = by_pid.get(int(pid)) if pid.isdecimal() else None
    if shell is None or (start and shell.start != start):
        return None, "its process is not an ancestor of this command"
    return shell, ""


def _terminal_shell(lineage: list[Process]) -> Process | None:
    """Return the outermost interactive shell of this window.

    sudo and script open a terminal of their own inside the window, so the walk goes on through them; a tmux server or a
    terminal emulator, even one that was started from another terminal, ends it.
    """
    terminal, outermost = lineage[0].tty, None
    for index, parent in enumerate(lineage[1:]):
        if terminal is None:
            break
        if parent.tty != terminal:
            # The parent has another terminal: it, or the child just passed, must be such a relay.
            if not (parent.is_relay or lineage[index].is_relay):
                break
            terminal = parent.tty
        if parent.is_interactive_shell:
            outermost = parent
    return outermost


def _find_session_id(
    environ: Mapping[str, str],
    lineage: list[Process],
    given: str | None,
    anchor: Process | None,
    host: Host,
    exported: _ExportedAnchor | None,
) -> tuple[str | None, list[Rule]]:
    candidates: list[tuple[str, str | None, str]] = []

    candidates.append(("--session", given, "not given"))

    own, why = environ.get("CLAUDE_SESSIONS_SESSION_ID") or None, "not set"
    if own and exported and not exported.counts:
        own, why = None, exported.why
    candidates.append(("CLAUDE_SESSIONS_SESSION_ID", own, why))

    agent, why = environ.get("CLAUDE_CODE_SESSION_ID") or None, "not set"
    if agent and lineage[0].tty and not any(parent.is_claude for parent in lineage[1:]):
        agent, why = None, "set, but this terminal is not below a claude process"
    candidates.append(("CLAUDE_CODE_SESSION_ID", agent, why))

    derived = derive_session_id(anchor, host) if anchor else None
    why = "no shell of a terminal" if lineage[0].tty else "no terminal"
    candidates.append(("derived from the anchor", derived, why))

    winner: str | None = None
    rules = []
    for name, value, why in candidates:
        used = value is not None and winner is None
        if used and value is not None:
            winner = check_session_id(value, name)
        rules.append(Rule(f"session: {name}", value, used, "" if value else why))
    return winner, rules


def derive_session_id(anchor: Process, host: Host) -> str:
    """Return `session_<8 hex>_<tty>_<pid>`: the same as long as this very process lives, and never again after."""
    identity = f"{host.boot_id}\n{host.pid_ns}\n{anchor.pid}\n{anchor.start}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    tty = re.sub(r"[^A-Za-z0-9]", "", (anchor.tty or "notty").removeprefix("/dev/"))
    return f"session_{digest}_{tty}_{anchor.pid}"


def describe_directory(directory: Path) -> tuple[str, str | None]:
    """Return the codebase and the branch of a directory.

    The codebase is the name of the git repository's main worktree, also inside a linked worktree, else the directory's
    own name. Git's files are read as gitrepository-layout(5) has them; no git needs to be installed.
    """
    for parent in (directory, *directory.parents):
        dot_git = parent / ".git"
        try:
            if dot_git.is_dir():
                return parent.name, _branch(dot_git)
            if dot_git.is_file():
                git_dir = parent / dot_git.read_text().removeprefix("gitdir:").strip()
                return _worktree_owner(git_dir) or parent.name, _branch(git_dir)
        except (OSError, UnicodeDecodeError):
            break
    return directory.name or "/", None


def _worktree_owner(git_dir: Path) -> str | None:
    # Only a linked worktree has a commondir; a submodule's .git file leads to a whole repository.
    common = git_dir / "commondir"
    if not common.exists():
        return None
    owner = (git_dir / common.read_text().strip()).resolve()
    return owner.parent.name if owner.name == ".git" else owner.name.removesuffix(".git")


def _branch(git_dir: Path) -> str | None:
    head = git_dir / "HEAD"
    text = head.read_text().strip() if head.exists() else ""
    return text.removeprefix("ref: refs/heads/") if text.startswith("ref: refs/heads/") else None


def shorten(value: str, limit: int = 60) -> str:
    """Return a wrong value fit for one line: control characters escaped, the end cut."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 4] + "...'"
