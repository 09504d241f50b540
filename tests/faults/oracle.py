"""The answer of each operation if nothing else is running: a second implementation of the rules."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Any

from claude_sessions_cli.operations.caller import Caller
from faults import laws
from faults.laws import Ledger, Row
from faults.stepping import Clock

EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


class Again(Exception):
    """The caller's row was put in order: the operation begins again."""

    def __init__(self, outcome: str | None = None) -> None:
        super().__init__()
        self.outcome = outcome


class Refused(Exception):
    """The answer is an error, by its name."""


class Table:
    """A copy of the table, in which an operation first puts the caller's row in order, and what it finds there."""

    def __init__(self, ledger: Ledger, clock: Clock, caller: Caller) -> None:
        self._ledger = ledger
        self._clock = clock
        self._caller = caller
        self._rows: dict[str, Row] = {row["session_id"]: deepcopy(row) for row in ledger.rows.values()}

    @property
    def mine(self) -> Row | None:
        """The caller's row."""
        return self._rows.get(self._caller.session_id)

    def others(self, item: str | None) -> list[Row]:
        """Return the other holders of an item."""
        rows = [row for row in self._rows.values() if laws.holds(row) and row["sd_id"] == item]
        return [row for row in rows if row is not self.mine]

    def has_lapsed(self, row: Row) -> bool:
        """Whether others may take what a row holds."""
        alive, patience = self._ledger.is_alive(row), self._caller.settings.stale_after
        return alive is False or (alive is None and laws.silent(row, patience, self._clock.read()))

    def settle(self, work: Callable[[], str], renewals: tuple[str, ...] = ()) -> str:
        """Return the answer of an operation: that of what was settled before, for a mere renewal."""
        outcome = None
        for _ in range(4):
            try:
                answer = work()
            except Again as again:
                outcome = again.outcome or outcome
            except Refused as refused:
                return str(refused)
            else:
                return outcome if outcome and answer in renewals else answer
        return "NotHeld"

    def is_bound_elsewhere(self) -> bool | None:
        """Whether the caller's row is of another process, which lives: None if that is gone."""
        row, process = self.mine, self._process()
        if row is None or row["status"] == "released" or process is None:
            return False
        if laws.known(row) is None or laws.own(row).get("process") == process:
            return False
        return True if self._ledger.is_alive(row) else None

    def is_of_caller(self, row: Row) -> bool:
        """Whether a row is of the caller's process."""
        process = self._process()
        return process is not None and laws.known(row) == process

    def require_current(self, *, writes: bool = True, registers: bool = False) -> None:
        """Go on as another id of the caller's process, or take over what an earlier one has.

        `registers` is whether the command has registered its own id before.
        """
        row, process, identity = self.mine, self._process(), self._caller.identity
        own = laws.own(row) if row and row["status"] == "released" else {}
        if own.get("continued_as") and own.get("process") == process:
            self._caller = self._caller.as_session(own["continued_as"])
            raise Again
        if process is None or identity.id_from != "claude_code" or (row and laws.holds(row)):
            return
        earlier = [
            other
            for other in self._rows.values()
            if other is not row and other["status"] != "released" and other["tty"] == identity.tty
            if laws.known(other) == process and laws.own(other).get("id_from") == "claude_code"
            if laws.holds(other) or laws.unsettled(other) or self.lost_term(other, alone=True)
        ]
        # Nothing goes over to an id that is open in another process.
        if not earlier or self.is_bound_elsewhere():
            return
        before = max(earlier, key=lambda other: (laws.holds(other), laws.last_sign(other)))
        lost = laws.stone(row) if row else None
        if lost and lost.get("told") is not True and not laws.holds(before):
            return
        acting = self._caller.as_session(before["session_id"])
        # A command that began before the claim under the other id takes nothing back.
        seen = row["updated_at"] if row else self._clock.read() if registers else None
        is_late = seen and before["claimed_at"] and seen < before["claimed_at"]
        runs = laws.own(before).get("run") and self._ledger.is_alive({**before, "pid": None})
        if not writes or is_late or runs:
            self._caller = acting
            raise Again
        if row:
            self.require_term(row, alone=True)
        self.require_term(before, alone=True)
        self._continue(before, acting)

    def _continue(self, before: Row, acting: Caller) -> None:
        name = self._caller.session_id
        if name not in self._rows:
            own = {"process": self._process(), "id_from": "claude_code"}
            times = dict.fromkeys(("heartbeat_at", "created_at", "updated_at"), self._clock.read())
            empty = dict.fromkeys(("sd_id", "track", "claimed_at"))
            row = {"session_id": name, "status": "idle", "tty": before["tty"], "pid": before["pid"], **times, **empty}
            self._rows[name] = {**row, "metadata": {laws.KEY: own}}
        mine = self._rows[name]
        if laws.holds(before) and len(self.others(before["sd_id"])) > 1:
            self._caller = acting
            raise Again
        untold = laws.stone(mine) if (laws.stone(mine) or {}).get("told") is not True else None
        carried = untold or laws.stone(before) or laws.stone(mine)
        own = laws.own(mine)
        own.pop("tombstone", None)
        if carried:
            own["tombstone"] = carried
        mine |= {"status": "idle", "updated_at": self._clock.read()}
        if laws.holds(before):
            mine |= {"sd_id": before["sd_id"], "claimed_at": self._clock.read(), "status": "active"}
            own["term"] = {"sd_id": mine["sd_id"], "fence": laws.fence(mine)}
        before |= {"sd_id": None, "claimed_at": None, "status": "released"}
        raise Again("continued")

    def require_own(self) -> None:
        """Refuse a second process of the caller's id."""
        row = self.mine
        if row is not None and self.is_bound_elsewhere():
            moved = laws.own(row).get("moved") or {}
            raise Refused("NotHeld" if moved.get("process") == self._process() else "HeldByAnother")

    def require_here(self) -> None:
        """Move a session whose process is gone to the caller's."""
        self.require_own()
        row, process = self.mine, self._process()
        if row is None or self.is_bound_elsewhere() is not None:
            return
        assert process
        row |= {"pid": process["pid"], "tty": self._caller.identity.tty, "updated_at": self._clock.read()}
        laws.own(row)["process"] = process
        rivals = self.others(row["sd_id"])
        if laws.holds(row) and not rivals:
            row["claimed_at"], row["status"] = self._clock.read(), "active"
            laws.own(row)["term"] = {"sd_id": row["sd_id"], "fence": laws.fence(row)}
        elif row["status"] == "stale":
            if laws.holds(row):
                rival = max(rivals, key=lambda rival: rival["claimed_at"] or EARLIEST)
                self._lose(row, row["sd_id"], laws.fence(row), laws.SILENT, rival["session_id"])
            row["status"] = "idle"
        raise Again("moved")

    def lost_term(self, row: Row | None, *, alone: bool = False) -> Row | None:
        """Return the recorded term of a row if it is lost, though no operation ended it."""
        recorded = laws.recorded_term(row) if row else None
        if row is None or recorded is None:
            return None
        told = laws.stone(row) or {}
        if (told.get("sd_id"), told.get("fence")) == (recorded["sd_id"], recorded["fence"]):
            return None
        later = not alone and self.later(row)
        return recorded if row["sd_id"] != recorded["sd_id"] or row["status"] == "released" or later else None

    def later(self, row: Row) -> bool:
        """Whether another session holds a row's item under a later fence."""
        key = (row["claimed_at"] or EARLIEST, row["session_id"])
        holders = [other for other in self._rows.values() if laws.holds(other) and other["sd_id"] == row["sd_id"]]
        return any((at, other["session_id"]) > key for other in holders if (at := other["claimed_at"]))

    def require_term(self, row: Row | None, *, alone: bool = False) -> None:
        """Note the loss of a term that another program ended; `alone` does not look for rivals."""
        lost = self.lost_term(row, alone=alone)
        if row is None or lost is None:
            return
        held = [other["session_id"] for other in self.others(lost["sd_id"])]
        self._lose(row, lost["sd_id"], lost["fence"], laws.CLEARED, held[0] if held else None)
        raise Again

    def _lose(self, row: Row, item: str, fence: int | None, reason: str, by: str | None) -> None:
        own = laws.own(row)
        row["updated_at"] = self._clock.read()
        own.pop("term", None)
        own["tombstone"] = {"sd_id": item, "fence": fence, "reason": reason, "by": by}
        if row["sd_id"] == item:
            row["sd_id"] = row["claimed_at"] = None
            row["status"] = "released" if row["status"] == "released" else "idle"

    def runs(self, row: Row | None) -> bool:
        """Whether a command runs under a session's claim."""
        return bool(row and laws.own(row).get("run") and self._ledger.is_alive({**row, "pid": None}))

    def _process(self) -> dict[str, Any] | None:
        process = self._caller.process
        return {name: value for name, value in process._asdict().items() if value is not None} if process else None


