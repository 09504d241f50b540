"""Invariants of every single change of the table, and of the answers of the operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from faults.stepping import Operation

Row = dict[str, Any]
KEY = "claude_sessions_cli"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
DAY, PARK_LIMIT = timedelta(days=1), timedelta(minutes=45)
SILENT, GONE, MAX_AGE, FORCED, BY_OTHER = "silent", "process gone", "max age", "forced", "released by another"
SILENT_TO_THE_END, CLEARED = "silent until it ended", "cleared by another program"
# How an operation may end another session's claim: reason -> (operations, status after it).
EVICTIONS = {
    SILENT: ({"claim", "claim_any", "reap"}, {"stale"}),
    GONE: ({"claim", "claim_any", "reap", "here"}, {"released"}),
    MAX_AGE: ({"reap"}, {"stale"}),
    FORCED: ({"claim"}, {"idle"}),
    BY_OTHER: ({"release_other"}, {"idle", "stale", "released"}),
}
CLAIMS = {"claim", "claim_any"}
RELEASES = {"release", "release_other"}
# Operations that end the caller's own claim without a tombstone.
GIVES_BACK = {*RELEASES, "release_term", *CLAIMS}
# Operations that first put the caller's row in order: its process, its term, its loss.
SETTLES = {"heartbeat", "park", "unpark", "enter"}
# The ends of a run: they note a loss, and undo what the run left in the row even then.
RUN_ENDS = {"leave", "release_term"}
REGISTERS = {"heartbeat", *CLAIMS}

# Every change of any program as two rows, before and after, in the order of the row locks.
JOURNAL = """
CREATE TABLE public.journal AS
SELECT 0::bigint AS entry, 0 AS backend, false AS later, s.* FROM public.claude_sessions AS s WITH NO DATA;
CREATE SEQUENCE public.journal_entries;
CREATE FUNCTION public.keep_journal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entry bigint := nextval('public.journal_entries');
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO public.journal SELECT entry, pg_backend_pid(), false, OLD.*;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO public.journal SELECT entry, pg_backend_pid(), true, NEW.*;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_journal AFTER INSERT OR UPDATE OR DELETE ON public.claude_sessions
FOR EACH ROW EXECUTE FUNCTION public.keep_journal();
"""


def own(row: Row) -> dict[str, Any]:
    """Return the tool's part of a row's metadata."""
    part = row["metadata"].get(KEY) if isinstance(row["metadata"], dict) else None
    return part if isinstance(part, dict) else {}


def theirs(row: Row) -> Any:
    """Return the other programs' part."""
    if row["metadata"] is None:
        return {}
    if not isinstance(row["metadata"], dict):
        return row["metadata"]
    return {key: value for key, value in row["metadata"].items() if key != KEY}


def stone(row: Row) -> dict[str, Any] | None:
    """Return a row's tombstone."""
    found = own(row).get("tombstone")
    return found if isinstance(found, dict) else None


def is_restorable(lost: dict[str, Any]) -> bool:
    """Whether a heartbeat may restore a lost item: silence ended it, nobody took it, and no release let it go."""
    return lost["reason"] == SILENT and lost.get("by") is None and not lost.get("acknowledged")


def told_by(kind: str, lost: dict[str, Any]) -> dict[str, Any]:
    """Return a tombstone after an operation has reported it."""
    return {**lost, "told": True, **({"acknowledged": True} if kind in RELEASES else {})}


def recorded_term(row: Row) -> dict[str, Any] | None:
    """Return the term that a row's own metadata record."""
    found = own(row).get("term")
    return found if isinstance(found, dict) else None


def process(row: Row) -> tuple[Any, Any, Any]:
    """Return what a row records of its process."""
    return row["pid"], row["tty"], own(row).get("process")


def known(row: Row) -> dict[str, Any] | None:
    """Return the process that a row records, if it belongs to its pid."""
    record = own(row).get("process")
    return record if isinstance(record, dict) and record.get("pid") == row["pid"] is not None else None


def goes_on(was: Row, becomes: Row) -> bool:
    """Whether a session ends because its process goes on under the next id."""
    ends = was["status"] != "released" and becomes["status"] == "released"
    return ends and str(own(becomes).get("release_reason")).startswith("continued as")


def has_room(row: Row) -> bool:
    """Whether the tool can write its part of a row's metadata."""
    return isinstance(row["metadata"], (dict, type(None)))


def unsettled(row: Row) -> bool:
    """Whether a heartbeat reports a loss."""
    lost = stone(row)
    return lost is not None and not (lost.get("told") is True and holds(row))


def holds(row: Row | None) -> bool:
    """Whether a row excludes others from its item."""
    return row is not None and row["sd_id"] is not None and row["status"] != "released"


def fence(row: Row) -> int | None:
    """Return the fence of a row's claim."""
    return None if row["claimed_at"] is None else (row["claimed_at"] - EPOCH) // timedelta(microseconds=1)


