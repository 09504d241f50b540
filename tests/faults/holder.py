"""A process that claims, beats, stalls and releases until SIGTERM, and logs when it believes to hold an item."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from claude_sessions_cli import database, process
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable
from claude_sessions_cli.identity import Identity
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import JudgedSession
from claude_sessions_cli.operations import term
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.settings import Settings

STALE_AFTER_S = 3.0
HEARTBEAT_EVERY_S = 1.0
# A holder trusts its claim until the attempt's start, plus stale_after, less this.
MARGIN_S = 0.1
# What a frozen process holds up it holds up no longer than this.
TIMEOUT_MS = 1500
# So seldom that claims find silent holders too.
REAP_EVERY_S = 1.5


class Holder:
    """One session; its times are the host's monotonic clock, which all processes share."""

    def __init__(self, dsn: str, session: str, anchored: bool, items: list[str], log: str) -> None:
        anchor = process.read(os.getpid()) if anchored else None
        identity = Identity(session, anchor, None, "codebase", f"/tmp/{session}", "main", this_host())
        self.caller = Caller(identity, Settings(None, "the test", STALE_AFTER_S, HEARTBEAT_EVERY_S))
        self._dsn, self._items = dsn, items
        # One write for each line, so that a kill leaves whole lines.
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._choose = random.Random(session)
        self._stack = ExitStack()
        self._database: Database | None = None
        self._fence = 0
        self._is_over = False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        self._is_over = True

    def note(self, event: str, **facts: Any) -> None:
        """Append a line to the log."""
        os.write(self._log, json.dumps({"event": event, "now": time.monotonic(), **facts}).encode() + b"\n")

    def live(self) -> None:
        """Claim and hold."""
        while not self._is_over:
            try:
                self._turn()
            except Unreachable:
                # Cut off while frozen in a transaction. The operation got no answer, so that nothing is believed.
                self.note("cut off")
                self._stack.close()
                self._database = None

    def reap(self) -> None:
        """Reap."""
        while not self._is_over:
            with suppress(Unreachable):
                for verdict in reap(self._connected(), self.caller).changed:
                    self.note("reaped", session=verdict.session.session.session_id, reason=verdict.reason)
            time.sleep(REAP_EVERY_S)

    def _turn(self) -> None:
        item, start = self._choose.choice(self._items), time.monotonic()
        try:
            result = claim(self._connected(), self.caller, item, switch=True)
        except HeldByAnother:
            self.note("held", item=item)
            time.sleep(self._choose.uniform(0, 1))
            return
        self._believe(result.session, start, result.outcome)
        leave_at = time.monotonic() + self._choose.uniform(0, 4)
        while time.monotonic() < leave_at and not self._is_over:
            # Some are so late that others may take the item.
            stalls = self._choose.random() < 0.15
            time.sleep(self._choose.uniform(3, 5) if stalls else HEARTBEAT_EVERY_S * self._choose.uniform(0.5, 1))
            if not self._renew(item):
                return
        self.note("released")
        # A process that is over, or leaves its item to lapse.
        if self._choose.random() < 0.9:
            release(self._connected(), self.caller, end=self._choose.random() < 0.2)

    def _renew(self, item: str) -> bool:
        """Renew the claim in one of the two ways, log the result, and return whether the item is held."""
        start, fence = time.monotonic(), self._fence
        try:
            if self._choose.random() < 0.5:
                held, outcome = term.renew(self._connected(), self.caller, item, fence), "renewed"
            else:
                beaten = heartbeat(self._connected(), self.caller)
                held, outcome = beaten.session, beaten.outcome
        except NotHeld:
            self.note("lost", item=item, fence=fence)
            return False
        if outcome != "renewed":
            self.note("lost", item=item, fence=fence)
        elif (held.session.sd_id, held.session.fence) != (item, fence):
            self.note("wrong", text=f"{item} under {fence} renewed as {held.session}")
        if held.session.sd_id != item:
            return False
        self._believe(held, start, outcome)
        return True

    def _believe(self, held: JudgedSession, start: float, outcome: str) -> None:
        """Log that the item is held from now until the trust in the attempt that began at `start` ends."""
        self._fence = held.session.fence or 0
        until = start + STALE_AFTER_S - MARGIN_S
        self.note(outcome, item=held.session.sd_id, fence=self._fence, start=start, until=until)

    def _connected(self) -> Database:
        if self._database is None:
            self._database = self._stack.enter_context(database.connect(self._dsn, "the test"))
        return self._database


def main(arguments: dict[str, Any]) -> None:
    """Run a holder or a reaper."""
    database.STATEMENT_TIMEOUT_MS = TIMEOUT_MS
    reaps = arguments.pop("reaps")
    holder = Holder(**arguments)
    holder.note("ready")
    if reaps:
        holder.reap()
    else:
        holder.live()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
