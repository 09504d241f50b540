"""Timers that keep this host's sessions each minute: a line in the crontab, a systemd user timer, a launch agent.

Each runs the hidden command `upkeep`, which is `heartbeat --here` and `reap` in one process. What is written to
a foreign place is a part of its own there: everything else stays byte for byte.
"""

from __future__ import annotations

import os
import plistlib
import pwd
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from claude_sessions_cli import crontab, files, process, rounds, settings
from claude_sessions_cli.errors import UsageError

UNIT = "claude-sessions"
LABEL = "claude-sessions.upkeep"
CRON_LINE_LIMIT = 990
# What says where things are, without being a secret. A timer is not started from the user's shell.
KEPT_PATHS = (
    *("CLAUDE_SESSIONS_CONFIG", "CLAUDE_SESSIONS_DATA_DIR", "CLAUDE_SESSIONS_STATE_DIR"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"),
)
KEPT_VARIABLES = (*KEPT_PATHS, "CLAUDE_SESSIONS_STALE_AFTER", "CLAUDE_SESSIONS_HEARTBEAT_EVERY")
# libpq's variables that change which database is reached, or whether: each is the parameter of that name, without `_`.
CONNECTING_VARIABLES = (
    *("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGOPTIONS"),
    *("PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR"),
    *("PGSSLCERTMODE", "PGSSLSNI", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGREQUIREPEER"),
    *("PGREQUIREAUTH", "PGCHANNELBINDING", "PGGSSENCMODE", "PGGSSLIB", "PGGSSDELEGATION", "PGKRBSRVNAME"),
    *("PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"),
)
_PARAMETER = re.compile(r"(\w+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", re.DOTALL)
# What systemctl and launchctl say where nothing was to be stopped.
_NOTHING_RUNS = re.compile("does not exist|not loaded|No such process|Could not find", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Write:
    """What a timer keeps where."""

    to: str
    text: str


@dataclass(frozen=True, slots=True)
class TimerResult:
    """What became of a timer: `installed`, `already_installed`, `removed` or `not_installed`; and a note to people."""

    timer: str
    outcome: str
    dry_run: bool
    writes: list[Write]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a timer runs: the words of the command, the variables that it needs, and the state directory."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    directory: Path

    @property
    def log(self) -> Path:
        """Where what it says goes."""
        return rounds.log_of(self.directory)


def plan(environ: Mapping[str, str], called: str, dsn: str | None) -> Job:
    """Return the job of a timer; raises UsageError where it would not use the database that this command uses."""
    variables = {name: environ[name] for name in KEPT_VARIABLES if environ.get(name)}
    # It is not started where this command is.
    variables |= {name: str(Path(path).absolute()) for name, path in variables.items() if name in KEPT_PATHS}
    found = settings.load(environ, dsn=dsn)
    config = settings.config_path(environ)
    hint = f'write a line dsn = "..." into {config}; a password belongs in ~/.pgpass'
    try:
        alone = settings.load(variables)
    except UsageError as error:
        raise UsageError(f"{error.message}: not where a timer starts", hint) from None
    if alone.dsn != found.dsn:
        raise UsageError(f"the database is named by {found.dsn_source}, which a timer does not have", hint)
    if found.dsn is not None and (others := _missing_variables(environ, found.dsn)):
        only = "has" if len(others) == 1 else "have"
        raise UsageError(f"{', '.join(others)} {only} a part in {found.dsn_source}, and a timer has none of it", hint)
    # Of the user or not: a crontab may set another for its lines.
    variables["HOME"] = str(Path(environ.get("HOME") or _home_of_user()).absolute())
    job = Job((*process.this_program(called), "upkeep"), variables, settings.state_directory(environ).absolute())
    for text in (*job.words, *job.variables.values(), str(job.directory)):
        if not text.isprintable():
            raise UsageError(f"no timer can run this: {text[:60]!r} has control characters in it")
    return job


def _missing_variables(environ: Mapping[str, str], dsn: str) -> list[str]:
    """Return the variables that complete a DSN here, where libpq reads them, and would not where a timer starts."""
    named = _parameters(dsn)
    return [name for name in CONNECTING_VARIABLES if environ.get(name) and name[2:].lower() not in named]


def _parameters(dsn: str) -> set[str]:
    """Return the names of the parameters that a DSN sets, without `_`; too few where it is none."""
    if not dsn.startswith(("postgresql://", "postgres://")):
        names = {found[1] for found in _PARAMETER.finditer(dsn)}
    else:
        try:
            parts = urlsplit(dsn)
        except ValueError:
            return set()
        account, _, hosts = parts.netloc.rpartition("@")
        user, _, password = account.partition(":")
        port = re.search(r":\d+(,|$)", hosts)
        host = re.sub(r":\d*(?=,|$)", "", hosts)
        given = {"user": user, "password": password, "host": host, "port": port, "dbname": parts.path.strip("/")}
        names = {name for name, value in given.items() if value}
        names |= {name for name, value in parse_qsl(parts.query) if value}
    return {{"dbname": "database"}.get(name, name.replace("_", "")) for name in names}


def install(kind: str, job: Job, environ: Mapping[str, str], *, dry_run: bool = False) -> TimerResult:
    """Install a timer, or bring it up to date."""
    if not dry_run:
        job.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kind == "cron":
        return _change_crontab(_crontab_block(job), dry_run)
    if kind == "systemd":
        return _install_files(kind, _systemd_units(job, environ), _start_systemd(), dry_run)
    agent = _launch_agent(job, environ)
    return _install_files(kind, [agent], _start_launchd(agent[0]), dry_run)


def remove(kind: str, environ: Mapping[str, str], *, dry_run: bool = False) -> TimerResult:
    """Take a timer away, and leave everything else."""
    if kind == "cron":
        return _change_crontab(None, dry_run)
    paths = [*_systemd_paths(environ), _systemd_link(environ)] if kind == "systemd" else [_launch_agent_path(environ)]
    there = [path for path in paths if os.path.lexists(path)]
    note = None
    if there and not dry_run:
        failure = _run(_stop_systemd() if kind == "systemd" else _stop_launchd())
        for path in there:
            path.unlink(missing_ok=True)
        _run([["systemctl", "--user", "daemon-reload"]] if kind == "systemd" else [])
        if failure and not _NOTHING_RUNS.search(failure):
            # Without its file, it can be stopped all the same.
            stop = ["systemctl", "--user", "stop", f"{UNIT}.timer"] if kind == "systemd" else _stop_launchd()[0]
            note = f"{failure}; it is removed, but where it runs it ends only after: {shlex.join(stop)}"
    writes = [Write(str(path), "") for path in there]
    return TimerResult(kind, "removed" if there else "not_installed", dry_run, writes, note)


# -- cron --------------------------------------------------------------------------------------------------------------


def cron_line(job: Job) -> str:
    """Return the line of the crontab; cron takes a plain percent sign for the end of the command.

    The log is the program's to open, in a directory that it makes where it has gone, and to keep short: a shell that
    could not open it would run nothing, and one that could would fill it where there is no program any more.
    """
    words = [f"{name}={shlex.quote(value)}" for name, value in job.variables.items()]
    words += [*map(shlex.quote, job.words), "--log", ">/dev/null", "2>&1"]
    line = f"* * * * * {' '.join(words)}".replace("%", "\\%")
    if len(os.fsencode(line)) > CRON_LINE_LIMIT:
        raise UsageError("the paths are too long for a line of cron's", "use another timer: install systemd")
    return line


def _crontab_block(job: Job) -> str:
    log = str(job.log)
    return f"{crontab.BEGIN}\n# Each minute: heartbeat --here and reap. Log: {log}\n{cron_line(job)}\n{crontab.END}\n"


def _change_crontab(block: str | None, dry_run: bool) -> TimerResult:
    before = crontab.read()
    after = crontab.edit(before, block)
    there = crontab.BEGIN.encode() in before
    if block is None:
        outcome = "removed" if there else "not_installed"
    else:
        outcome = "already_installed" if after == before else "installed"
    if after != before and not dry_run:
        crontab.write(after)
    user = pwd.getpwuid(os.geteuid()).pw_name
    return TimerResult("cron", outcome, dry_run, [Write(f"the crontab of {user}", block or "")])


# -- systemd -----------------------------------------------------------------------------------------------------------


def _systemd_paths(environ: Mapping[str, str]) -> list[Path]:
    config = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or _home_of_user()) / ".config"
    place = Path(config) / "systemd" / "user"
    return [place / f"{UNIT}.service", place / f"{UNIT}.timer"]


def _systemd_link(environ: Mapping[str, str]) -> Path:
    """Return what systemctl makes to enable the timer, and takes away where it can be reached."""
    place = _systemd_paths(environ)[1]
    return place.parent / "timers.target.wants" / place.name


def _systemd_units(job: Job, environ: Mapping[str, str]) -> list[tuple[Path, bytes]]:
    program, *rest = job.words
    # A dollar sign in the program's own path is no variable, in the other words it would be.
    command = " ".join([_systemd_quote(program), *(_systemd_quote(word).replace("$", "$$") for word in rest)])
    variables = "".join(f"Environment={_systemd_quote(f'{n}={v}')}\n" for n, v in job.variables.items())
    service = (
        "[Unit]\nDescription=Keep the claude-sessions of this host (heartbeat --here and reap)\n\n"
        f"[Service]\nType=oneshot\n{variables}ExecStart={command}\nTimeoutStartSec=55\n"
    )
    timer = (
        "[Unit]\nDescription=Keep the claude-sessions of this host, each minute\n\n"
        "[Timer]\nOnCalendar=minutely\nAccuracySec=5s\n\n[Install]\nWantedBy=timers.target\n"
    )
    paths = _systemd_paths(environ)
    return [(paths[0], os.fsencode(service)), (paths[1], os.fsencode(timer))]


def _systemd_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _start_systemd() -> list[list[str]]:
    return [["systemctl", "--user", "daemon-reload"], ["systemctl", "--user", "enable", "--now", f"{UNIT}.timer"]]


def _stop_systemd() -> list[list[str]]:
    return [["systemctl", "--user", "disable", "--now", f"{UNIT}.timer"]]


# -- launchd -----------------------------------------------------------------------------------------------------------


def _launch_agent_path(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or _home_of_user()) / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def _launch_agent(job: Job, environ: Mapping[str, str]) -> tuple[Path, bytes]:
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(job.words),
        "EnvironmentVariables": dict(job.variables),
        "StartInterval": 60,
        "RunAtLoad": True,
        "ProcessType": "Background",
        "StandardOutPath": str(job.log),
        "StandardErrorPath": str(job.log),
    }
    return _launch_agent_path(environ), plistlib.dumps(agent)


def _start_launchd(path: Path) -> list[list[str]]:
    return [*_stop_launchd(), ["launchctl", "bootstrap", f"gui/{os.getuid()}", str(path)]]


def _stop_launchd() -> list[list[str]]:
    return [["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"]]


# -- files and programs ------------------------------------------------------------------------------------------------


def _install_files(kind: str, units: list[tuple[Path, bytes]], commands: list[list[str]], dry_run: bool) -> TimerResult:
    changed = [path for path, text in units if not path.is_file() or path.read_bytes() != text]
    writes = [Write(str(path), text.decode(errors="replace")) for path, text in units]
    outcome = "installed" if changed else "already_installed"
    if dry_run:
        return TimerResult(kind, outcome, True, writes)
    for path, text in units:
        if path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, text, 0o644)
    failure = _run(commands)
    note = f"{failure}; it is installed, but runs only after: {shlex.join(commands[-1])}" if failure else None
    return TimerResult(kind, outcome, False, writes, note)


def _run(commands: Sequence[list[str]]) -> str | None:
    """Run commands, and say what went wrong with the last of them."""
    failure = None
    for command in commands:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
            said = " ".join(done.stderr.split())
            failure = f"{command[0]}: {said or f'exit {done.returncode}'}" if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = f"{command[0]}: {error.strerror if isinstance(error, OSError) else 'no answer'}"
    return failure


def _home_of_user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_dir