def last_sign(row: Row) -> datetime:
    """Return a row's last sign of life."""
    sign = row["heartbeat_at"] or row["claimed_at"] or row["created_at"] or EPOCH
    assert isinstance(sign, datetime)
    return sign


def parked(row: Row, now: datetime) -> bool:
    """Whether a row is within its declared silence."""
    until = own(row).get("parked_until")
    if until is None:
        return False
    return now < min(datetime.fromisoformat(until), min(last_sign(row), now) + PARK_LIMIT)


def silent(row: Row, stale_after: float, now: datetime) -> bool:
    """Whether a row has been silent for longer than it and the caller allow."""
    patience = timedelta(seconds=max(own(row).get("stale_after", 0), stale_after))
    return not parked(row, now) and now - last_sign(row) > patience


class Broken(AssertionError):
    """A law is broken."""


def demand(condition: object, law: str, *about: object) -> None:
    """Raise Broken unless the law is kept."""
    if not condition:
        raise Broken("\n  ".join([law, *(brief(part) if isinstance(part, dict) else str(part) for part in about)]))


def brief(row: Row) -> str:
    """Return the main facts of a row in a line."""
    if "session_id" not in row:
        return "\n  ".join(brief(part) if isinstance(part, dict) else str(part) for part in row.values())
    times = {name: row[name] for name in ("claimed_at", "heartbeat_at", "updated_at") if row.get(name)}
    shown = ", ".join(f"{name} {time:%d %H:%M:%S.%f}" for name, time in times.items())
    return f"{row['session_id']}: {row.get('status')} {row['sd_id']}, {shown}, pid {row['pid']}, {row.get('metadata')}"


@dataclass
class Term:
    """One tenure, and the operation that began it."""

    session: str
    item: str
    fence: int | None
    operation: Operation
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.item} held by {self.session} under {self.fence}: {self.operation}"

    def is_that_of(self, row: Row) -> bool:
        """Whether a row is in this term."""
        return holds(row) and (row["session_id"], row["sd_id"], fence(row)) == (self.session, self.item, self.fence)


@dataclass
class Change:
    """One change of one row."""

    operation: Operation
    was: Row | None
    becomes: Row | None

    def __str__(self) -> str:
        rows = [brief(row) if row else "nothing" for row in (self.was, self.becomes)]
        return f"{self.operation}:\n    {rows[0]}\n    {rows[1]}"

    @property
    def row(self) -> Row:
        """The row after it, or the one deleted."""
        row = self.becomes or self.was
        assert row is not None
        return row

    @property
    def same_term(self) -> bool:
        """Whether a claim goes on."""
        was, becomes = self.was, self.becomes
        return (
            was is not None
            and becomes is not None
            and holds(was)
            and holds(becomes)
            and (was["sd_id"], was["claimed_at"]) == (becomes["sd_id"], becomes["claimed_at"])
        )

    @property
    def ends(self) -> bool:
        """Whether a claim ends."""
        return holds(self.was) and not self.same_term

    @property
    def begins(self) -> bool:
        """Whether a claim begins."""
        return holds(self.becomes) and not self.same_term


