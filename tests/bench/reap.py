"""`reap` of many lapsed claims as a whole process, over a script that reads and updates them in the same batches."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.programs import PROGRAM, Program, clean_home
from bench.rows import apply_schema, every_optional_file, fill
from bench.sitting import Sitting
from claude_sessions_cli.operations.reap import PAGE

NEEDS = ()
SHARE = 10
BAR = 3.0
BARE = """
import os, psycopg
with psycopg.connect(os.environ["CLAUDE_SESSIONS_DSN"], autocommit=True) as connection:
    after = None
    while True:
        page = connection.execute(
            "SELECT * FROM public.claude_sessions WHERE status IN ('active', 'idle', 'stale')"
            " AND (%s::uuid IS NULL OR id > %s) ORDER BY id LIMIT {page}", (after, after)
        ).fetchall()
        if not page:
            break
        after = page[-1][0]
        connection.execute(
            "UPDATE public.claude_sessions SET status = 'stale', sd_id = NULL, track = NULL, claimed_at = NULL,"
            " updated_at = clock_timestamp() WHERE id = ANY(%s)", ([row[0] for row in page],)
        )
"""


def measure(sitting: Sitting) -> None:
    """Print both times, of one run each: it empties the table of what it measures."""
    lapsed = sitting.rows // SHARE
    names = ["cs_bench_lapsed", "cs_bench_lapsed_bare"]
    with sitting.databases(*names) as create, tempfile.TemporaryDirectory() as home, clean_home(home) as environment:
        script = Path(home) / "bare.py"
        script.write_text(BARE.replace("{page}", str(PAGE)))
        own, bare = Program([PROGRAM, "reap"]), Program([sys.executable, str(script)])
        for name, program in zip(names, (own, bare), strict=True):
            dsn = create(name)
            apply_schema(dsn, every_optional_file())
            fill(dsn, ("active", lapsed, "'SD-' || n", "interval '2 hours'"))
            program.run({**environment, "CLAUDE_SESSIONS_DSN": dsn})
    rows = [["reap", own.median, own.median / bare.median], ["read and bare UPDATEs", bare.median, 1.0]]
    sitting.table(f"{lapsed:,} lapsed claims, one run each", ["", "ms", "ratio"], rows)
    sitting.bar("reap over reading and bare UPDATEs", own.median / bare.median, most=BAR)
