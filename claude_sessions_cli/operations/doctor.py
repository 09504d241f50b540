"""Doctor: what is wrong with a database and its table, and which command mends it. Never writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import PermissionDenied, SchemaMismatch, SessionsError, Unreachable
from claude_sessions_cli.failures import STATEMENT_MODE, grant
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.mend import APPLY
from claude_sessions_cli.times import format_age
from claude_sessions_cli.transaction import Rows, Statement, Transaction

OLDEST_SERVER = 15
CLOCK_LIMIT_S = 5.0
# A snapshot keeps the old versions of every heartbeat since it was taken.
SNAPSHOT_LIMIT_S = 3600.0
# Below LEAST_UPDATES the share means nothing; below COSTLY_UPDATES the cost does not matter.
LEAST_UPDATES = 1000
COSTLY_UPDATES = 100_000
HOT_SHARE = 0.5
HOT_FILE = "optional/hot_heartbeats.sql"
# How often a pooler's server processes are compared, and the seconds for all of it.
POOL_TRIES = 5
POOL_PROBE_S = 3.0
DEAD_SHARE = 4
LEAST_DEAD = 10_000
OTHERS_DAYS = 7
DOUBLE_LIMIT = 20

T = TypeVar("T")


class Verdict(str, Enum):
    """The outcome of a check; `skipped` if it could not be made."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was found, and the command that mends it, if there is one."""

    check: str
    verdict: Verdict
    text: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """What the server says of itself and of the table."""

    server_version: str
    backend_pid: int
    in_recovery: bool
    tls: str | None
    role: str
    may_read: bool | None
    may_write: bool | None
    synchronous_commit: str
    server_now: datetime
    updates: int | None
    hot_updates: int | None
    live_rows: int | None
    dead_rows: int | None
    vacuumed_at: datetime | None
    snapshot_pid: int | None
    snapshot_role: str | None
    snapshot_age_s: float | None


def diagnose(database: Database, caller: Caller) -> list[Finding]:
    """Return the outcome of each check of the database. A check that fails to look does not stop the others."""
    before = time.time()
    found, health = _attempt("server", lambda: database.inspect(_read_health, caller), Verdict.FAILURE)
    if health:
        found += [
            _server(health),
            *_access(health),
            _pooler(health, database),
            _tls(health, database.host),
            _clock(health, before, time.time()),
            _durability(health),
            _snapshot(health),
            *_dead_rows(health),
        ]
    failed, inspection = _attempt("schema", lambda: schema.inspect(database))
    found += failed or _schema(inspection)
    found += [_writers(inspection)] if inspection else []
    found += _hot_updates(health, inspection) if health else []
    failed, doubles = _attempt("double claims", lambda: database.read(_list_doubles))
    found += failed or [_double_claims(doubles)]
    failed, others = _attempt("other programs", lambda: database.read(_list_others, caller))
    found += failed or [_others(others)]
    # What is denied to one check is denied to others in the same words.
    return [*dict.fromkeys(found)]


def _attempt(check: str, look: Callable[[], T], unanswered: Verdict = Verdict.SKIPPED) -> tuple[list[Finding], Any]:
    """Return what a check looks at, or the finding that it could not look; `unanswered` if the server is silent.

    A look that the database denies is one that each command begins with.
    """
    try:
        return [], look()
    except PermissionDenied as error:
        return [Finding("access", Verdict.FAILURE, error.message, error.hint)], None
    except SchemaMismatch as error:
        return [Finding(check, Verdict.FAILURE, error.message, error.hint)], None
    except SessionsError as error:
        verdict = unanswered if isinstance(error, Unreachable) else Verdict.SKIPPED
        return [Finding(check, verdict, error.message, error.hint)], None


def _read_health(tx: Transaction, caller: Caller) -> Health:
    [found] = tx.commit(Statement("read_health", now=caller.now))
    return Health(**found[0])


def _list_doubles(tx: Transaction) -> Rows:
    return tx.commit(Statement("list_double_claims", row_limit=DOUBLE_LIMIT))[0]