@dataclass
class Ledger:
    """The table after the changes recorded so far, and all terms so far."""

    has_history: bool
    is_alive: Callable[[Row], bool | None]
    rows: dict[Any, Row] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    # Tombstones that other programs' writes took out of the tool's hands.
    disturbed: set[str] = field(default_factory=set)
    # Rows whose own metadata another program wrote, or has no room for.
    rewritten: set[str] = field(default_factory=set)
    # Sessions whose term another program ended.
    orphaned: set[str] = field(default_factory=set)
    # Sessions that lost a claim, and its item, until a claim or release told it.
    losses: dict[str, str] = field(default_factory=dict)

    def row(self, session: str) -> Row | None:
        """Return a session's row."""
        return next((row for row in self.rows.values() if row["session_id"] == session), None)

    def holders(self, item: str) -> list[Row]:
        """Return the holders of an item."""
        return [row for row in self.rows.values() if holds(row) and row["sd_id"] == item]

    def term_of(self, row: Row) -> Term:
        """Return the term that a row is in."""
        return next(term for term in reversed(self.terms) if not term.ended and term.is_that_of(row))

    def record(self, change: Change) -> None:
        """Check and apply a change."""
        if not change.operation.foreign:
            self._check_tool(change)
        self._note_disturbance(change)
        self._note_loss(change)
        if change.ends:
            assert change.was
            self.term_of(change.was).ended = True
        if change.begins:
            assert change.becomes
            self._begin(change, change.becomes)
        if change.becomes is None:
            del self.rows[change.row["id"]]
        else:
            self.rows[change.row["id"]] = change.becomes

    def _note_loss(self, change: Change) -> None:
        """Keep the sessions that lost the claim of their last term, until something tells them."""
        was, becomes, session = change.was, change.becomes, change.row["session_id"]
        by_itself = not change.operation.foreign and was is not None and self._is_own(change.operation, was)
        by_itself = by_itself and not self._is_robbed(change)
        lost = stone(becomes) if becomes else None
        told = by_itself and was and (change.begins or (stone(was) and lost is None) or (lost or {}).get("told"))
        # An end through the tool removes the term; one by another program leaves it to be found.
        ended = becomes is not None and becomes["status"] == "released" and recorded_term(becomes) is None
        if becomes is None or told or session in self.rewritten or (ended and not lost):
            self.losses.pop(session, None)
        elif was and change.ends and not by_itself:
            recorded = recorded_term(was) or {}
            if (recorded.get("sd_id"), recorded.get("fence")) == (was["sd_id"], fence(was)):
                self.losses[session] = was["sd_id"]
        if becomes and holds(becomes) and becomes["sd_id"] == self.losses.get(session) and not lost:
            del self.losses[session]

    def _note_disturbance(self, change: Change) -> None:
        was, becomes, session = change.was, change.becomes, change.row["session_id"]
        if change.operation.foreign:
            reopened = was and was["status"] == "released" and becomes and becomes["status"] != "released"
            if was and becomes and (reopened or own(was) != own(becomes)):
                self.disturbed.add(session)
        elif becomes is None or stone(becomes) is None:
            self.disturbed.discard(session)
        if becomes is None or (change.begins and not change.operation.foreign and has_room(becomes)):
            self.rewritten.discard(session)
        elif not has_room(becomes) or (change.operation.foreign and was and own(was) != own(becomes)):
            self.rewritten.add(session)
        if becomes is None or recorded_term(becomes) is None:
            self.orphaned.discard(session)
        elif change.operation.foreign and not holds(becomes):
            self.orphaned.add(session)

    def _begin(self, change: Change, row: Row) -> None:
        operation = change.operation
        if not operation.foreign:
            self._check_exclusion(change, row)
            self._check_fence(change, row)
        self.terms.append(Term(row["session_id"], row["sd_id"], fence(row), operation))

    def _check_exclusion(self, change: Change, row: Row) -> None:
        for other in self.holders(row["sd_id"]):
            if other["id"] == row["id"]:
                continue
            excused = self._may_miss(change.operation, self.term_of(other))
            demand(excused, "a claim of an item that has a holder", change, other)

    @staticmethod
    def _may_miss(operation: Operation, term: Term) -> bool:
        """Whether another program began a term during an operation: it locks nothing, so that a claim may miss it."""
        return term.operation.foreign and term.operation in operation.overlapped

    def _check_fence(self, change: Change, row: Row) -> None:
        mine = fence(row)
        demand(mine is not None, "a claim without a fence", change)
        assert mine is not None
        now = row["updated_at"]  # the clock of this statement
        for term in self.terms:
            if term.item != row["sd_id"] or term.fence is None:
                continue
            if self._may_miss(change.operation, term):
                continue
            # Without history, fences are as monotonic as the clock, but for terms whose trace is still in the rows.
            if (
                not self.has_history
                and EPOCH + timedelta(microseconds=term.fence) >= now
                and not self._traced(term, row, change.operation)
            ):
                continue
            demand(mine > term.fence, "a fence repeats or falls", change, term)

    def _traced(self, term: Term, row: Row, operation: Operation) -> bool:
        """Whether a tombstone still names an earlier term: in the taker's row, or in a loser's without successor."""
        for other in self.rows.values():
            lost = stone(other)
            if not lost or lost["sd_id"] != term.item or term.fence not in (lost.get("fence"), lost.get("new_fence")):
                continue
            named_now = other["status"] in ("idle", "stale") and other["updated_at"] in operation.times
            if named_now or other["id"] == row["id"]:
                return other["session_id"] not in self.disturbed
        return False

    def _check_tool(self, change: Change) -> None:
        operation, was, becomes = change.operation, change.was, change.becomes
        if was is None:
            assert becomes
            continues = operation.kind in SETTLES and operation.facts.get("ids")
            allowed = operation.kind in REGISTERS or continues
            demand(allowed, "registered by an operation that does not register", change)
            name = becomes["session_id"]
            # Another program may have deleted the row of the id that acts.
            acts = any(own(row).get("continued_as") == name for row in self.rows.values())
            demand(name == operation.session or acts, "registered another session", change)
            demand((becomes["sd_id"], becomes["status"]) == (None, "idle"), "not registered idle", change)
            demand(set(becomes["metadata"]) == {KEY}, "registered with others' metadata", change)
            return
        if becomes is None:
            self._check_prune(operation, was)
            return
        self._check_columns(change, was, becomes)
        if not self._is_own(operation, was) or self._is_robbed(change):
            self._check_foreign_row(change, was, becomes)
        else:
            self._check_process(change, was, becomes)
            if goes_on(was, becomes):
                self._check_continued(change, was, becomes)
            if has_room(was):
                self._check_own_tombstone(change, was, becomes)
        if has_room(was):
            self._check_term(change, was, becomes)
        if change.ends:
            self._check_end(change, was, becomes)
        if change.begins:
            self._check_begin(change, was, becomes)

    def _is_own(self, operation: Operation, row: Row) -> bool:
        """Whether an operation acts as a row's session: one that is named only if it is of the caller's process."""
        if operation.kind == "release_other":
            mine = operation.facts.get("process")
            return mine is not None and known(row) == mine
        name = row["session_id"]
        if name in operation.facts.get("ids", ()):
            # Another program may have written over the process of the id that acts.
            acts = name in self.rewritten or any(own(other).get("continued_as") == name for other in self.rows.values())
            if known(row) == operation.facts["process"] or (known(row) is None and acts):
                return True
        return bool(name == operation.session)

    @staticmethod
    def _is_robbed(change: Change) -> bool:
        """Whether a forced claim takes what a row has for another id of its process, or names itself there."""
        was, lost = change.was, stone(change.row)
        if was is None or not lost or lost["reason"] != FORCED or lost == stone(was):
            return False
        by_other = lost.get("by") in change.operation.facts.get("ids", ()) and lost["by"] != was["session_id"]
        taken = change.ends and (lost["sd_id"], lost.get("fence")) == (was["sd_id"], fence(was))
        return by_other and (taken or {**lost, "new_fence": None} == {**(stone(was) or {}), "new_fence": None})

    def _check_prune(self, operation: Operation, was: Row) -> None:
        demand(operation.kind == "reap" and operation.facts["prune"], "a row was deleted", operation, was)
        touched = max(time for time in (was["heartbeat_at"], was["updated_at"], was["created_at"]) if time)
        old = max(operation.times) - touched > timedelta(seconds=operation.facts["prune"] or 0)
        demand(was["status"] == "released" and old, "a row was pruned too early", operation, was)

    def _check_columns(self, change: Change, was: Row, becomes: Row) -> None:
        operation, times = change.operation, change.operation.times
        differ = {name for name in was if was[name] != becomes[name]}
        demand(not differ & {"id", "session_id", "created_at"}, "an identity column changed", change)
        demand(theirs(was) == theirs(becomes), "other programs' metadata changed", change)
        straight = was["sd_id"] is not None and becomes["sd_id"] not in (None, was["sd_id"])
        demand(not straight, "moved straight from one item to another", change)
        if was["sd_id"] is not None and becomes["sd_id"] is None:
            cleared = becomes["track"] is None and becomes["claimed_at"] is None
            demand(cleared, "a claim was cleared in part", change)
        if differ - {"heartbeat_at"}:
            demand(becomes["updated_at"] in times, "changed without updated_at", change)
        if "heartbeat_at" in differ:
            demand(becomes["heartbeat_at"] in times, "a heartbeat at another time than now", change)
            renews = operation.kind not in ("release", "release_term", "release_other", "check")
            demand(renews, "a release touched heartbeat_at", change)
        if operation.kind in ("renew_term", "here", "release_term", "check"):
            allowed = {"renew_term": {"heartbeat_at"}, "check": set()}.get(operation.kind)
            demand(allowed is None or differ <= allowed, "more than a heartbeat was written", change)
        if operation.kind in ("renew_term", "release_term"):
            term = operation.facts["term"]
            # The session of a lost term ends with it, and its row may still name an item; or its loss is noted.
            noted = (stone(becomes) or {}).get("reason") == CLEARED and stone(becomes) != stone(was)
            ended = operation.kind == "release_term" and (not holds(was) or noted)
            demand(ended or term.is_that_of(was), "a term that is over was written to", change, term)

    def _check_continued(self, change: Change, was: Row, becomes: Row) -> None:
        """Check the end of an id that its process goes on without; what it carries over is checked there."""
        operation, name = change.operation, str(own(becomes).get("continued_as"))
        acts = name == operation.session or any(own(row).get("continued_as") == name for row in self.rows.values())
        allowed = operation.kind in {*SETTLES, *CLAIMS} and acts and name != was["session_id"]
        demand(allowed, "continued by an operation that does not, or as another id", change)
        ended = (becomes["status"], own(becomes).get("release_reason")) == ("released", f"continued as {name}")
        demand(ended and stone(becomes) is None, "continued, but not ended", change)
        runner = own(was).get("run")
        demand(not runner or not self.is_alive({**was, "pid": None}), "continued under a command that runs", change)
        operation.facts["carries"] = [*operation.facts.get("carries", []), was]
        if was["session_id"] in self.disturbed:
            self.disturbed.add(name)

    def _check_process(self, change: Change, was: Row, becomes: Row) -> None:
        """Check that a row keeps its process, unless that is gone, its session had ended, or a claim is forced."""
        operation, recorded = change.operation, own(was).get("process")
        mine, force = operation.facts.get("process"), operation.facts.get("force")
        alive = self.is_alive(was) if known(was) else None
        if was["status"] == "released":
            operation.facts["reopens"] = True
        reopens = operation.facts.get("reopens", False)
        is_twin = mine is not None and alive is True and recorded != mine
        demand(not is_twin or force or reopens, "a second process of an id wrote", change)
        if process(was) == process(becomes):
            return
        if mine is None:
            demand(
                reopens and was["pid"] == becomes["pid"], "a caller of no known process changed that of a row", change
            )
            return
        seen = (becomes["pid"], own(becomes).get("process") if has_room(becomes) else mine)
        demand(seen == (mine["pid"], mine), "a row was given another process than the caller's", change)
        bound = recorded == mine or alive is False or (force and alive)
        demand(bound or reopens, "a row without a process was given one", change)

    def _check_own_tombstone(self, change: Change, was: Row, becomes: Row) -> None:
        """Check that the caller's own loss is noted, told and forgotten by the operations that may."""
        kind, before, after = change.operation.kind, stone(was), stone(becomes)
        tells = kind in {*CLAIMS, *RELEASES}
        if before == after:
            return
        if after is None:
            assert before
            restorable = is_restorable(before) and before["sd_id"] == becomes["sd_id"]
            restored = kind == "heartbeat" and change.begins and restorable
            carried = goes_on(was, becomes)
            # One that makes several attempts marks it only, and none marks and removes it.
            told = kind in {"claim", *RELEASES} and before.get("told") is True
            told = told and not change.operation.facts.get("marks")
            # The process to which a session moves by force is told nothing: the loss is of the one before.
            moved = change.operation.facts.get("force") and own(was).get("moved") != own(becomes).get("moved")
            demand(restored or carried or told or moved, "a loss was forgotten", change)
        elif after in [stone(row) for row in change.operation.facts.get("carries", [])]:
            demand(before is None or before.get("told"), "a loss was forgotten for another", change)
        elif before is not None and after == told_by(kind, before):
            demand(tells, "a loss was told by an operation that tells none", change)
            change.operation.facts["marks"] = True
        elif after["reason"] == CLEARED:
            demand(tells or kind in {*SETTLES, *RUN_ENDS}, "a loss was noted by an operation that notes none", change)
            recorded = {"sd_id": after["sd_id"], "fence": after["fence"]}
            demand(recorded == recorded_term(was), "a loss of another term than the recorded one", change)
            key = (fence(was) or 0, was["session_id"])
            rivals = [row for row in self.holders(after["sd_id"]) if ((fence(row) or 0), row["session_id"]) > key]
            gone = was["sd_id"] != after["sd_id"] or rivals
            demand(gone, "a loss of what the session holds", change)
        else:
            demand(kind == "heartbeat", "a loss was changed by an operation that changes none", change)
            demand(after["reason"] in (SILENT, SILENT_TO_THE_END), "a loss for a reason of others", change)
            lost = before if before and was["sd_id"] is None else {"sd_id": was["sd_id"], "fence": fence(was)}
            same = all(after.get(name) == lost.get(name) for name in ("sd_id", "fence"))
            demand(same and (before is None or was["sd_id"] or not change.ends), "another loss than there was", change)

    def _check_term(self, change: Change, was: Row, becomes: Row) -> None:
        """Check that a row's own metadata record its term while it lasts."""
        before, after, kind = recorded_term(was), recorded_term(becomes), change.operation.kind
        current = {"sd_id": becomes["sd_id"], "fence": fence(becomes)} if holds(becomes) else None
        if change.begins:
            demand(after == current, "a claim began without its term", change)
        elif change.ends:
            demand(after is None, "a term outlived its claim", change)
        elif after is None and before is not None:
            lost = stone(becomes) or {}
            noted = (lost.get("reason"), lost.get("sd_id")) == (CLEARED, before["sd_id"])
            is_over = "released" in (was["status"], becomes["status"])
            demand(noted or is_over, "a term was forgotten", change)
        elif after != before:
            demand(after == current and kind in {"heartbeat", *CLAIMS}, "another term than that of the claim", change)

    def _check_foreign_row(self, change: Change, was: Row, becomes: Row) -> None:
        """Check a change of another session's row."""
        operation, differ = change.operation, {name for name in was if was[name] != becomes[name]}
        mine = {name for name in {*own(was), *own(becomes)} if own(was).get(name) != own(becomes).get(name)}
        if operation.kind == "here" and differ == {"heartbeat_at"}:
            return
        if operation.kind in ("reap", "here") and "heartbeat_at" in differ:
            demand(was["heartbeat_at"] > becomes["heartbeat_at"], "reap beat for a session", change)
            differ -= {"heartbeat_at"}
            if not differ:
                return
        demand("heartbeat_at" not in differ, "beat for another session", change)
        before, after = stone(was) or {}, stone(becomes) or {}
        actors = (operation.session, *operation.facts.get("ids", ()))
        if operation.kind in {*SETTLES, *CLAIMS} and mine == {"tombstone"} and not change.ends:
            successor = {"by": after.get("by"), "new_fence": after.get("new_fence")}
            named = differ <= {"metadata", "updated_at"} and after == {**before, **successor}
            unnamed = (
                before.get("by") in (None, after.get("by") in actors and after["by"])
                and before.get("new_fence") is None
            )
            demand(named and unnamed, "more than a successor was written", change)
            return
        ends = operation.kind in {"reap", "here", "release_other"} or (operation.kind in CLAIMS and change.ends)
        demand(ends, "another session's row changed", change)
        columns = {"sd_id", "track", "claimed_at", "status", "metadata", "updated_at"}
        demand(differ <= columns, "columns of another session's row changed", change)
        ours = {"tombstone", "parked_until", "release_reason", "term", "note", "run"}
        if isinstance(was["metadata"], dict) and isinstance(was["metadata"].get(KEY, {}), dict):
            demand(mine <= ours, "other things of another session's row changed", change)
            demand("note" not in own(becomes), "a note outlived its claim", change)
        if not change.ends and becomes["status"] != was["status"]:
            self._check_end_of_idle(operation, was, becomes)
        if not change.ends:
            demand(before == after, "a tombstone of another session changed", change)

    def _check_end_of_idle(self, operation: Operation, was: Row, becomes: Row) -> None:
        """Check why a session that holds nothing was put to stale or released by another."""
        if operation.kind == "release_other":
            return
        alive, now = self.is_alive(was), max(operation.times)
        demand(alive is not True, "a session whose process lives was reaped", operation, was)
        if becomes["status"] == "stale":
            demand(silent(was, operation.facts["stale_after"], now), "reaped before it fell silent", operation, was)
        elif alive is None:
            touched = max(last_sign(was), was["updated_at"])
            demand(was["status"] == "stale" and now - touched > DAY, "released before its day", operation, was)

    def _check_end(self, change: Change, was: Row, becomes: Row) -> None:
        operation, lost = change.operation, stone(becomes)
        if self._is_own(operation, was) and not self._is_robbed(change):
            # Some leave a tombstone in their next statement: that is checked when the operation has ended.
            allowed = operation.kind in {*SETTLES, "reap", "here", *GIVES_BACK}
            demand(allowed, "its own operation lost a claim", change)
            return
        if not isinstance(was["metadata"], (dict, type(None))):
            return  # another program's metadata has no room for a tombstone
        demand(lost, "a claim was lost without a tombstone", change)
        assert lost
        matches = (lost["sd_id"], lost.get("fence")) == (was["sd_id"], fence(was))
        demand(matches, "a tombstone records another claim", change)
        kinds, statuses = EVICTIONS.get(lost["reason"], (set(), set()))
        demand(operation.kind in kinds, "lost for a reason that this operation has not", change)
        demand(becomes["status"] in statuses, "lost with another status than its reason's", change)
        named = operation.kind in {*CLAIMS, "release_other"}
        by = (operation.session, *operation.facts.get("ids", ())) if named else (None,)
        demand(lost.get("by") in by, "a tombstone names another successor", change)
        alive, now = self.is_alive(was), max(operation.times)
        if lost["reason"] in (SILENT, GONE, MAX_AGE):
            demand(alive is not True, "a session whose process lives lost its claim", change)
        if lost["reason"] == SILENT:
            demand(silent(was, operation.facts["stale_after"], now), "lost before it fell silent", change)
        elif lost["reason"] == GONE:
            demand(alive is False, "lost as dead without proof", change)
        elif lost["reason"] == MAX_AGE:
            limit = operation.facts["max_age"]
            old = limit is not None and now - (was["claimed_at"] or now) > timedelta(seconds=limit)
            demand(old, "lost for an age that it had not", change)
        elif lost["reason"] == FORCED:
            demand(operation.facts["force"], "forced without being asked to", change)

    def _check_begin(self, change: Change, was: Row, becomes: Row) -> None:
        operation = change.operation
        demand(self._is_own(operation, was), "claimed for another session", change)
        carries = operation.facts.get("carries", [])
        moved = own(was).get("release_reason") == "moved" and self.is_alive(was) is False
        moved = moved or any(row["sd_id"] == becomes["sd_id"] for row in carries)
        allowed = operation.kind in REGISTERS or (moved and operation.kind in SETTLES)
        demand(allowed, "claimed by an operation that does not claim", change)
        demand(becomes["status"] == "active", "claimed with another status than active", change)
        lost = stone(becomes)
        told = lost is None or (operation.kind in CLAIMS and lost.get("told") is True)
        carried = lost in [stone(row) for row in carries]
        demand(told or carried or (moved and lost == stone(was)), "claimed with a tombstone left", change)
        parks = [None, *(own(row).get("parked_until") for row in carries)]
        demand(own(becomes).get("parked_until") in parks, "claimed with a park left", change)
        if operation.kind in SETTLES and was["sd_id"] is None and not moved:
            lost = stone(was) or {}
            restored = (lost.get("sd_id"), lost.get("reason"), lost.get("by")) == (becomes["sd_id"], SILENT, None)
            # Or it still held it, from a program that writes no time of a claim.
            renumbered = own(was).get("release_reason") == "new fence"
            demand((restored or renumbered) and operation.kind == "heartbeat", "a heartbeat claimed", change)
            if restored and was["session_id"] not in self.disturbed:
                self._check_unsucceeded(change, lost["sd_id"], lost.get("fence"))
        mine, unknown = operation.facts.get("process"), known(was) is None
        if mine and has_room(becomes) and (operation.facts.get("reopens") or not unknown):
            seen = (becomes["pid"], own(becomes).get("process"))
            demand(seen == (mine["pid"], mine), "not its process", change)

    def _check_unsucceeded(self, change: Change, item: str, lost_fence: int | None) -> None:
        """Check that no other session has held an item since the term that is restored."""
        operation = change.operation
        mine = (operation.session, *operation.facts.get("ids", ()))
        lost = [n for n, term in enumerate(self.terms) if term.session in mine and term.fence == lost_fence]
        if not lost or lost_fence is None:
            return  # another program wrote no time of the claim
        for term in self.terms[lost[-1] + 1 :]:
            if term.item != item or term.session in mine or self._may_miss(term.operation, self.terms[lost[-1]]):
                continue
            # Only the history knows the terms of other programs, by their fences.
            seen = self.has_history and term.operation not in operation.overlapped and (term.fence or 0) > lost_fence
            demand(term.operation.foreign and not seen, "a claim came back past another's", change, term)

    def check_ended(self, operation: Operation, changes: list[Change]) -> None:
        """Check the effects of an operation that has ended."""
        demand(operation.deadlocks == 0, "a deadlock", operation, *operation.statements)
        if operation.foreign or operation.crashed:
            return
        if operation.error is not None and operation.kind not in RUN_ENDS:
            others = [change for change in changes if not self._settles(change)]
            if any(change.begins and self._settles(change) for change in changes):
                # A claim that moved or went on names itself in the tombstones of earlier losers.
                others = [change for change in others if change.ends or stone(change.row) is None]
            demand(not others, "an operation that failed changed something", operation, operation.error, *others)
        for change in changes:
            if operation.kind in {*SETTLES, "reap", "here"} and change.ends and change.was:
                was = change.was
                again = [other.becomes for other in changes if other.begins and other.row["id"] == was["id"]]
                if not any(row and row["sd_id"] == was["sd_id"] and fence(row) != fence(was) for row in again):
                    self._check_tombstone(operation, was)
        for was in operation.facts.get("carries", []):
            self._check_carried(operation, was, changes)
        self._check_told(operation)
        taken = [
            change.becomes
            for change in changes
            if change.begins and change.was and change.becomes and change.was["sd_id"] is None
        ]
        for row in taken:
            self._check_successor(operation, row)
        if operation.kind in CLAIMS and operation.error is None:
            result = operation.result.session.session
            mine = [change.becomes for change in changes if change.row["session_id"] == result.session_id]
            last = mine[-1] if mine else None
            demand(last, "a claim that wrote nothing", operation)
            assert last
            stored = last["sd_id"], fence(last), result.status
            demand(stored == (result.sd_id, result.fence, "active"), "a claim answers a wrong state", operation, last)
            recorded = {"sd_id": result.sd_id, "fence": result.fence}
            demand(not has_room(last) or recorded_term(last) == recorded, "a claim without its term", operation, last)
            demand(result.sd_id in operation.facts["items"], "a claim took another item", operation, result)
            self._check_claim(operation, changes, bool(taken))

    @staticmethod
    def _check_carried(operation: Operation, was: Row, changes: list[Change]) -> None:
        """Check that a process's next id got what the one before had."""
        names = {own(other.becomes).get("continued_as") for other in changes if other.was is was and other.becomes}
        mine = [change.becomes for change in changes if change.row["session_id"] in names]
        items = [(row["sd_id"], fence(row) or 0) for row in mine if row and holds(row)]
        stones = [stone(row) for row in mine if row]
        if holds(was):
            taken = any(item == was["sd_id"] and after > (fence(was) or 0) for item, after in items)
            noted = any(lost and lost["sd_id"] == was["sd_id"] for lost in stones)
            demand(taken or noted, "a claim was not carried over", operation, was)
        elif stone(was):
            demand(stone(was) in stones, "a loss was not carried over", operation, was)

    def _settles(self, change: Change) -> bool:
        """Whether a change only puts the caller's row in order, whatever the operation's answer is."""
        was, becomes, kind, facts = change.was, change.becomes, change.operation.kind, change.operation.facts
        if becomes is None or not self._is_own(change.operation, was or becomes):
            return False
        if was is None or facts.get("carries"):
            return facts.get("ids") is not None
        if {**was, "heartbeat_at": None} == {**becomes, "heartbeat_at": None}:
            return kind in ("heartbeat", "renew_term")  # before the loss showed
        before, lost = stone(was), stone(becomes)
        if lost != before:
            removed = before is not None and lost is None and before.get("told") is True
            tells = before is not None and kind in CLAIMS and (removed or lost == told_by(kind, before))
            return tells or (lost is not None and lost["reason"] == CLEARED)
        return kind in SETTLES and (process(was) != process(becomes) or own(becomes).get("release_reason") == "moved")

    def _check_told(self, operation: Operation) -> None:
        """Check that a claim or release has reported the caller's loss, even if it was refused."""
        row = self.row(operation.session or "")
        if operation.facts.get("ids"):
            return  # it may act for another id
        refused = operation.error is None or type(operation.error).__name__ in (
            "HeldByAnother",
            "HoldsAnother",
            "UsageError",
        )
        if not operation.alone or row is None or not refused or row["session_id"] in self.disturbed:
            return
        mine = operation.facts.get("process")
        if mine and self.is_alive(row) and own(row).get("process") != mine:
            return  # a second process of an id
        if operation.error is not None and "a command is running" in str(operation.error):
            return  # it looks at nothing else
        told = (stone(row) or {}).get("told", True)
        # The last refusal of several attempts is reported by the command.
        tells = operation.kind == "claim" or (operation.kind == "claim_any" and operation.error is None)
        if tells or (operation.kind == "release" and operation.facts["sd_id"] is None):
            demand(told, "a loss was not told", operation, row)

    def _check_claim(self, operation: Operation, changes: list[Change], began: bool) -> None:
        """Check that a claim reports whether it is new, and that its fence exceeds those that it evicted."""
        outcome, now_fence = operation.result.outcome, operation.result.session.session.fence
        ended = {
            change.row["session_id"]: change.was
            for change in changes
            if change.ends and change.was and (stone(change.row) or {}).get("reason") != CLEARED
        }
        mine = ended.pop(operation.result.session.session.session_id, None)
        for row in operation.facts.get("carries", []):
            ended.pop(row["session_id"], None)
        demand(began or outcome not in ("claimed", "switched"), "a claim that did not begin", operation, outcome)
        if outcome == "already_yours":
            over = mine is not None and self._is_overtaken(mine)
            demand(not began or over, "a claim that was taken twice", operation)
        evicts = operation.result.evicted is not None
        demand(evicts == bool(ended), "an unreported eviction", operation, outcome)
        demand(evicts or outcome not in ("took_over", "forced"), "an eviction of nobody", operation, outcome)
        for row in ended.values():
            demand(now_fence > (fence(row) or 0), "a fence below that of an evicted holder", operation, row)

    def _is_overtaken(self, row: Row) -> bool:
        """Whether a row has no fence, or there was a later one of its item."""
        mine = fence(row)
        return mine is None or any(term.item == row["sd_id"] and (term.fence or 0) > mine for term in self.terms)

    def _check_tombstone(self, operation: Operation, was: Row) -> None:
        row = self.rows.get(was["id"])
        if row is not None and holds(row) and row["sd_id"] == was["sd_id"]:
            return  # it goes on under a new fence
        if any(other["id"] == was["id"] for other in operation.facts.get("carries", [])):
            return  # or another id
        if row is None or not isinstance(was["metadata"], (dict, type(None))) or row["session_id"] in self.disturbed:
            return
        lost, began = stone(row) or {}, recorded_term(was) or {}
        fences = [fence(was), began.get("fence") if lost.get("reason") == CLEARED else fence(was)]
        matches = lost.get("sd_id") == was["sd_id"] and lost.get("fence") in fences
        names = {row["session_id"], *operation.facts.get("ids", ())}
        later = {other for other in operation.overlapped if other.session in names}
        demand(matches or later, "a claim was lost without a tombstone", operation, was, row)

    def _check_successor(self, operation: Operation, taken: Row) -> None:
        """Check that no session can restore an item that another has held since."""
        for row in self.rows.values():
            lost = stone(row)
            if (
                row["session_id"] in {taken["session_id"], *self.disturbed}
                or not lost
                or lost["sd_id"] != taken["sd_id"]
            ):
                continue
            # A told loss beside a claim is never restored: it goes when the claim does.
            is_over = row["status"] == "released" or (lost.get("told") is True and holds(row))
            restorable = is_restorable(lost) and not is_over
            its_terms = [t for t in self.terms if (t.session, t.fence) == (row["session_id"], lost.get("fence"))]
            if its_terms and self._may_miss(operation, its_terms[-1]):
                continue
            demand(not restorable, "a claim that does not name itself in the tombstones of the item", operation, row)

    def check_state(self) -> None:
        """Check the invariants of a quiet table."""
        for term in self.terms:
            row = self.row(term.session)
            if term.ended and row is not None and not term.operation.foreign and term.is_that_of(row):
                current = self.term_of(row)
                demand(current.operation.foreign, "a fence that was lost is valid again", term, row)
        for row in self.rows.values():
            if row["session_id"] in self.rewritten:
                continue
            recorded = {"sd_id": row["sd_id"], "fence": fence(row)}
            if not holds(row):
                demand(recorded_term(row) is None or row["session_id"] in self.orphaned, "a term without a claim", row)
            elif not self.term_of(row).operation.foreign:
                demand(recorded_term(row) == recorded, "a claim without its term", row)
        for item in {term.item for term in self.terms}:
            tools = [row for row in self.holders(item) if not self.term_of(row).operation.foreign]
            demand(len(tools) < 2, "two holders", *tools)