class Oracle:
    """Predicts answers from the table that the ledger keeps."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def _table(self, caller: Caller) -> Table:
        return Table(self._ledger, self._clock, caller)

    def claim(self, caller: Caller, sd_id: str, switch: bool, force: bool) -> str:
        """Return the answer of a claim."""
        table = self._table(caller)

        def work() -> str:
            # Of another process: True if that lives, None if it is gone.
            table.require_current(registers=True)
            elsewhere = table.is_bound_elsewhere()
            if not force:
                table.require_own()
            mine, others = table.mine, table.others(sd_id)
            # It looks for rivals of this item only.
            table.require_term(mine, alone=mine is None or mine["sd_id"] != sd_id)
            held = mine["sd_id"] if mine and laws.holds(mine) else None
            live = [row for row in others if not table.has_lapsed(row)]
            if held not in (None, sd_id) and not switch:
                return "HoldsAnother"
            if held not in (None, sd_id) and table.runs(mine):
                return "HeldByAnother"
            if live and not force:
                return "HeldByAnother"
            if held == sd_id and elsewhere is not False:
                return "moved"
            if others:
                return "forced" if live else "took_over"
            return "claimed" if held is None else "already_yours" if held == sd_id else "switched"

        return table.settle(work, ("already_yours",))

    def heartbeat(self, caller: Caller, register: bool) -> str:
        """Return the answer of a heartbeat."""
        table = self._table(caller)

        def work() -> str:
            table.require_current()
            mine = table.mine
            if mine is None:
                return "registered" if register else "NotHeld"
            table.require_here()
            table.require_term(mine)
            lost, is_lost = laws.stone(mine), laws.unsettled(mine)
            if mine["status"] == "released":
                return "NotHeld" if not register else "lost" if lost else "registered"
            if mine["sd_id"] is not None:
                gone = mine["status"] == "stale" and table.others(mine["sd_id"])
                return "lost" if gone or is_lost else "renewed"
            if not lost or not laws.is_restorable(lost):
                return "lost" if is_lost else "renewed"
            return "lost" if table.others(lost["sd_id"]) or self._was_taken_since(lost) else "restored"

        return table.settle(work, ("renewed",))

    def _was_taken_since(self, lost: Row) -> bool:
        """Whether the history knows a later term of an item that was lost to silence."""
        since = lost.get("fence") or laws.fence({"claimed_at": datetime.fromisoformat(lost["at"])}) or 0
        terms = [term for term in self._ledger.terms if term.item == lost["sd_id"]]
        return self._ledger.has_history and any((term.fence or 0) > since for term in terms)

    def release(self, caller: Caller, sd_id: str | None, end: bool) -> str:
        """Return the answer of a release."""
        table = self._table(caller)

        def work() -> str:
            table.require_current(writes=False)
            table.require_own()
            mine = table.mine
            table.require_term(mine, alone=mine is None or mine["sd_id"] != sd_id)
            lost = laws.stone(mine) if mine else None
            held = mine["sd_id"] if mine and laws.holds(mine) else None
            fits, fits_lost = held is not None and sd_id in (None, held), lost and sd_id in (None, lost["sd_id"])
            if sd_id and not fits and not fits_lost and (held or table.others(sd_id)):
                return "NotHeld"
            if mine is None or not (fits or fits_lost or (end and mine["status"] != "released")):
                return "nothing_held"
            if (fits or end) and table.runs(mine):
                return "HeldByAnother"
            return "ended" if end else "released" if fits else "nothing_held"

        return table.settle(work)

    def release_other(self, caller: Caller, prefix: str, end: bool, reason: str | None) -> str:
        """Return the answer of a release of a named session."""
        rows = list(self._ledger.rows.values())
        matches = [row for row in rows if row["session_id"].startswith(prefix)]
        exact = [row for row in matches if row["session_id"] == prefix]
        found = exact or [row for row in matches if row["status"] != "released"] or matches
        if len(found) != 1:
            return "UsageError" if found else "NotHeld"
        [row] = found
        if len(prefix) < 4 and not exact:
            return "UsageError"
        table = self._table(caller)
        if table.is_of_caller(row):
            return self.release(caller.as_session(row["session_id"]), None, end)
        held = laws.holds(row)
        if not held and (row["status"] == "released" or not end):
            return "nothing_held"
        if held and reason is None and not table.has_lapsed(row):
            return "UsageError"
        return "ended" if end else "released"

    def reap(self, caller: Caller, max_age: float | None) -> str:
        """Return the sessions that a reap changes, and their new statuses."""
        changed, now = {}, self._clock.read()
        for row in self._ledger.rows.values():
            alive = self._ledger.is_alive(row)
            if row["status"] == "released" or alive:
                continue
            if alive is False:
                changed[row["session_id"]] = "released"
            elif row["status"] == "stale" and row["sd_id"] is None:
                if now - max(laws.last_sign(row), row["updated_at"]) > laws.DAY:
                    changed[row["session_id"]] = "released"
            elif laws.silent(row, caller.settings.stale_after, now) or (
                row["sd_id"] is not None
                and max_age is not None
                and not laws.parked(row, now)
                and now - (row["claimed_at"] or now) > timedelta(seconds=max_age)
            ):
                changed[row["session_id"]] = "stale"
        return "reaped " + " ".join(sorted(f"{session}={to}" for session, to in changed.items()))

    def check(self, caller: Caller, sd_id: str | None, fence: int | None) -> str:
        """Return the answer of a check."""
        table = self._table(caller)

        def work() -> str:
            table.require_current(writes=False)
            return self._prove(table, sd_id, fence)

        return table.settle(work)

    def renew_term(self, caller: Caller, sd_id: str | None, fence: int | None) -> str:
        """Return the answer of a term's renewal."""
        return self._prove(self._table(caller), sd_id, fence)

    @staticmethod
    def _prove(table: Table, sd_id: str | None, fence: int | None) -> str:
        mine, lost = table.mine, table.lost_term(table.mine)
        if mine is None or table.is_bound_elsewhere() or (lost and sd_id in (None, lost["sd_id"])):
            return "NotHeld"
        told = laws.stone(mine)
        if told and laws.unsettled(mine) and sd_id in (None, told["sd_id"]):
            return "NotHeld"
        held = laws.holds(mine) and sd_id in (None, mine["sd_id"]) and fence in (None, laws.fence(mine))
        return "done" if held and mine["status"] != "stale" and not table.later(mine) else "NotHeld"

    def release_term(self, caller: Caller, sd_id: str, fence: int) -> str:
        """Return the answer of a term's end: NotHeld if it was lost before."""
        table = self._table(caller)
        mine = table.mine
        if mine and laws.holds(mine) and (mine["sd_id"], laws.fence(mine)) == (sd_id, fence):
            return "done"
        term = {"sd_id": sd_id, "fence": fence}
        lost = table.lost_term(mine) if mine and laws.recorded_term(mine) == term else None
        lost = lost or (laws.stone(mine) if mine else None)
        later = any((laws.fence(row) or 0) > fence for row in table.others(sd_id))
        return "NotHeld" if mine is None or later or (lost and lost["sd_id"] == sd_id) else "done"

    def park(self, caller: Caller) -> str:
        """Return the answer of park and unpark."""
        table = self._table(caller)

        def work() -> str:
            table.require_current()
            table.require_here()
            mine = table.mine
            table.require_term(mine)
            fit = mine and laws.holds(mine) and not laws.unsettled(mine) and mine["status"] != "stale"
            return "done" if fit else "NotHeld"

        return table.settle(work)

    def enter(self, caller: Caller, sd_id: str) -> str:
        """Return the answer of a command that begins to run under a claim."""
        table = self._table(caller)

        def work() -> str:
            table.require_here()
            mine = table.mine
            table.require_term(mine)
            if not mine or not laws.holds(mine) or laws.unsettled(mine) or mine["status"] == "stale":
                return "NotHeld"
            if mine["sd_id"] != sd_id:
                return "NotHeld"
            return "HeldByAnother" if table.runs(mine) else "done"

        return table.settle(work)