def _list_others(tx: Transaction, caller: Caller) -> Rows | None:
    tx.send()
    # No statement may name the history if it is missing.
    return tx.commit(Statement("list_other_enders", days=OTHERS_DAYS, now=caller.now))[0] if tx.has_history else None


def _server(health: Health) -> Finding:
    if health.in_recovery:
        text = f"Postgres {health.server_version}, a standby: it takes no claims"
        return Finding("server", Verdict.FAILURE, text, "name the primary in the DSN")
    if int(health.server_version.split(".")[0]) < OLDEST_SERVER:
        text = f"Postgres {health.server_version} is older than {OLDEST_SERVER}, and not tested"
        return Finding("server", Verdict.WARNING, text, f"upgrade the server to Postgres {OLDEST_SERVER} or later")
    return Finding("server", Verdict.OK, f"Postgres {health.server_version}, as role {health.role}")


def _access(health: Health) -> Iterator[Finding]:
    # None without the table. What a role may not read, the checks that read it report.
    if health.may_write is False and health.may_read:
        yield Finding("access", Verdict.FAILURE, f"the role {health.role} may not write the table", grant(health.role))


def _pooler(health: Health, database: Database) -> Finding:
    # libpq was given another pid than that of the server process that answers.
    if health.backend_pid == database.backend_pid:
        return Finding("pooler", Verdict.OK, "none")
    mode = "most likely in session mode: it keeps a server process for each client"
    try:
        with database.beside(POOL_PROBE_S) as other:
            for _ in range(POOL_TRIES):
                if other.inspect(_shares_processes, database, health.backend_pid):
                    mode = "in transaction mode"
                    break
    except Unreachable as error:
        if STATEMENT_MODE in error.message:
            return Finding("pooler", Verdict.FAILURE, error.message, error.hint)
        mode = f"whose mode cannot be seen: {error.message}"
    return Finding("pooler", Verdict.OK, f"a pooler, {mode}; waiting claims poll")


def _shares_processes(tx: Transaction, database: Database, pid: int) -> bool:
    """Whether a second client gets the server process of the first one between two of its transactions."""
    [second] = tx.send(Statement("compare_backend"))
    # While the second one's transaction is open.
    [[first]] = database.inspect(lambda between: between.commit(Statement("compare_backend")))
    return bool(second[0]["pid"] == pid or first["pid"] != pid)


def _tls(health: Health, host: str) -> Finding:
    if health.tls:
        return Finding("tls", Verdict.OK, health.tls)
    # libpq's own default is a directory of a socket.
    if not host or host.startswith(("/", "@")) or host in ("localhost", "127.0.0.1", "::1"):
        return Finding("tls", Verdict.OK, "none, on this host")
    return Finding(
        "tls", Verdict.WARNING, f"the connection to {host} is not encrypted", "add sslmode=verify-full to the DSN"
    )


def _clock(health: Health, before: float, after: float) -> Finding:
    server = health.server_now.timestamp()
    skew = max(before - server, server - after, 0.0)
    if skew <= CLOCK_LIMIT_S:
        return Finding("clock", Verdict.OK, "this host and the server agree")
    text = f"this host and the server differ by {format_age(skew)}; the server's clock decides"
    return Finding("clock", Verdict.WARNING, text, "set the clock by NTP")


def _durability(health: Health) -> Finding:
    if health.synchronous_commit == "off":
        text = "synchronous_commit is off; the tool turns it on for claims, other programs may lose theirs"
        return Finding("synchronous_commit", Verdict.WARNING, text, "ALTER DATABASE ... SET synchronous_commit = on")
    return Finding("synchronous_commit", Verdict.OK, health.synchronous_commit)


def _snapshot(health: Health) -> Finding:
    age = health.snapshot_age_s
    if age is None or age < SNAPSHOT_LIMIT_S:
        return Finding("oldest snapshot", Verdict.OK, f"{format_age(age)} old" if age is not None else "none")
    text = (
        f"pid {health.snapshot_pid} of {health.snapshot_role} holds a snapshot {format_age(age)} old:"
        " VACUUM cannot remove rows that died since"
    )
    return Finding("oldest snapshot", Verdict.WARNING, text, f"SELECT pg_terminate_backend({health.snapshot_pid})")


