"""Who am I: which session this command belongs to, and which process that session is.

Every rule records its value, so that `whoami --explain` and the error of a command without an identity can show why a
session was or was not found. Nothing guesses: a rule holds or it does not.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from claude_sessions_cli import __version__, process
from claude_sessions_cli.codebase import describe_directory
from claude_sessions_cli.errors import NoIdentity, UsageError
from claude_sessions_cli.liveness import Host, this_host
from claude_sessions_cli.names import check_session_id
from claude_sessions_cli.process import Process
from claude_sessions_cli.text import shorten, valid_utf8

TTY = re.compile(r"/dev/[A-Za-z0-9/._-]{1,64}")
OWN_ID = "CLAUDE_SESSIONS_SESSION_ID"
AGENT_ID = "CLAUDE_CODE_SESSION_ID"
AGENT_PID = "CLAUDE_PID"
ANCHOR = "CLAUDE_SESSIONS_ANCHOR"
RUN_FENCE = "CLAUDE_SESSIONS_FENCE"
NOT_SET = "not set"
NOT_GIVEN = "not given"
DERIVED = "derived from the anchor"
# What `id_from` calls the rules.
OPTION = "option"
HOOK_INPUT = "hook input"
EXPORTED = "exported"
NAME_PROCESS = "name a process of your own that lives, or leave it out"
T = TypeVar("T")


class Agent(NamedTuple):
    """An agent that tells its commands its own id, in a variable, and perhaps its process, in another.

    Its process is that one, if it is above the command, else the nearest of its `programs`. The id counts below its
    process, or without a terminal.
    """

    name: str
    id_variable: str
    programs: tuple[str, ...]
    pid_variable: str | None = None


# Beside Claude Code, whose process has more names. A new agent is a line here.
OTHER_AGENTS = (
    Agent("codex", "CODEX_THREAD_ID", ("codex",)),
    Agent("opencode", "OPENCODE_RUN_ID", ("opencode",), "OPENCODE_PID"),
    Agent("pi", "PI_SESSION_ID", ("pi",)),
)
ID_VARIABLES = (OWN_ID, AGENT_ID, *(agent.id_variable for agent in OTHER_AGENTS))
ID_FROM = {
    "--session": OPTION,
    OWN_ID: "environment",
    HOOK_INPUT: "hook",
    AGENT_ID: "claude_code",
    **{agent.id_variable: agent.name for agent in OTHER_AGENTS},
    DERIVED: "derived",
}


class Rule(NamedTuple):
    """One rule of identity: its name and value, whether it won, and why not."""

    rule: str
    value: str | None
    used: bool
    why: str = ""


class Identity(NamedTuple):
    """The session of this command. `anchor` is None if the session's process is not visible from here.

    `id_from` is the rule that gave the id: `option`, `exported`, `environment`, `hook`, an agent's name, such as
    `claude_code`, or `derived`. `agent` is the live process that CLAUDE_PID names, if there is no anchor. `run_fence`
    is the fence of the term that a `run` around this command holds.
    """

    session_id: str | None
    anchor: Process | None
    tty: str | None
    codebase: str | None
    cwd: str | None
    branch: str | None
    host: Host
    rules: Sequence[Rule] = ()
    id_from: str | None = None
    agent: Process | None = None
    run_fence: int | None = None

    @property
    def pid(self) -> int | None:
        """The anchor's pid."""
        return self.anchor.pid if self.anchor else None

    @property
    def process_record(self) -> dict[str, Any] | None:
        """What the row records to prove later that this process lives; None without an anchor."""
        return self._record(self.anchor) if self.anchor else None

    @property
    def known_process(self) -> dict[str, Any] | None:
        """The caller's process, to compare with a recorded one: the anchor, else the live one that CLAUDE_PID names."""
        known = self.anchor or self.agent
        return self._record(known) if known else None

    @property
    def known_tty(self) -> str | None:
        """The terminal of the caller's process; its commands may have left it."""
        return self.tty or (self.agent.tty if self.agent else None)

    def _record(self, found: Process) -> dict[str, Any]:
        record = {
            "pid": found.pid,
            "start": found.start,
            "boot_id": self.host.boot_id,
            "pid_ns": self.host.pid_ns,
        }
        return {**record, "machine_id": self.host.machine_id} if self.host.machine_id else record

    def own_metadata(self) -> dict[str, Any]:
        """Return the tool's part of the row's metadata, without values that this command cannot see."""
        part = {
            "process": self.process_record,
            # An exported id belongs to the session that exported it, whose row says where it came from.
            "id_from": None if self.id_from == EXPORTED else self.id_from,
            "cwd": self.cwd,
            "branch": self.branch,
            "host_os": platform.system().lower(),
            "cli": __version__,
        }
        return {key: value for key, value in part.items() if value is not None}


