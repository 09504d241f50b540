"""A process that claims, beats, stalls and releases until SIGTERM, and logs when it believes to hold an item.

If others can find it, its session id changes now and then, as that of an agent does, also while a command runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from claude_sessions_cli import database, process, transaction
from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import HeldByAnother, NotHeld, Unreachable
from claude_sessions_cli.identity import Identity
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import JudgedSession, ProcessRecord
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
# How long a command runs, unless its run ends before.
COMMAND_S = 2
# The answers of a heartbeat that prove the claim.
PROOFS = ("renewed", "continued", "moved")


class Holder:
    """One process; its times are the host's monotonic clock, which all processes share."""

    def __init__(self, dsn: str, session: str, anchored: bool, rotates: bool, items: list[str], log: str) -> None:
        self._anchor = process.read(os.getpid()) if anchored else None
        self._rotates, self._ids = rotates, 0
        self.caller = self._caller(session)
        self._dsn, self._items = dsn, items
        # One write for each line, so that a kill leaves whole lines.
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._choose = random.Random(log)
        self._stack = ExitStack()
        self._database: Database | None = None
        # The term that it holds: the session under whose id, and the fence.
        self._session, self._fence = session, 0
        self._command: subprocess.Popen[bytes] | None = None
        self._is_over = False
        signal.signal(signal.SIGTERM, self._end)

    def _caller(self, session: str) -> Caller:
        id_from = "claude_code" if self._anchor else "environment"
        host = this_host()
        identity = Identity(session, self._anchor, None, "codebase", "/tmp/holder", "main", host, id_from=id_from)
        return Caller(identity, Settings(None, "the test", STALE_AFTER_S, HEARTBEAT_EVERY_S))

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
                self._end_command()
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
        except HeldByAnother as error:
            is_twin = "is open in another process" in error.message
            self.note("twin refused" if is_twin else "held", item=item)
            if is_twin:
                self._move()
            else:
                time.sleep(self._choose.uniform(0, 1))
            return
        self._believe(result.session, start, result.outcome)
        self._hold(item)

    def _move(self) -> None:
        """Beat for a session that is open in another process, until that has ended, and hold what it held."""
        while not self._is_over:
            start = time.monotonic()
            try:
                beaten = heartbeat(self._connected(), self.caller)
            except HeldByAnother:
                self.note("twin refused")
                time.sleep(self._choose.uniform(0, 0.05))
                continue
            except NotHeld:
                return
            item = beaten.session.session.sd_id
            if beaten.outcome in PROOFS and item:
                self._believe(beaten.session, start, beaten.outcome)
                self._hold(item)
            return

    def _hold(self, item: str) -> None:
        leave_at = time.monotonic() + self._choose.uniform(0, 4)
        while time.monotonic() < leave_at and not self._is_over:
            # Some are so late that others may take the item.
            stalls = self._choose.random() < 0.15
            time.sleep(self._choose.uniform(3, 5) if stalls else HEARTBEAT_EVERY_S * self._choose.uniform(0.5, 1))
            rotates = self._rotates and self._choose.random() < 0.3
            if not (self._rotate(item) if rotates else self._renew(item)):
                return
        self.note("released")
        # A process that is over, or leaves its item to lapse.
        if self._choose.random() < 0.9:
            release(self._connected(), self.caller, end=self._choose.random() < 0.2)

    def _renew(self, item: str) -> bool:
        """Renew the claim in one of the two ways, log the result, and return whether the item is held."""
        # A term is renewed under the id that it began with.
        if self._session != self.caller.session_id or self._choose.random() < 0.5:
            return self._beat(item, self.caller)
        start = time.monotonic()
        try:
            held = term.renew(self._connected(), self.caller, item, self._fence)
        except NotHeld as error:
            return self._lose(item, error.message)
        if (held.session.sd_id, held.session.fence) != (item, self._fence):
            self.note("wrong", text=f"{item} under {self._fence} renewed as {held.session}")
        self._believe(held, start, "renewed")
        return True

    def _beat(self, item: str, caller: Caller, *, register: bool = False, event: str | None = None) -> bool:
        start = time.monotonic()
        try:
            beaten = heartbeat(self._connected(), caller, register=register)
        except (NotHeld, HeldByAnother) as error:
            return self._lose(item, error.message)
        held = beaten.session.session
        if beaten.outcome not in PROOFS:
            self._lose(item, beaten.outcome)
        elif beaten.outcome == "renewed" and (held.sd_id != item or (held.fence or 0) < self._fence):
            self.note("wrong", text=f"{item} under {self._fence} renewed as {held}")
        if held.sd_id != item:
            return False
        self._believe(beaten.session, start, event or beaten.outcome)
        return True

    def _rotate(self, item: str) -> bool:
        """Go on under the next id, perhaps while a command runs, and beat under the one before, which is late."""
        before, self._ids = self.caller, self._ids + 1
        # A claim that stayed under an earlier id is not this one's to run a command under.
        runs = self._choose.random() < 0.4 and self._session == self.caller.session_id
        if runs and not self._start_command(item):
            return False
        self.caller = self._caller(f"{before.session_id.partition('.')[0]}.{os.getpid()}.{self._ids}")
        is_held = self._beat(item, self.caller, register=True)
        is_running = self._command is not None and self._command.poll() is None
        if is_held and is_running and self._session != before.session_id:
            self.note("wrong", text=f"{self._session} continues {before.session_id}, under which a command runs")
        if is_held and self._choose.random() < 0.5:
            is_held = self._beat(item, before, event="late")
        if self._command:
            time.sleep(self._choose.uniform(0, 1))
            self._end_command()
        return is_held

    def _start_command(self, item: str) -> bool:
        start = time.monotonic()
        self._command = subprocess.Popen(["sleep", str(COMMAND_S)])
        found, host = process.read(self._command.pid), self.caller.identity.host
        runner = ProcessRecord(found.pid, found.start, host.boot_id, host.pid_ns)
        try:
            held = term.enter(self._connected(), self.caller, runner, item).session
        except (NotHeld, HeldByAnother) as error:
            return self._lose(item, error.message)
        self.note("ran", item=item, session=held.session_id, fence=held.fence, start=start, until=start + COMMAND_S)
        return True

    def _end_command(self) -> None:
        if self._command:
            self.note("stopped")
            self._command.kill()
            self._command.wait()
            self._command = None

    def _lose(self, item: str, why: str) -> bool:
        self._end_command()
        self.note("lost", item=item, session=self._session, fence=self._fence, why=why)
        return False

    def _believe(self, held: JudgedSession, start: float, outcome: str) -> None:
        """Log that the item is held from now until the trust in the attempt that began at `start` ends."""
        self._session, self._fence = held.session.session_id, held.session.fence or 0
        until = start + STALE_AFTER_S - MARGIN_S
        facts = {"item": held.session.sd_id, "session": self._session, "fence": self._fence}
        self.note(outcome, **facts, start=start, until=until)

    def _connected(self) -> Database:
        if self._database is None:
            self._database = self._stack.enter_context(database.connect(self._dsn, "the test"))
        return self._database


def main(arguments: dict[str, Any]) -> None:
    """Run a holder or a reaper."""
    transaction.STATEMENT_TIMEOUT_MS = TIMEOUT_MS
    reaps = arguments.pop("reaps")
    holder = Holder(**arguments)
    holder.note("ready")
    if reaps:
        holder.reap()
    else:
        holder.live()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
