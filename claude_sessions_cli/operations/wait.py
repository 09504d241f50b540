"""Claim one of several items, and wait for one that is held."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import AGAIN, HeldByAnother, Unreachable
from claude_sessions_cli.names import forms, is_same
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import ClaimResult

# Polling decides; a notification only ends a pause early. The jitter keeps waiters from polling in step.
POLL_S = (0.5, 1.5)

# Shows the seconds left, and the refusal that is waited for; None while the database takes no work.
Progress = Callable[[float, "HeldByAnother | None"], None]


def claim_any(
    database: Database, caller: Caller, sd_ids: Sequence[str], claim_one: Callable[[str], ClaimResult]
) -> ClaimResult:
    """Claim the first free one of several items. Raises HeldByAnother with the first holder if all are held."""
    if len(sd_ids) == 1:
        return claim_one(sd_ids[0])
    mine = database.read(rows.read, caller)
    held = mine.sd_id if mine else None
    refusals: list[HeldByAnother] = []
    # An item that the caller holds comes first, so that repeating the command changes nothing.
    for sd_id in sorted(sd_ids, key=lambda candidate: not is_same(candidate, held)):
        try:
            return claim_one(sd_id)
        except HeldByAnother as error:
            refusals.append(error)
    raise refusals[0]


def wait(
    database: Database,
    attempt: Callable[[], ClaimResult],
    sd_ids: Sequence[str],
    deadline: float,
    progress: Progress,
) -> ClaimResult:
    """Repeat `attempt` until it succeeds; at the `deadline`, by the monotonic clock, raise its last HeldByAnother.

    If the connection is direct, a notification that one of the items became free ends a pause early. A database that
    goes away, or takes no work for a while, is waited for too; raises Unreachable if it is not back in time. `progress`
    is called about once a second.
    """
    with database.bounded(deadline):
        return _wait(database, attempt, sd_ids, deadline, progress)


def _wait(
    database: Database,
    attempt: Callable[[], ClaimResult],
    sd_ids: Sequence[str],
    deadline: float,
    progress: Progress,
) -> ClaimResult:
    # A notification hashes the name as the freed row spells it, so every form is expected.
    names = (form for sd_id in sd_ids for form in forms(sd_id))
    channel_words = {hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in names}
    refusal: HeldByAnother | None = None
    gone: Unreachable | None = None
    is_ready = False
    while True:
        try:
            if gone:
                database.reconnect()
            if not is_ready:
                database.listen()
                is_ready = True
            return attempt()
        except HeldByAnother as error:
            refusal, gone = error, None
        except Unreachable as error:
            # A database that is unreachable from the start is not waited for.
            if refusal is None and not error.passing:
                raise
            gone, is_ready = error, False
        pause_until = time.monotonic() + random.uniform(*POLL_S)
        while (now := time.monotonic()) < min(pause_until, deadline):
            progress(deadline - now, refusal)
            pause = min(pause_until, deadline, now + 1) - now
            if gone:
                time.sleep(pause)
                continue
            try:
                if database.notified(channel_words, pause):
                    break
            except Unreachable as error:
                gone, is_ready = error, False
        if time.monotonic() >= deadline:
            if refusal is None or gone:
                raise gone or Unreachable("the database did not answer in time", AGAIN)
            raise HeldByAnother(f"gave up waiting: {refusal.message}", refusal.hint, holder=refusal.holder) from None