def detect(
    environ: Mapping[str, str],
    *,
    session: str | None = None,
    pid: int | None = None,
    tty: str | None = None,
    anchor: Process | None = None,
    lineage: list[Process] | None = None,
    hook_input: str | None = None,
) -> Identity:
    """Find out which session this command belongs to.

    `session`, `pid` and `tty` come from the command line; `anchor` is the process `pid`, if it may have ended already;
    `lineage` are this process and its ancestors, nearest first; `hook_input` is the session that an agent names to its
    hook. Raises UsageError if a given value is wrong. If no rule finds a session, the identity has no `session_id`.
    """
    if tty is not None and not TTY.fullmatch(tty):
        raise UsageError(f"--tty is not a terminal: {shorten(tty)}", "name it like /dev/pts/3")
    given = anchor if anchor or pid is None else _given_process(pid)
    context = _Context.look(environ, process.lineage(os.getpid()) if lineage is None else lineage)

    anchors = _anchor_rules(context, given)
    anchor = next((rule.found for rule in anchors if rule.found), None)
    derived = derive_session_id(anchor, context.host) if anchor else None
    ids = _session_id_rules(context, session, hook_input, derived)
    winner = next((rule for rule in ids if rule.found is not None), None)
    session_id = check_session_id(winner.found, winner.name) if winner and winner.found is not None else None
    exported = winner is not None and winner.name == OWN_ID and context.variable(ANCHOR) is not None

    cwd = _working_directory()
    codebase, branch = describe_directory(cwd) if cwd else (None, None)
    return Identity(
        session_id=session_id,
        anchor=anchor,
        tty=tty or (anchor.tty if anchor else None),
        codebase=codebase,
        cwd=valid_utf8(str(cwd)) if cwd else None,
        branch=branch,
        host=context.host,
        rules=[
            *_explain("session", ids, str),
            *_explain("anchor", anchors, lambda found: f"{found.program} (pid {found.pid})"),
        ],
        id_from=EXPORTED if exported else ID_FROM[winner.name] if winner else None,
        agent=None if anchor else _live_agent(context),
        run_fence=int(fence) if re.fullmatch("[0-9]{1,18}", fence := context.variable(RUN_FENCE) or "") else None,
    )


def require(identity: Identity) -> str:
    """Return the session id, or raise NoIdentity, which names the rules that failed."""
    if identity.session_id is not None:
        return identity.session_id
    why = {rule.rule: rule.why for rule in identity.rules}
    given = {name: why.get(f"session: {name}", NOT_SET) for name in ID_VARIABLES}
    refused = [f"{name} {reason}" for name, reason in given.items() if reason != NOT_SET]
    ids = ", ".join(refused) or "no id is given"
    raise NoIdentity(
        f"no session: {ids}, {why['anchor: claude process']}, and {why['anchor: terminal']}",
        "name it with --session ID or CLAUDE_SESSIONS_SESSION_ID; every rule: claude-sessions whoami --explain",
    )


def export_anchor(anchor: Process, host: Host) -> str:
    """Return the value of CLAUDE_SESSIONS_ANCHOR that goes with an id which the tool itself exports."""
    return f"{host.pid_ns} {anchor.pid} {anchor.start}"


@dataclass(frozen=True, slots=True)
class _Candidate(Generic[T]):
    """The finding of one rule, or the reason that it found nothing."""

    name: str
    found: T | None
    why: str


class _Exported(NamedTuple):
    """Whether an id that the tool exported counts here, and its anchor, from CLAUDE_SESSIONS_ANCHOR.

    `foreign` is whether that process is of another pid namespace.
    """

    counts: bool
    anchor: Process | None
    why: str
    foreign: bool = False


