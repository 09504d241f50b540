"""Remove each predicate of each SQL statement, one at a time, and check that a test fails.

A mutant is a copy of the checkout in which one condition has no effect, or one guard (a lock, an order, a level) is
gone. Each is shown to the tests until one fails; one that passes them all survived: it needs a test, or is superfluous.
Run as `make predicates`; with words as arguments, only for the mutants whose name contains one of them.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
GIVE_UP_S = 600

# Mutants that no test can detect, by name, and the reason to keep the predicate.
EQUIVALENT = {
    "complete_held_items: ORDER BY name -> -": "the distinct items are found by sorting today, which nothing promises",
    "complete_past_items: ORDER BY name -> -": "likewise",
    "list_terms: ORDER BY later.id -> -": "the index that finds them has this order, which nothing promises",
    "002_exclusive_claims: ORDER BY sd_id -> -": "the groups are found by sorting today, which nothing promises",
    "list_double_claims: ORDER BY item.form -> -": "likewise",
    "read_fence_floor: LIMIT 1 -> -": "the outer one has the same result; this one reads one row of each form",
    "find_sessions: (status IN ('active', 'idle') OR status IS NULL) -> TRUE": "the first ones are the same, of more",
    "find_sessions: status = 'released' -> TRUE": "likewise",
    "find_sessions: LIMIT 3 -> -": "likewise",
    "find_sessions: LIMIT 3 -> - #2": "likewise",
    "limit_transaction: ORDER BY place -> -": "the schemas of a path are listed in order today, which nothing promises",
    "list_other_enders: event = 'unclaimed' -> TRUE": "no other event has such a reason today",
    "list_other_enders: began.event = 'claimed' -> TRUE": "the end itself names no host",
    "find_constraint: ORDER BY number -> -": "the numbers are made in this order today, which nothing promises",
    "list_lock_holders: held.locktype = 'advisory' -> TRUE": "no lock of another type has such a classid today",
    "lock_claim: , id -> -": "they come in this order already, and a sort of few keeps it, which nothing promises",
}

# The tests for the mutants of a file, the likeliest to fail first. Files are named relative to tests/, without `test_`.
SECURITY = (
    "commands/row_security::test_role_blinded_by_row_security_is_denied",
    "commands/row_security::test_read_only_policy_lists_and_denies_writes",
    "commands/row_security::test_open_policy_outweighs_condition",
    "commands/row_security::test_prune_without_delete_policy_is_denied",
    "commands/row_security::test_check_policy_does_not_limit_prune",
)
DEFAULTS = (
    "commands/unreachable::test_lock_held_too_long_is_timeout",
    "commands/encodings::test_settings_of_database_change_nothing",
)
ODD_ROWS = (
    "commands/foreign_rows::test_foreign_row_breaks_no_command",
    "commands/foreign_rows::test_foreign_rows_are_listed_and_reaped",
)
CATALOG = (
    "operations/schema::test_shipped_catalog_matches_files",
    "operations/schema::test_check_finds_each_difference",
    "operations/schema::test_check_without_table_names_apply",
    "operations/schema::test_apply_creates_missing_objects_and_alters_none",
)
COMPLETION = (
    "shell/completion::test_completion_offers_names_for_the_current_word",
    "shell/completion::test_table_without_history_offers_held_items",
    "shell/completion::test_names_with_shell_syntax_are_not_offered",
)
LEASES = tuple(f"operations/{name}" for name in ("check", "park", "term", "wait", "tombstones"))
LOCKS = (
    "operations/predicates",
    "operations/claim",
    "operations/heartbeat",
    "operations/release",
    *LEASES,
    "operations/lock_order",
)
TESTS = {
    "begin": ("operations/predicates", "operations/history"),
    "begin_writing": ("operations/predicates", *LEASES, "commands/row_security"),
    "commit": ("operations/claim",),
    "limit_transaction": (
        "database",
        "operations/foreign_triggers",
        "operations/predicates",
        "operations/history",
        *DEFAULTS,
    ),
    "limit_schema": ("database", "operations/schema"),
    "lock_schema": ("operations/predicates", "operations/schema"),
    "read_access": ("commands/row_security",),
    "require_access": ("database", "operations/history", *SECURITY),
    "require_history": ("operations/history",),
    "written_row": ("operations/foreign_triggers",),
    "written_heartbeats": ("operations/refusals", "operations/predicates", "operations/heartbeat_here"),
    "complete_held_items": COMPLETION,
    "complete_past_items": COMPLETION,
    "complete_session_ids": COMPLETION,
    "clear_claim": ("operations/release", "operations/claim", *LEASES),
    "find_sessions": ("operations/predicates", "operations/release", "operations/tombstones"),
    "grant_access": ("operations/privileges", "operations/schema"),
    "live": ("operations/list", "operations/reap", *ODD_ROWS),
    "over": ("operations/list",),
    "reapable": ("operations/reap",),
    "list_live_sessions": ("operations/reap", *ODD_ROWS),
    "list_live_ids": ("operations/reap",),
    "list_stale_sessions": ("operations/reap",),
    "list_sessions": ("operations/list", *ODD_ROWS),
    "list_sessions_here": ("operations/heartbeat_here",),
    "list_session_events": ("operations/history", "operations/predicates"),
    "list_terms": ("operations/history", "operations/forms", "operations/predicates"),
    **dict.fromkeys(
        ("has_terminals", "new_session", "insert_terminal_session", "fill_terminal", "find_constraint"),
        ("operations/other_tables", "operations/heartbeat"),
    ),
    "insert_session": ("operations/heartbeat", "operations/claim", "operations/tombstones"),
    "renew_claim": ("operations/claim", *LEASES),
    "take_claim": ("operations/claim", "operations/heartbeat", "operations/history", "operations/tombstones"),
    "read_holders": (*LEASES, "operations/forms", "commands/encodings::test_forms_that_encoding_lacks_are_left_out"),
    "read_session": ("operations/heartbeat", *LEASES),
    "seen_columns": ("operations/claim", "operations/heartbeat", "operations/tombstones"),
    "session_columns": ("operations/claim", "operations/tombstones"),
    "lock_claim": LOCKS,
    "lock_session": LOCKS,
    "lock_sessions": ("operations/agent",),
    "list_same_process": ("operations/agent", "operations/whoami"),
    "lock_work_item": LOCKS,
    "merge_metadata": ("operations/release", *LEASES),
    "merged_metadata": (
        "operations/claim",
        "operations/heartbeat",
        "operations/release",
        *ODD_ROWS,
        "operations/tombstones",
    ),
    "name_successor": ("operations/heartbeat", "operations/claim", "operations/tombstones"),
    "count_prunable": ("operations/prune", "operations/reap"),
    "list_prunable": ("operations/refusals", "operations/references"),
    "lock_prunable": ("operations/refusals", "operations/references"),
    "list_references": ("operations/references",),
    "delete_sessions": ("operations/references", "operations/refusals"),
    "clamp_heartbeats": ("operations/refusals",),
    "list_sessions_by_id": ("operations/refusals",),
    "give_change": ("operations/refusals",),
    "change_each": ("operations/refusals",),
    "read_outcome": ("operations/refusals",),
    "prunable": ("operations/prune", "operations/reap"),
    "prune_sessions": ("operations/prune", "operations/refusals", "operations/references", "operations/reap"),
    "read_catalog": CATALOG,
    "read_health": ("operations/doctor",),
    "list_double_claims": (
        "operations/doctor",
        "commands/encodings::test_forms_that_encoding_lacks_are_left_out",
    ),
    "list_other_enders": ("operations/doctor",),
    "list_columns": ("operations/describe",),
    "list_table_parts": ("operations/describe",),
    "describe_table": ("operations/describe",),
    "count_rows": ("operations/describe",),
    "list_recent_terms": ("operations/timeline",),
    "read_clock": ("operations/timeline",),
    "listed": ("operations/list",),
    "list_past_sessions": ("operations/list",),
    "count_past_sessions": ("operations/list",),
    "find_table": ("commands/wrong_schema",),
    "list_writers": ("operations/privileges", "operations/schema"),
    "list_lock_holders": ("operations/claim",),
    "read_fence_floor": (
        "operations/history",
        "operations/forms",
        "operations/claim",
        *ODD_ROWS,
        "operations/tombstones",
    ),
    "reap_sessions": ("operations/reap", "operations/refusals", "operations/heartbeat_here", *ODD_ROWS),
    "renew_heartbeat": ("operations/heartbeat", "operations/heartbeat_here", *LEASES),
    "renew_heartbeats": ("operations/refusals", "operations/predicates", "operations/heartbeat_here"),
    "renew_term": (*LEASES,),
    "revive_session": ("operations/heartbeat", *LEASES),
    "role_exists": ("operations/schema",),
    "001_claude_sessions": ("operations/schema",),
    "002_exclusive_claims": ("operations/schema",),
    "003_history": (
        "operations/predicates",
        "operations/history",
        *LEASES,
        "operations/claim",
        "operations/heartbeat",
        "operations/schema",
    ),
}
# These compare the text of functions and triggers too, so they would fail for any change.
COMPARED_BY_TEXT = (
    "test_check_ignores_foreign_objects_and_sorts_extra_ones",
    "test_shipped_catalog_matches_files",
    "test_check_finds_each_difference",
    "test_apply_creates_missing_objects_and_alters_none",
    "test_check_command_prints_differences_as_json",
    "test_apply_restores_missing_trigger",
    "test_every_file_runs_twice_under_plain_psql",
    "test_printed_schema_runs_under_plain_psql",
)
# Slow, and not about SQL.
LEFT_OUT = ("deadlock", "container", "hidden", "at_once")
# Mutants that Postgres cannot parse prove nothing.
BROKEN = re.compile(
    r"syntax error|SyntaxError|IndeterminateDatatype|AmbiguousParameter|DatatypeMismatch|CannotCoerce"
    r"|could not determine data type|must be type boolean|UndefinedFunction|InvalidColumnReference"
)

TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\$\w*\$)  # The text of a function is read like the rest of its file.
    |(?P<string>'(?:[^']|'')*')
    |OPERATOR\(pg_catalog\.(?P<operator>[^)]+)\)
    |(?P<name>"[^"]*"|%\(\w+\)s|\{\w+\}|[A-Za-z_]\w*)
    |(?P<number>\d+)
    |(?P<mark>:=|::|->>|->|\#>>|\#>|=>|<>|<=|>=|\|\||[-+*/=<>.,;()\[\]:@!?])""",
    re.VERBOSE,
)
COMPARES = {"=", "<>", "<", ">", "<=", ">=", "IS", "IN", "EXISTS", "AND", "OR", "NOT"}
QUERIES = {"SELECT", "UPDATE", "DELETE", "WITH"}
CLAUSE_ENDS = {
    *("GROUP", "ORDER", "LIMIT", "FOR", "RETURNING", "HAVING", "UNION", "INTO", "THEN", "WHERE", "FROM", "LOOP", ";"),
    *("JOIN", "LEFT", "INNER", "CROSS", "FULL", "EXECUTE"),
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: a replaced range of its text."""

    path: Path
    start: int
    end: int
    instead: str
    name: str

    def text(self) -> str:
        """Return the file with the change."""
        whole = self.path.read_text(encoding="utf-8")
        return whole[: self.start] + self.instead + whole[self.end :]


class Source:
    """The tokens of an SQL file, and its mutants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.found: dict[tuple[int, int, str], str] = {}
        self.tokens: list[str] = []
        self.places: list[tuple[int, int]] = []
        at = 0
        while at < len(self.text):
            match = TOKEN.match(self.text, at)
            if match is None:
                raise ValueError(f"{path}: cannot read {self.text[at : at + 20]!r}")
            at = match.end()
            if match.lastgroup != "space":
                self.tokens.append(match["operator"] or match.group())
                self.places.append(match.span())
        self.closing = self._pair()

    def _pair(self) -> dict[int, int]:
        """Return the closing place of each parenthesis and CASE."""
        open_ones: list[int] = []
        closing = {}
        for i, token in enumerate(self.tokens):
            if token in ("(", "[", "CASE"):
                open_ones.append(i)
            elif token in (")", "]") or (token == "END" and open_ones and self.tokens[open_ones[-1]] == "CASE"):
                closing[open_ones.pop()] = i
        return closing

    def top(self, start: int, end: int) -> Iterator[int]:
        """Yield the tokens between two places, outside of inner parentheses."""
        i = start
        while i < end:
            yield i
            i = self.closing.get(i, i) + 1

    def until(self, start: int, ends: set[str], limit: int | None = None) -> int:
        """Return the end of a clause: one of the words in `ends`, or the end of the enclosing text."""
        for i in self.top(start, limit or len(self.tokens)):
            # IS DISTINCT FROM does not end a condition.
            if self.tokens[i] == "FROM" and self.tokens[i - 1] == "DISTINCT":
                continue
            if self.tokens[i] in ends or self.tokens[i] in (")", "]", "END"):
                return i
        return limit or len(self.tokens)

    def split(self, start: int, end: int, word: str) -> list[tuple[int, int]]:
        """Return the parts between occurrences of a word."""
        cuts = [i for i in self.top(start, end) if self.tokens[i] == word]
        return list(zip([start, *(cut + 1 for cut in cuts)], [*cuts, end], strict=True))

    def compares(self, start: int, end: int) -> bool:
        """Whether this is a condition, not another value."""
        # NOT NULL alone belongs to a column.
        return any(
            self.tokens[i] in COMPARES and self.tokens[i : i + 2] != ["NOT", "NULL"] for i in self.top(start, end)
        )

    def change(self, start: int, end: int, instead: str) -> None:
        """Add a mutant that replaces a range of tokens by a text."""
        place = (self.places[start][0], self.places[end - 1][1])
        self.found.setdefault((*place, instead), self.text[slice(*place)])

    def condition(self, start: int, end: int, neutral: tuple[str, ...]) -> None:
        """Remove each predicate of a condition; `neutral` are the values to replace the whole by."""
        joints = {self.tokens[i] for i in self.top(start, end)}
        for word in neutral:
            # Of a conjunction, the parts are removed instead.
            if "AND" not in joints and ("OR" not in joints or word == "TRUE"):
                self.change(start, end, word)
        for joint, without in (("OR", "FALSE"), ("AND", "TRUE")):
            parts = self.split(start, end, joint)
            if len(parts) > 1:
                for part in parts:
                    self.condition(*part, (without,))
                return
        if self.tokens[start] == "NOT":
            start += 1
        if self.tokens[start] == "(" and self.closing[start] == end - 1 and self.tokens[start + 1] != "SELECT":
            self.condition(start + 1, end - 1, ())

    def mutants(self) -> list[Mutant]:
        """Return every mutant, in the order of the file."""
        for i, token in enumerate(self.tokens):
            self._conditions(i, token)
            self._values(i, token)
            self._guards(i, token)
        made: list[Mutant] = []
        names: dict[str, int] = {}
        for (start, end, instead), was in sorted(self.found.items()):
            words = " ".join(re.sub(r"--[^\n]*", "", was).split())
            words = words if len(words) < 70 else f"{words[:45]} ... {words[-20:]}"
            name = f"{self.path.stem}: {words} -> {instead or '-'}"
            names[name] = names.get(name, 0) + 1
            made.append(Mutant(self.path, start, end, instead, name + (f" #{names[name]}" if names[name] > 1 else "")))
        return made

    def _conditions(self, i: int, token: str) -> None:
        before = self.tokens[i - 1] if i else ""
        start = i + 1
        if token in ("WHERE", "HAVING"):
            end = self.until(start, CLAUSE_ENDS)
            self.condition(start, end, ("TRUE",))
        elif token == "ON" and self.path.parent.name == "queries" and self.tokens[start] not in ("CONFLICT", "true"):
            end = self.until(start, CLAUSE_ENDS)
            if self.compares(start, end):
                self.condition(start, end, ("TRUE",))
        elif token in ("IF", "ELSIF") and before not in ("END", "TABLE"):
            self.condition(start, self.until(start, {"THEN"}), ("TRUE", "FALSE"))
        elif token == ":=":
            end = self.until(start, {";"})
            if self.compares(start, end):
                self.condition(start, end, ("TRUE", "FALSE"))
        elif token == "WHEN":
            self._when(i)
        elif token == "SELECT":
            for item in self.split(start, self.until(start, CLAUSE_ENDS), ","):
                end = self.until(item[0], {"AS"}, item[1])
                if self.compares(item[0], end):
                    self.condition(item[0], end, ("TRUE", "FALSE"))
        elif token == "(" and before not in COMPARES | {"WHERE", "WHEN", "IF"} and self.tokens[start] not in QUERIES:
            for item in self.split(start, self.closing[i], ","):
                if item[0] < item[1] and self.compares(*item):
                    self.condition(*item, ("TRUE", "FALSE"))

    def _when(self, i: int) -> None:
        start, end = i + 1, self.until(i + 1, {"THEN", "EXECUTE"})
        inside = next((at for at, close in self.closing.items() if self.tokens[at] == "CASE" and at < i < close), None)
        if "EXCEPTION" in self.tokens[i - 4 : i]:
            for name in self.split(start, end, "OR"):
                self.change(*name, "division_by_zero")
        elif self.tokens[start] == "(":
            self.condition(start + 1, self.closing[start], ("TRUE",))
        elif self.compares(start, end) or (inside is not None and self.tokens[inside + 1] == "WHEN"):
            self.condition(start, end, ("TRUE", "FALSE"))
        else:
            self.change(start, end, "NULL")

    def _values(self, i: int, token: str) -> None:
        if token not in ("greatest", "coalesce", "nullif") or self.tokens[i + 1] != "(":
            return
        parts = self.split(i + 2, self.closing[i + 1], ",")
        for number in range(len(parts)):
            if token == "nullif" and number == 0:
                continue
            if self.tokens[parts[number][0]] == "%(now)s":
                continue  # The clock of the tests.
            rest = [self._words(*part) for other, part in enumerate(parts) if other != number]
            name = "greatest" if token == "greatest" else "coalesce"
            self.change(i, self.closing[i + 1] + 1, f"{name}({', '.join(rest)})")

    def _words(self, start: int, end: int) -> str:
        return self.text[self.places[start][0] : self.places[end - 1][1]]

    def _guards(self, i: int, token: str) -> None:
        def follows(*words: str) -> bool:
            return self.tokens[i : i + len(words)] == list(words)

        if follows("FOR", "UPDATE"):
            self.change(i, self.until(i + 1, CLAUSE_ENDS), "")
        elif follows("SKIP", "LOCKED"):
            self.change(i, i + 2, "")
        elif follows("ORDER", "BY"):
            end = self.until(i + 1, CLAUSE_ENDS)
            self.change(i, end, "")
            items = self.split(i + 2, end, ",")
            for number, item in enumerate(items):
                if len(items) > 1:
                    last = number == len(items) - 1
                    self.change(item[0] - last, item[1] + (not last), "")
        elif token == "DESC" or follows("NULLS", "LAST"):
            self.change(i, i + (1 if token == "DESC" else 2), "")
        elif token == "LIMIT":
            self.change(i, self.until(i + 1, CLAUSE_ENDS), "")
        elif follows("ISOLATION", "LEVEL"):
            self.change(i, i + 4, "")
        elif follows("SET", "LOCAL") or token in ("PERFORM", "REVOKE", "GRANT"):
            # The end of the statement, not of a CASE. A statement in a block must not be empty.
            in_block = self.text.count("$$", 0, self.places[i][0]) % 2
            self.change(i, self.until(i, {";"}), "NULL" if token == "PERFORM" or in_block else "")
        elif follows("ON", "CONFLICT"):
            self.change(i, self.until(i + 1, {"RETURNING"}), "")
        elif token == "pg_advisory_xact_lock":
            start = i - 2 if self.tokens[i - 1] == "." else i
            self.change(start, self.closing[i + 1] + 1, "NULL")
        elif follows("IF", "NOT", "EXISTS") and self.tokens[i - 1] == "TABLE":
            self.change(i, i + 3, "")
        elif follows("SECURITY", "DEFINER"):
            self.change(i, i + 2, "")
        elif follows("UNION", "ALL") and self.tokens[i + 2] == "SELECT" and self.path.stem == "lock_claim":
            self.change(i, self.until(i + 2, {"UNION"}), "")


def address(name: str) -> str:
    """Return pytest's address of a file or test named in TESTS."""
    file, mark, test = name.partition("::")
    folder, slash, stem = file.rpartition("/")
    return f"tests/{folder}{slash}test_{stem}.py{mark}{test}"


@dataclass
class Worker:
    """A copy of the checkout, and a server for its tests."""

    checkout: Path
    dsn: str

    def judge(self, mutant: Mutant | None) -> str:
        """Run the tests on a mutant, and return the first that fails, or an empty text."""
        if mutant is None:
            return self._show(sorted({name for names in TESTS.values() for name in names}), LEFT_OUT)
        target = self.checkout / mutant.path.relative_to(ROOT)
        before = target.read_bytes()
        target.write_text(mutant.text(), encoding="utf-8")
        try:
            left_out = (*LEFT_OUT, *COMPARED_BY_TEXT) if mutant.path.stem == "003_history" else LEFT_OUT
            return self._show([*TESTS.get(mutant.path.stem, ()), "operations/predicates"], left_out)
        finally:
            target.write_bytes(before)

    def _show(self, names: list[str], left_out: tuple[str, ...]) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
        command += ["-k", " and ".join(f"not {word}" for word in left_out)]
        for name in dict.fromkeys(names):
            command.append(address(name))
        self._forget()
        env = {"PYTHONPATH": str(self.checkout), "PYTHONDONTWRITEBYTECODE": "1", "CLAUDE_SESSIONS_TEST_DSN": self.dsn}
        try:
            done = subprocess.run(
                command,
                cwd=self.checkout,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=GIVE_UP_S,
            )
        except subprocess.TimeoutExpired:
            return "the tests never ended"
        if done.returncode == 0:
            return ""
        red = re.search(r"^(?:FAILED|ERROR) tests/(.*?)(?: - |$)", done.stdout, re.MULTILINE)
        if done.returncode != 1 or red is None:
            return f"BROKEN: pytest ended with {done.returncode}: {done.stdout}{done.stderr}"
        return ("BROKEN: " if BROKEN.search(done.stdout) else "") + red.group(1)

    def _forget(self) -> None:
        """Delete the leftovers of a failed test from the server, so that the next does not fail for them."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            made = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> current_database()"
            for (name,) in connection.execute(made).fetchall():
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'cs%' OR rolname IN ('anon', 'authenticated')"
            for (name,) in connection.execute(roles).fetchall():
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@contextmanager
def hired() -> Iterator[Worker]:
    """Create a worker, and stop its server at the end."""
    from claude_sessions_cli.embedded import server as embedded

    with tempfile.TemporaryDirectory(prefix="claude-sessions-predicates-") as directory:
        # For root, the server runs as another account, which must reach this directory.
        Path(directory).chmod(0o755)
        checkout = Path(directory) / "checkout"
        for name in ("claude_sessions_cli", "sql", "tests"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", checkout)
        os.environ["CLAUDE_SESSIONS_DATA_DIR"] = f"{directory}/data"
        dsn = embedded.ensure(lambda _: None)
        with psycopg.connect(dsn, autocommit=True) as connection:
            # The data need not survive a crash, and each mutant creates databases.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        try:
            yield Worker(checkout, dsn)
        finally:
            os.environ["CLAUDE_SESSIONS_DATA_DIR"] = f"{directory}/data"
            embedded.stop()
            del os.environ["CLAUDE_SESSIONS_DATA_DIR"]


def judge_all(mutants: list[Mutant | None], report: Callable[[Mutant | None, str], None]) -> None:
    """Run the tests on every mutant, several at a time."""
    waiting: queue.SimpleQueue[Mutant | None] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)

    def work(worker: Worker) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            report(mutant, worker.judge(mutant))

    with ExitStack() as stack:
        workers = [stack.enter_context(hired()) for _ in range(WORKERS)]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, workers))


def main() -> int:
    """Judge every mutant, print the table, and fail if one survives that is not known to be equivalent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only the mutants whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="print the mutants and judge none")
    parser.add_argument("--equivalent", action="store_true", help="judge those that are known to be equivalent as well")
    options = parser.parse_args()
    paths = sorted((ROOT / "sql").glob("ddl/*.sql")) + sorted((ROOT / "sql").glob("queries/*.sql"))
    every = [mutant for path in paths for mutant in Source(path).mutants()]
    chosen = [one for one in every if not options.words or any(word in one.name for word in options.words)]
    if unknown := set(EQUIVALENT) - {mutant.name for mutant in every}:
        print("no such mutants any more:", *sorted(unknown), sep="\n  ")
        return 1
    if options.list:
        print(*(mutant.name for mutant in chosen), sep="\n")
        return 0
    known = [] if options.equivalent else [mutant for mutant in chosen if mutant.name in EQUIVALENT]
    begin = time.monotonic()
    counts = {"killed": 0, "survived": 0, "broken": 0}
    lock = threading.Lock()

    def report(mutant: Mutant | None, red: str) -> None:
        with lock:
            if mutant is None:
                print(f"{'nothing changed':90}  {'GREEN' if not red else f'RED: {red}'}", flush=True)
                counts["broken"] += bool(red)
                return
            verdict = "broken" if red.startswith("BROKEN") else "killed" if red else "survived"
            counts[verdict] += 1
            print(f"{mutant.name:90}  {red or 'SURVIVED'}", flush=True)

    # Tests that fail without a change prove nothing, so the unchanged text is judged too.
    unchanged: list[Mutant | None] = [] if options.words else [None]
    judge_all(unchanged + [mutant for mutant in chosen if mutant not in known], report)
    for mutant in known:
        print(f"{mutant.name:90}  known to be equivalent: {EQUIVALENT[mutant.name]}")
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{len(chosen)} mutants: {summary}, {len(known)} known; {time.monotonic() - begin:.0f} s")
    return 1 if counts["survived"] or counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
