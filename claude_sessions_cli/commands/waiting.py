"""Claim one of several items, waiting where that is asked, with a count-down on a terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.model import ClaimResult
from claude_sessions_cli.text import clean, cut

if TYPE_CHECKING:
    from claude_sessions_cli.caller import Caller
    from claude_sessions_cli.database import Database

CLEAR_LINE = "\r\x1b[K"
USUAL_COLUMNS = 80


def take(
    database: Database,
    caller: Caller,
    sd_ids: Sequence[str],
    seconds: float | None,
    claim_one: Callable[[str], ClaimResult],
    *,
    quiet: bool,
) -> ClaimResult:
    """Claim the first free one of the items; with `seconds`, wait that long for one."""
    # A plain claim must not pay for what it does not use.
    if seconds is None and len(sd_ids) == 1:
        return claim_one(sd_ids[0])
    from claude_sessions_cli import waiting

    def attempt() -> ClaimResult:
        return waiting.claim_any(database, caller, sd_ids, claim_one)

    if seconds is None:
        return attempt()
    shown = sys.stderr.isatty() and not quiet
    try:
        return waiting.wait(database, attempt, sd_ids, seconds, _count_down if shown else _say_nothing)
    finally:
        if shown:
            sys.stderr.write(CLEAR_LINE)


def _count_down(left: float, refusal: HeldByAnother) -> None:
    held = refusal.holder.session if refusal.holder else None
    by = f"{held.sd_id}, held by {held.session_id}" if held else "the work item"
    minutes, seconds = divmod(math.ceil(left), 60)
    time = f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s"
    line = f"{time} left: waiting for {clean(by)} (Ctrl-C to give up)"
    # What goes on in a second line of the terminal is not cleared again.
    sys.stderr.write(CLEAR_LINE + cut(line, _columns() - 1))
    sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def _say_nothing(left: float, refusal: HeldByAnother) -> None:
    pass
