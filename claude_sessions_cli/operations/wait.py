"""Claim one of several items, and wait for one that is held."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, Unreachable
from claude_sessions_cli.operations import rows
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import ClaimResult

# Polling decides; a notification only ends a pause early. The jitter keeps waiters from polling in step.
POLL_S = (0.5, 1.5)


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
    for sd_id in sorted(sd_ids, key=lambda candidate: candidate != held):
        try:
            return claim_one(sd_id)
        except HeldByAnother as error:
            refusals.append(error)
    raise refusals[0]


def wait(
    database: Database,
    attempt: Callable[[], ClaimResult],
    sd_ids: Sequence[str],
    seconds: float,
    progress: Callable[[float, HeldByAnother], None],
) -> ClaimResult:
    """Repeat `attempt` until it succeeds; after `seconds`, raise its last HeldByAnother.

    If the connection is direct, a notification that one of the items became free ends a pause early. A database that
    goes away is waited for too; raises Unreachable if it is not back in time. `progress` is called with the seconds
    left, about once a second.
    """
    deadline = time.monotonic() + seconds
    channel_words = {hashlib.md5(sd_id.encode(), usedforsecurity=False).hexdigest() for sd_id in sd_ids}
    refusal: HeldByAnother | None = None
    gone: Unreachable | None = None
    database.listen()
    while True:
        try:
            if gone:
                database.reconnect()
                database.listen()
            return attempt()
        except HeldByAnother as error:
            refusal, gone = error, None
        except Unreachable as error:
            # A database that is unreachable from the start is not waited for.
            if refusal is None:
                raise
            gone = error
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
                gone = error
        if time.monotonic() >= deadline:
            raise gone or HeldByAnother(f"waited in vain: {refusal.message}", refusal.hint, refusal.holder) from None
