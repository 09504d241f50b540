"""The answer of each operation if nothing else is running: a second implementation of the rules."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from claude_sessions_cli.operations.caller import Caller
from faults import laws
from faults.laws import Ledger, Row
from faults.stepping import Clock


class Oracle:
    """Predicts answers from the table that the ledger keeps."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def _lapsed(self, row: Row, stale_after: float) -> bool:
        alive = self._ledger.is_alive(row)
        return alive is False or (alive is None and laws.silent(row, stale_after, self._clock.read()))

    def claim(self, caller: Caller, sd_id: str, switch: bool, force: bool) -> str:
        """Return the answer of a claim."""
        mine = self._ledger.row(caller.session_id)
        held = mine["sd_id"] if mine and laws.holds(mine) else None
        others = [row for row in self._ledger.holders(sd_id) if row is not mine]
        live = [row for row in others if not self._lapsed(row, caller.settings.stale_after)]
        if held not in (None, sd_id) and not switch:
            return "UsageError"
        if live and not force:
            return "HeldByAnother"
        if others:
            return "forced" if live else "took_over"
        return "claimed" if held is None else "already_yours" if held == sd_id else "switched"

    def heartbeat(self, caller: Caller, register: bool) -> str:
        """Return the answer of a heartbeat."""
        mine = self._ledger.row(caller.session_id)
        if mine is None:
            return "registered" if register else "NotHeld"
        lost = laws.stone(mine)
        if mine["status"] == "released":
            return "NotHeld" if not register else "lost" if lost else "registered"
        stale = mine["sd_id"] if mine["status"] == "stale" else None
        restorable = lost and mine["sd_id"] is None and (lost["reason"], lost.get("by")) == (laws.SILENT, None)
        wanted = stale or (lost["sd_id"] if lost and restorable else None)
        if wanted is None:
            return "lost" if lost else "renewed"
        if any(row is not mine for row in self._ledger.holders(wanted)):
            return "lost"
        if lost and restorable and self._was_taken_since(lost):
            return "lost"
        return "restored" if lost else "renewed"

    def _was_taken_since(self, lost: Row) -> bool:
        """Whether the history knows a later term of an item that was lost to silence."""
        since = lost.get("fence") or laws.fence({"claimed_at": datetime.fromisoformat(lost["at"])}) or 0
        terms = [term for term in self._ledger.terms if term.item == lost["sd_id"]]
        return self._ledger.has_history and any((term.fence or 0) > since for term in terms)

    def release(self, caller: Caller, sd_id: str | None, end: bool) -> str:
        """Return the answer of a release."""
        mine = self._ledger.row(caller.session_id)
        lost = laws.stone(mine) if mine else None
        held = mine["sd_id"] if mine and laws.holds(mine) else None
        fits, fits_lost = held is not None and sd_id in (None, held), lost and sd_id in (None, lost["sd_id"])
        if sd_id and not fits and not fits_lost and any(row is not mine for row in self._ledger.holders(sd_id)):
            return "NotHeld"
        if held and not fits and end:
            return "NotHeld"
        if mine is None or not (fits or fits_lost or (end and mine["status"] != "released")):
            return "nothing_held"
        return "ended" if end else "released" if fits else "nothing_held"

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
                and now - (row["claimed_at"] or now) > timedelta(seconds=max_age)
            ):
                changed[row["session_id"]] = "stale"
        return "reaped " + " ".join(sorted(f"{session}={to}" for session, to in changed.items()))

    def check(self, caller: Caller, sd_id: str | None, fence: int | None) -> str:
        """Return the answer of a check."""
        mine = self._ledger.row(caller.session_id)
        lost = laws.stone(mine) if mine else None
        if mine is None or mine["status"] == "stale" or (lost and sd_id in (None, lost["sd_id"])):
            return "NotHeld"
        earliest = datetime.min.replace(tzinfo=timezone.utc)
        terms = {row["session_id"]: row["claimed_at"] or earliest for row in self._ledger.holders(mine["sd_id"])}
        later = any((at, who) > (terms[mine["session_id"]], mine["session_id"]) for who, at in terms.items())
        return "NotHeld" if later else self.renew_term(caller, sd_id, fence)

    def renew_term(self, caller: Caller, sd_id: str | None, fence: int | None) -> str:
        """Return the answer of a term's renewal."""
        mine = self._ledger.row(caller.session_id)
        held = mine is not None and laws.holds(mine) and sd_id in (None, mine["sd_id"])
        return "done" if held and mine and fence in (None, laws.fence(mine)) else "NotHeld"

    def release_term(self, caller: Caller, sd_id: str, fence: int) -> str:
        """Return the answer of a term's end: NotHeld if it was lost before."""
        if self.renew_term(caller, sd_id, fence) == "done":
            return "done"
        mine = self._ledger.row(caller.session_id)
        lost = laws.stone(mine) if mine else None
        others = [row for row in self._ledger.holders(sd_id) if row is not mine]
        later = any((laws.fence(row) or 0, row["session_id"]) > (fence, caller.session_id) for row in others)
        return "NotHeld" if mine is None or later or (lost and lost["sd_id"] == sd_id) else "done"

    def park(self, caller: Caller) -> str:
        """Return the answer of park and unpark."""
        mine = self._ledger.row(caller.session_id)
        fit = mine and laws.holds(mine) and laws.stone(mine) is None and mine["status"] != "stale"
        return "done" if fit else "NotHeld"
