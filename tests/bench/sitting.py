"""One sitting: its servers, the peers that are there, its tables and bars, and the JSON beside them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from conftest import Server, _container, _embedded

from bench import peers


@dataclass
class Sitting:
    """What one run of the benchmarks measures, and what it leaves out; `rows` is the size of the large table."""

    file: Path
    rounds: int
    rows: int
    question: str = ""
    peers: dict[str, str] = field(default_factory=dict)
    postgres: dict[str, str] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, question: str, needs: Sequence[str]) -> None:
        """Begin a question; name the peers that it measures beside, and those that are not there."""
        self.question = question
        print(f"\n== {question}", flush=True)
        for name in needs:
            if version := self.peers.get(name) or peers.version_of(peers.PEERS[name]):
                self.peers[name] = version
                print(f"beside: {name} {version}")
            else:
                missing = [program for program in peers.PEERS[name].programs if peers.find(program) is None]
                self.leave_out(name, f"not installed: {', '.join(missing) or name}")

    def has(self, name: str) -> bool:
        """Whether a peer of this question is there."""
        return name in self.peers

    def leave_out(self, what: str, why: str) -> None:
        """Say what is not measured."""
        print(f"LEFT OUT: {what}: {why}")
        self.left_out.append({"question": self.question, "what": what, "why": why})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table and keep its numbers; the first column names the row."""
        self.tables.append({"question": self.question, "title": title, "columns": columns, "rows": rows})
        shown = [list(columns), *([_shown(cell) for cell in row] for row in rows)]
        widths = [max(len(line[place]) for line in shown) for place in range(len(columns))]
        print(f"\n{title}\n")
        for first, *others in shown:
            cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
            print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
        print(flush=True)

    def bar(self, name: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """Compare a value with its bar, and remember it."""
        kept = (most is None or value <= most) and (least is None or value >= least)
        bound = f"at most {most:g}" if most is not None else f"at least {least:g}"
        print(f"{'kept  ' if kept else 'MISSED'} {name}: {_shown(value)}, {bound}", flush=True)
        bar = {"question": self.question, "name": name, "value": value, "most": most, "least": least, "kept": kept}
        self.bars.append(bar)

    def save(self) -> None:
        """Write all that was measured so far."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        measured = {
            "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "rounds": self.rounds,
            "rows": self.rows,
            "postgres": self.postgres,
            "peers": self.peers,
            "left_out": self.left_out,
            "bars": self.bars,
            "tables": self.tables,
        }
        self.file.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")

    @property
    def kept(self) -> bool:
        """Whether every bar was kept."""
        return all(bar["kept"] for bar in self.bars)

    @contextmanager
    def databases(self, *names: str) -> Iterator[Callable[..., str]]:
        """Find the server that the tests would use; yield a function that creates a database and returns its DSN."""
        with ExitStack() as stack:
            given = os.environ.get("CLAUDE_SESSIONS_TEST_DSN")
            server = Server(given, "CLAUDE_SESSIONS_TEST_DSN") if given else _container(stack) or _embedded(stack)
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                if not given:
                    # The tests do without.
                    connection.execute("ALTER SYSTEM RESET fsync")
                    connection.execute("SELECT pg_reload_conf()")
                self.name_server(connection, server.source)
            try:
                yield server.create
            finally:
                with psycopg.connect(server.dsn, autocommit=True) as connection:
                    for name in names:
                        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def name_server(self, connection: psycopg.Connection[Any], source: str) -> None:
        """Name the server that answers this question."""
        version = connection.info.parameter_status("server_version") or "unknown"
        self.postgres[self.question] = f"{version.split()[0]}, {source}"
        print(f"Postgres {self.postgres[self.question]}", flush=True)


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if not isinstance(cell, int | float):
        return str(cell)
    if isinstance(cell, int) or cell >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.2f}" if cell < 10 else f"{cell:.1f}"