def _hot_updates(health: Health, inspection: schema.Inspection | None) -> Iterator[Finding]:
    updates, hot = health.updates or 0, health.hot_updates or 0
    if updates < LEAST_UPDATES:
        return
    text = f"{hot / updates:.0%} of {updates}"
    optional = {one.file: one.in_force for one in inspection.optional} if inspection else {}
    if updates < COSTLY_UPDATES or hot / updates >= HOT_SHARE or optional.get(HOT_FILE):
        # The statistics go back to before the file was applied.
        yield Finding("HOT updates", Verdict.OK, f"{text}; {HOT_FILE} is in force" if optional.get(HOT_FILE) else text)
        return
    mend = f"{APPLY} --optional hot_heartbeats" if HOT_FILE in optional else None
    yield Finding("HOT updates", Verdict.WARNING, f"{text}: the others write each index, for each heartbeat", mend)


def _dead_rows(health: Health) -> Iterator[Finding]:
    dead, live = health.dead_rows or 0, health.live_rows or 0
    if dead > max(LEAST_DEAD, DEAD_SHARE * live):
        text = f"{dead} dead row versions beside {live} rows"
        yield Finding("dead rows", Verdict.WARNING, text, "VACUUM public.claude_sessions")
    elif health.dead_rows is not None:
        yield Finding("dead rows", Verdict.OK, f"{dead} beside {live} rows")


def _schema(inspection: schema.Inspection) -> Iterator[Finding]:
    wrong: dict[str, list[schema.Difference]] = {path.name: [] for path in schema.ddl_files()}
    for difference in inspection.differences:
        if difference.file:
            wrong.setdefault(difference.file, []).append(difference)
    for file, differences in wrong.items():
        if not differences:
            yield Finding("schema", Verdict.OK, f"{file} is in force")
            continue
        text = f"{file}: {_objects(differences)}"
        # The check prints what mends each of them.
        mend = APPLY if all(found.mend == APPLY for found in differences) else "claude-sessions schema check"
        # The tool needs only the first file.
        verdict = Verdict.FAILURE if file == schema.ddl_files()[0].name else Verdict.WARNING
        yield Finding("schema", verdict, text, mend)
    yield from (Finding("schema", Verdict.OK, f"{one.file} is in force") for one in inspection.optional if one.in_force)


def _objects(differences: list[schema.Difference]) -> str:
    first = differences[0]
    more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
    return f"{first.kind} {first.name} is {first.difference}{more}"


def _writers(inspection: schema.Inspection) -> Finding:
    roles = sorted({writer.role for writer in inspection.writers if writer.object == "claude_sessions"})
    if not {"anon", "PUBLIC"} & set(roles):
        return Finding("who may write", Verdict.OK, f"the owner{''.join(f', {role}' for role in roles)}")
    everybody = "everybody" if "PUBLIC" in roles else "anon, which is everybody without a login,"
    return Finding(
        "who may write", Verdict.WARNING, f"{everybody} may write the table", f"{APPLY} --optional least_privilege"
    )


def _double_claims(rows: Rows) -> Finding:
    if not rows:
        return Finding("double claims", Verdict.OK, "none")
    first = rows[0]
    more = f" and {len(rows) - 1} more items" if len(rows) > 1 else ""
    text = f"{first['sd_id']} is held by {' and '.join(first['sessions'][:2])}{more}"
    return Finding("double claims", Verdict.FAILURE, text, f"claude-sessions list {first['sd_id']}")


def _others(rows: Rows | None) -> Finding:
    if rows is None:
        return Finding("other programs", Verdict.SKIPPED, "without the history nobody knows who ends claims")
    if not rows:
        return Finding("other programs", Verdict.OK, f"none ended a claim in {OTHERS_DAYS} days")
    first = rows[0]
    name = " as ".join(str(part) for part in (first["program"], first["role"]) if part)
    text = f"{name} ended {first['claims']} claims in {OTHERS_DAYS} days: it may go by a shorter limit than stale_after"
    return Finding("other programs", Verdict.WARNING, text, "claude-sessions history")