class _Context(NamedTuple):
    """What the rules examine: the environment, and the ancestors of this command."""

    environ: Mapping[str, str]
    host: Host
    terminal: str | None
    parents: list[Process]
    window: list[Process]
    named_agent: Process | None
    nearest_agent: Process | None
    # Those whose variable is set, with their process: before Claude Code if that is nearer than its own, or after.
    before: Sequence[tuple[Agent, Process | None]]
    after: Sequence[tuple[Agent, Process | None]]
    exported: _Exported

    @classmethod
    def look(cls, environ: Mapping[str, str], lineage: list[Process]) -> _Context:
        host, parents = this_host(), lineage[1:]
        named = next((parent for parent in parents if str(parent.pid) == environ.get(AGENT_PID)), None)
        nearest = next((parent for parent in parents if parent.is_claude), None)
        others = [
            (agent, _process_of(agent, environ, parents)) for agent in OTHER_AGENTS if environ.get(agent.id_variable)
        ]
        own = named or nearest
        claude = parents.index(own) if own else len(parents)
        before = [(agent, found) for agent, found in others if found and parents.index(found) < claude]
        return cls(
            environ,
            host,
            lineage[0].tty if lineage else None,
            parents,
            _window(lineage),
            named,
            nearest,
            before,
            [other for other in others if other not in before],
            _exported(environ, host, parents),
        )

    def variable(self, name: str) -> str | None:
        return self.environ.get(name) or None


def _process_of(agent: Agent, environ: Mapping[str, str], parents: list[Process]) -> Process | None:
    """Return the process of an agent above a command."""
    pid = environ.get(agent.pid_variable) if agent.pid_variable else None
    named = next((parent for parent in parents if str(parent.pid) == pid), None)
    return named or next((parent for parent in parents if parent.runs(agent.programs)), None)


def _window(lineage: list[Process]) -> list[Process]:
    """Return the ancestors in this command's window.

    sudo, script and `poetry shell` open a terminal inside the window, so the walk continues through them; a tmux server
    or a terminal emulator, even one started from another terminal, ends it. A command that left its terminal is still
    in the window of the first ancestor that has one.
    """
    window: list[Process] = []
    terminal = lineage[0].tty if lineage else None
    for parent in lineage[1:]:
        if terminal is None:
            terminal = parent.tty
        elif parent.tty != terminal:
            # Only an ancestor can have opened the terminal below it.
            if parent.tty is None or not parent.relays(terminal):
                break
            terminal = parent.tty
        window.append(parent)
    return window


def _anchor_rules(context: _Context, given: Process | None) -> list[_Candidate[Process]]:
    exported = context.exported
    rules = [_Candidate("--pid", given, NOT_GIVEN), _Candidate(ANCHOR, exported.anchor, exported.why)]
    shells = [parent for parent in context.window if parent.is_interactive_shell] if context.terminal else []
    why = f"no interactive shell runs in {context.terminal}" if context.terminal else "it has no terminal"
    other = "names a process that is not above this command" if context.variable(AGENT_PID) else NOT_SET
    visible = [
        *_other_anchors(context.before),
        _Candidate(AGENT_PID, context.named_agent, other),
        _Candidate("claude process", context.nearest_agent, "no claude process is above this command"),
        *_other_anchors(context.after),
        _hooked_shell(context),
        _Candidate("terminal", shells[-1] if shells else None, why),
    ]
    if exported.foreign:
        # The session's process cannot be seen from here; another one must not stand in for it.
        visible = [_Candidate(rule.name, None, f"does not count: {ANCHOR} {exported.why}") for rule in visible]
    return [*rules, *visible]


def _other_anchors(agents: Sequence[tuple[Agent, Process | None]]) -> list[_Candidate[Process]]:
    return [
        _Candidate(f"{agent.name} process", found, f"no {agent.name} process is above this command")
        for agent, found in agents
    ]


