"""Completion in a shell: fixed words; work items and session ids, from the database within 300 ms, or nothing.

A person waits with the Tab key down, so it reports no errors and never starts a server.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import typer

from claude_sessions_cli import fallback, process, settings
from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.names import forms, nfc

VARIABLE = "_CLAUDE_SESSIONS_COMPLETE"
# Of Typer, before any command.
INSTALL = "--install-completion"
OPTIONS = (INSTALL, "--show-completion")
# A longer limit, for a distant database.
BUDGET_VARIABLE = "CLAUDE_SESSIONS_COMPLETION_TIME"
BUDGET_S = 0.3
# The time to print the words and exit.
RESERVE_S = 0.04
ROW_LIMIT = 200
EVENT_LIMIT = 1000
# zsh evaluates the words, and every shell would split or expand other characters, or read an option.
_HARMLESS = re.compile(r"[\w./:@+,][\w./:@+,-]*")


def require_shell() -> None:
    """Raise UsageError if the shell that calls has no completion."""
    from typer.completion import _get_shell_name  # type: ignore[attr-defined]

    from claude_sessions_cli.shell.hooks import SHELLS

    shell = _get_shell_name()
    if shell not in SHELLS:
        raise UsageError(
            f"no completion for this shell: {shell or 'unknown'}",
            "print the script of another one: claude-sessions completion bash",
        )


def install(shell: str) -> Path:
    """Install the completion of a shell, and return the file."""
    from typer.completion import install  # type: ignore[attr-defined]

    _, path = install(shell=shell, prog_name="claude-sessions", complete_var=VARIABLE)
    return Path(path)


def chooser(
    words: Callable[[typer.Context], Iterable[str]], *, many: bool = False
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion function for Typer: fixed words; if `many`, each of those between commas."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",") if many else ("", "", incomplete)
        return [f"{before}{comma}{known}" for known in words(ctx) if known.startswith(word)]

    return complete


def completer(*queries: str) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion function for Typer: the names that these queries find, from the database of `--dsn`."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return _find(os.environ, ctx.params.get("dsn"), incomplete, queries)

    return complete


def _find(environ: Mapping[str, str], dsn: str | None, prefix: str, queries: tuple[str, ...]) -> list[str]:
    try:
        budget = settings.parse_duration(environ.get(BUDGET_VARIABLE) or f"{BUDGET_S}s")
    except UsageError:
        return []
    seconds = budget - RESERVE_S - _age()
    answer = _within(seconds, lambda: "\n".join(_query(environ, dsn, prefix, queries)).encode())
    found = (_as_typed(name, prefix) for name in answer.decode(errors="replace").split("\n"))
    names = [name for name in found if _is_harmless(name)]
    if environ.get(VARIABLE, "").endswith("bash"):
        # bash splits words at a colon, and would insert the part before it twice.
        names = [name for name in names if ":" not in name]
    return sorted(set(names))[:ROW_LIMIT]


def _as_typed(name: str, prefix: str) -> str:
    """Return the form of a name that goes on from what was typed: a shell drops the others."""
    return next((form for form in (name, *forms(name)) if form.startswith(prefix)), name)


def _is_harmless(name: str) -> bool:
    # Accents of their own are part of the letter before.
    return _HARMLESS.fullmatch(nfc(name)) is not None


def _query(environ: Mapping[str, str], dsn: str | None, prefix: str, queries: tuple[str, ...]) -> list[str]:
    found = settings.load(environ, dsn=dsn)
    fallback.refuse(environ, found)

    from claude_sessions_cli import database, transaction
    from claude_sessions_cli.embedded import server

    if found.dsn is None and not server.status().running:
        return []

    def read(tx: transaction.Transaction) -> list[str]:
        prefixes = tx.forms(prefix) or [prefix]
        limits = {"prefix": prefixes[0], "prefixes": prefixes, "row_limit": ROW_LIMIT, "event_limit": EVENT_LIMIT}
        live = [query for query in queries if query != "complete_past_items"]
        found = tx.send(*(transaction.Statement(query, **limits) for query in live))
        # No statement may name the history where there is none.
        if tx.has_history and live != list(queries):
            found += tx.commit(transaction.Statement("complete_past_items", **limits))
        return [str(row["name"]) for rows in found for row in rows]

    with database.connect(server.dsn() if found.dsn is None else found.dsn, found.dsn_source) as connection:
        return connection.read(read)


def _within(seconds: float, work: Callable[[], bytes]) -> bytes:
    """Return the result of `work`, run in a child process; empty if it fails or takes longer.

    A signal would not do: Python's handler does not run while C code waits for a name server.
    """
    if seconds <= 0:
        return b""
    deadline = time.monotonic() + seconds
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nowhere, number)
            with os.fdopen(writer, "wb") as pipe:
                # The end marker, so that half an answer is not taken for a whole one.
                pipe.write(work() + b"\n\n")
        finally:
            os._exit(0)
    os.close(writer)
    answer = b""
    while not answer.endswith(b"\n\n") and (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            read = os.read(reader, 1 << 16)
            if not read:
                break
            answer += read
    os.close(reader)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer if answer.endswith(b"\n\n") else b""


def _age() -> float:
    """Return the seconds since this process started."""
    try:
        start = float(process.read(os.getpid()).start) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start)
    except (AttributeError, OSError, ValueError):
        return time.process_time()  # close enough: it has waited little until here
