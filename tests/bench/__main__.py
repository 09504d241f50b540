"""Measure in one sitting: ratios within one run, tables on the terminal and JSON beside them.

Fails if a bar is missed. A peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import pytest

from bench.sitting import Sitting

QUESTIONS = (
    *("commands", "run", "prompt", "hook", "distance"),
    *("claims", "renewals", "here", "scale", "reap", "storage", "day"),
)
ROWS, FILE = 1_000_000, Path("build/bench.json")


def main(argv: list[str] | None = None) -> int:
    """Ask the questions of a command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"some of: {', '.join(QUESTIONS)} [all]")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="how often a whole process runs [20]")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"released rows of a large table [{ROWS}]")
    parser.add_argument("--json", type=Path, default=FILE, metavar="PATH", help=f"where the numbers go [{FILE}]")
    parser.add_argument("--plan", action="store_true", help="name the peers and what is left out; measure nothing")
    given = parser.parse_args(argv)
    if unknown := [name for name in given.questions if name not in QUESTIONS]:
        parser.error(f"no question {unknown[0]}; there are {', '.join(QUESTIONS)}")
    if given.rounds < 1 or given.rows < 1:
        parser.error("--rounds and --rows are at least 1")
    sitting = Sitting(given.json, given.rounds, given.rows)
    try:
        if not given.plan:
            sitting.save()
    except OSError as error:
        parser.error(f"{given.json} cannot be written: {error.strerror}")
    for name in given.questions or QUESTIONS:
        module = importlib.import_module(f"bench.{name}")
        sitting.begin(name, module.NEEDS)
        print((module.__doc__ or "").splitlines()[0])
        if not given.plan:
            began = time.monotonic()
            try:
                module.measure(sitting)
            except pytest.skip.Exception as missing:
                sitting.leave_out(name, str(missing))
            print(f"({time.monotonic() - began:.0f} s)", flush=True)
            sitting.save()
    missed = sum(not bar["kept"] for bar in sitting.bars)
    for what in sitting.left_out:
        print(f"LEFT OUT: {what['what']}: {what['why']}")
    if not given.plan:
        print(f"{len(sitting.bars) - missed} bars kept, {missed} missed; {sitting.file}")
    return 0 if sitting.kept else 1


if __name__ == "__main__":
    sys.exit(main())