def _session_id_rules(
    context: _Context, given: str | None, hook_input: str | None, derived: str | None
) -> list[_Candidate[str]]:
    rules = [_Candidate("--session", given, NOT_GIVEN)]

    own = context.variable(OWN_ID)
    refused = own is not None and not context.exported.counts
    rules.append(_Candidate(OWN_ID, None if refused else own, context.exported.why if refused else NOT_SET))

    if hook_input is not None:
        rules.append(_Candidate(HOOK_INPUT, hook_input, NOT_GIVEN))

    rules += [_agent_id(context, agent.id_variable, agent.name, found) for agent, found in context.before]
    rules.append(_agent_id(context, AGENT_ID, "claude", context.named_agent or context.nearest_agent))
    rules += [_agent_id(context, agent.id_variable, agent.name, found) for agent, found in context.after]
    rules.append(_Candidate(DERIVED, derived, "there is no anchor"))
    return rules


def _agent_id(context: _Context, variable: str, name: str, found: Process | None) -> _Candidate[str]:
    given = context.variable(variable)
    if given is not None and context.terminal is not None and found is None:
        why = f"does not count in {context.terminal}, which is not below a {name} process"
        return _Candidate(variable, None, why)
    return _Candidate(variable, given, NOT_SET)


def _exported(environ: Mapping[str, str], host: Host, parents: list[Process]) -> _Exported:
    value = environ.get(ANCHOR)
    if not (value and environ.get(OWN_ID)):
        return _Exported(True, None, NOT_SET)
    # The namespace may contain spaces; pid and start never do.
    namespace, pid, start = ([*value.rsplit(" ", 2), "", ""])[:3]
    if not (namespace and pid.isdecimal() and start):
        return _Exported(False, None, f"does not count: {ANCHOR} is malformed")
    if namespace != host.pid_ns:
        return _Exported(True, None, "names a process of another pid namespace", foreign=True)
    anchor = next((parent for parent in parents if (str(parent.pid), parent.start) == (pid, start)), None)
    return _Exported(anchor is not None, anchor, "belongs to a process that is not above this command")


def _live_agent(context: _Context) -> Process | None:
    """Return the live process that CLAUDE_PID names, unless the environment comes from another pid namespace."""
    pid = context.variable(AGENT_PID)
    if pid is None or context.exported.foreign or not re.fullmatch("[1-9][0-9]{0,9}", pid):
        return None
    try:
        found = process.read(int(pid))
    except (ProcessLookupError, PermissionError):
        return None
    return None if found.zombie else found


def _hooked_shell(context: _Context) -> _Candidate[Process]:
    name = "CLAUDE_SESSIONS_SHELL"
    value = context.variable(name)
    if value is None:
        return _Candidate(name, None, NOT_SET)
    _, pid, start = ([*value.split(":", 2), "", ""])[:3]
    shell = next((parent for parent in context.window if str(parent.pid) == pid and start in ("", parent.start)), None)
    return _Candidate(name, shell, "names a shell that is not above this command in this window")


def _given_process(pid: int) -> Process:
    try:
        return process.read(pid)
    except ProcessLookupError:
        raise UsageError(f"--pid {shorten(pid)}: no such process", NAME_PROCESS) from None
    except PermissionError:
        raise UsageError(f"--pid {pid}: that process is hidden from this user", NAME_PROCESS) from None


def _explain(kind: str, rules: list[_Candidate[T]], show: Callable[[T], str]) -> list[Rule]:
    """Return the rules for `whoami --explain`; the first that found something won."""
    explained: list[Rule] = []
    for rule in rules:
        if rule.found is None:
            explained.append(Rule(f"{kind}: {rule.name}", None, False, rule.why))
        else:
            explained.append(
                Rule(f"{kind}: {rule.name}", show(rule.found), not any(before.used for before in explained))
            )
    return explained


def derive_session_id(anchor: Process, host: Host) -> str:
    """Return `session_<8 hex>_<tty>_<pid>`: constant while this process lives, and never used again."""
    import hashlib  # late: it loads OpenSSL

    identity = f"{host.boot_id}\n{host.pid_ns}\n{anchor.pid}\n{anchor.start}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    tty = re.sub(r"[^A-Za-z0-9]", "", (anchor.tty or "notty").removeprefix("/dev/"))
    return f"session_{digest}_{tty}_{anchor.pid}"


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None  # it was deleted
