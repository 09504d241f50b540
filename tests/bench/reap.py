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
NAMES = ("cs_bench_lapsed", "cs_bench_lapsed_bare", "cs_bench_beating")
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
    """Print the times, of one run each: a run leaves nothing to measure again."""
    number = sitting.rows // SHARE
    with sitting.databases(*NAMES) as create, tempfile.TemporaryDirectory() as home, clean_home(home) as environment:
        script = Path(home) / "bare.py"
        script.write_text(BARE.replace("{page}", str(PAGE)))
        argvs = [[PROGRAM, "reap"], [sys.executable, str(script)], [PROGRAM, "reap"]]
        programs = [Program(argv) for argv in argvs]
        for name, age, program in zip(NAMES, (*["interval '2 hours'"] * 2, "interval '0'"), programs, strict=True):
            dsn = create(name)
            apply_schema(dsn, every_optional_file())
            fill(dsn, ("active", number, "'SD-' || n", age))
            program.run({**environment, "CLAUDE_SESSIONS_DSN": dsn})
    own, bare, nothing = (program.median for program in programs)
    rows = [
        ["reap", own, own / bare],
        ["read and bare UPDATEs", bare, 1.0],
        ["reap if none of them has lapsed", nothing, nothing / bare],
    ]
    sitting.table(f"{number:,} claims that have lapsed, one run each", ["", "ms", "ratio"], rows)
    sitting.bar("reap over reading and bare UPDATEs", own / bare, most=BAR)
