"""Sessions as frozen values, and the one predicate that decides whether a claim has lapsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from claude_sessions_cli.times import EPOCH, fence_of, to_fence, to_time, utc

if TYPE_CHECKING:
    from uuid import UUID

METADATA_KEY = "claude_sessions_cli"
TRACKS = ("A", "B", "C", "STANDALONE")
STATUSES = ("active", "idle", "stale", "released")
PARK_LIMIT_S = 45 * 60
# The limit of a recorded stale_after: a longer one would keep a dead holder's item for too long.
STALE_AFTER_LIMIT_S = 7 * 24 * 3600

SILENT = "silent"
# Silent until the session ended: its item is no longer kept for it.
SILENT_TO_THE_END = "silent until it ended"
PROCESS_GONE = "process gone"
MAX_AGE = "max age"
FORCED = "forced"
RELEASED_BY_OTHER = "released by another"
CLEARED = "cleared by another program"
FORGOTTEN = "forgotten by the database"
# The reasons of terms that end because the session goes on elsewhere.
MOVED = "moved"
CONTINUED = "continued"


class Liveness(str, Enum):
    """What is known of a session's process; `UNKNOWN` is never treated as `DEAD`."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Label(str, Enum):
    """The state that `list` shows; the first that fits, in this order."""

    ENDED = "ENDED"
    YOURS = "YOURS"
    DEAD = "DEAD"
    PARKED = "PARKED"
    LAPSED = "LAPSED"
    LIVE = "LIVE"
    QUIET = "QUIET"


class ProcessRecord(NamedTuple):
    """The process that a row records."""

    pid: int
    start: str
    boot_id: str
    pid_ns: str
    machine_id: str | None = None

    def is_same(self, other: ProcessRecord | None) -> bool:
        """Whether both are one process."""
        return other is not None and (self.pid, self.start, self.boot_id, self.pid_ns) == (
            *(other.pid, other.start),
            *(other.boot_id, other.pid_ns),
        )


class Tombstone(NamedTuple):
    """What a session that lost its claim finds: which term, when, why, and its successor.

    `fence` is that of the lost term. `by` is the session that took the item or released it, and `new_fence` that of its
    term; both are None until one does. `told` is whether a command has reported the loss, `acknowledged` whether a
    release has: the session wants the item no more.
    """

    sd_id: str
    fence: int | None
    at: datetime | None
    reason: str
    by: str | None
    track: str | None = None
    note: str | None = None
    new_fence: int | None = None
    told: bool = False
    acknowledged: bool = False

    @property
    def restorable(self) -> bool:
        """Whether silence alone ended the term, no session has taken the item since, and no release let it go."""
        return self.reason == SILENT and self.by is None and not self.acknowledged

    def as_metadata(self) -> dict[str, Any]:
        """Return the JSON form that the row keeps."""
        return {
            "sd_id": self.sd_id,
            "fence": self.fence,
            "at": utc(self.at) if self.at else None,
            "reason": self.reason,
            "by": self.by,
            "track": self.track,
            "note": self.note,
            "new_fence": self.new_fence,
            "told": True if self.told else None,
            "acknowledged": True if self.acknowledged else None,
        }


class Term(NamedTuple):
    """A term as the session's own row remembers it, beside the columns that other programs write."""

    sd_id: str
    fence: int


class Witness(NamedTuple):
    """What a file of this host remembers of a row, with `updated_at` in microseconds since the epoch.

    A row that is older has gone back in time: a fail-over lost the claim.
    """

    sd_id: str
    fence: int | None
    updated_at: int


class Moved(NamedTuple):
    """From which process a session was moved by force, under which fence, when and why."""

    process: ProcessRecord
    fence: int | None
    at: datetime | None
    reason: str

    def as_metadata(self) -> dict[str, Any]:
        """Return the JSON form that the row keeps."""
        at = utc(self.at) if self.at else None
        return {"process": self.process._asdict(), "fence": self.fence, "at": at, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Session:
    """One row of `claude_sessions`, and the server's clock when it was read."""

    id: UUID
    session_id: str
    sd_id: str | None
    track: str | None
    tty: str | None
    pid: int | None
    hostname: str | None
    codebase: str | None
    claimed_at: datetime | None
    heartbeat_at: datetime | None
    status: str | None
    metadata: Any
    created_at: datetime | None
    updated_at: datetime | None
    server_now: datetime = field(repr=False)
    row_version: str | None = field(default=None, repr=False)

    @property
    def own(self) -> dict[str, Any]:
        """The tool's own part of `metadata`; empty if another program put something else there."""
        part = self.metadata.get(METADATA_KEY) if isinstance(self.metadata, dict) else None
        return part if isinstance(part, dict) else {}

    @property
    def fence(self) -> int | None:
        """`claimed_at` in whole microseconds since the epoch."""
        return fence_of(self.claimed_at)

    @property
    def holds(self) -> bool:
        """Whether this row excludes others from its item (an older writer leaves claims on idle and stale rows)."""
        return self.sd_id is not None and self.status != "released"

    @property
    def recorded_process(self) -> ProcessRecord | None:
        """The process that a command recorded, whatever other programs have written into the `pid` column since."""
        return _process_record(self.own.get("process"), self.pid)

    @property
    def process(self) -> ProcessRecord | None:
        """The recorded process, if it is complete and still belongs to the `pid` column."""
        record = self.recorded_process
        return record if record and record.pid == self.pid else None

    @property
    def runner(self) -> ProcessRecord | None:
        """The process that runs a command under the claim, if one does."""
        return _process_record(self.own.get("run"))

    @property
    def guardian(self) -> ProcessRecord | None:
        """The process that ends the command if the runner is killed, and lives until nothing of the command does."""
        runner, part = self.runner, self.own.get("run")
        guardian = part.get("guardian") if isinstance(part, dict) else None
        if runner is None or not isinstance(guardian, dict):
            return None
        return _process_record({**runner._asdict(), "start": None, **guardian})

    @property
    def tombstone(self) -> Tombstone | None:
        """The claim that this session lost, until it claims again or releases."""
        part = self.own.get("tombstone")
        if not isinstance(part, dict) or not isinstance(part.get("sd_id"), str):
            return None
        by, track, note = part.get("by"), part.get("track"), part.get("note")
        return Tombstone(
            sd_id=part["sd_id"],
            fence=to_fence(part.get("fence")),
            at=to_time(part.get("at")),
            reason=str(part.get("reason")),
            by=by if isinstance(by, str) else None,
            track=track if track in TRACKS else None,
            note=note if isinstance(note, str) else None,
            new_fence=to_fence(part.get("new_fence")),
            told=part.get("told") is True,
            acknowledged=part.get("acknowledged") is True,
        )

    @property
    def unsettled_loss(self) -> bool:
        """Whether a heartbeat reports a loss: no claim or release has, or nothing was claimed since."""
        return self.tombstone is not None and not (self.tombstone.told and self.holds)

    @property
    def term(self) -> Term | None:
        """The term that the session's own last claim began; None in rows of older versions, and after its end."""
        part = self.own.get("term")
        if not isinstance(part, dict) or not isinstance(part.get("sd_id"), str):
            return None
        fence = to_fence(part.get("fence"))
        return None if fence is None else Term(part["sd_id"], fence)

    @property
    def moved(self) -> Moved | None:
        """The process from which the session was moved by force, until it is moved again."""
        part = self.own.get("moved")
        record = _process_record(part.get("process")) if isinstance(part, dict) else None
        if not isinstance(part, dict) or record is None:
            return None
        return Moved(record, to_fence(part.get("fence")), to_time(part.get("at")), str(part.get("reason")))

    @property
    def id_from(self) -> str | None:
        """Which rule gave the session's id; None in rows of older versions and of other programs."""
        word = self.own.get("id_from")
        return word if isinstance(word, str) else None

    @property
    def continued_as(self) -> str | None:
        """The session id under which this session's process went on; None if it did not, or the row is open again."""
        name = self.own.get("continued_as")
        return name if isinstance(name, str) and self.status == "released" else None

    @property
    def note(self) -> str | None:
        """What the claim is for, in the words of whoever claimed."""
        note = self.own.get("note")
        return note if isinstance(note, str) and note else None

    @property
    def parked_until(self) -> datetime | None:
        """Until when silence is declared, never later than 45 minutes after the heartbeat that declared it."""
        until = to_time(self.own.get("parked_until"))
        if until is None:
            return None
        limit = min(self.last_sign, self.server_now) + timedelta(seconds=PARK_LIMIT_S)
        until = min(until, limit)
        return until if until > self.server_now else None

    @property
    def last_sign(self) -> datetime:
        """The last sign of life; the epoch if the row has no time."""
        return self.heartbeat_at or self.claimed_at or self.created_at or EPOCH

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the last sign of life by the server's clock; one in the future counts as now."""
        return max(0.0, (self.server_now - self.last_sign).total_seconds())

    @property
    def claim_age_s(self) -> float | None:
        """Seconds since the claim was taken."""
        return max(0.0, (self.server_now - self.claimed_at).total_seconds()) if self.claimed_at else None

    def effective_stale_after(self, stale_after: float) -> float:
        """Return the seconds of silence that this row is allowed: its recorded setting or, if longer, the caller's."""
        recorded = self.own.get("stale_after")
        if isinstance(recorded, (int, float)) and not isinstance(recorded, bool) and recorded > stale_after:
            return float(min(recorded, STALE_AFTER_LIMIT_S))
        return stale_after

    def expires_in_s(self, stale_after: float) -> float:
        """Return the seconds until silence alone makes the claim lapse; negative once it has."""
        by_silence = self.effective_stale_after(stale_after) - self.heartbeat_age_s
        parked = self.parked_until
        return max(by_silence, (parked - self.server_now).total_seconds()) if parked else by_silence

    def has_lapsed(self, liveness: Liveness, stale_after: float) -> bool:
        """Whether another session may take the item: the process is dead, or it is unknown and silent for too long.

        `claim`, `list` and `reap` all ask this one predicate. `stale_after` is the caller's setting in seconds.
        """
        if liveness is Liveness.DEAD:
            return True
        return liveness is Liveness.UNKNOWN and self.expires_in_s(stale_after) < 0

    def label(self, liveness: Liveness, lapsed: bool, heartbeat_every: float, mine: bool) -> Label:
        """Return the state that `list` shows."""
        if self.status == "released":
            return Label.ENDED
        if mine:
            return Label.YOURS
        if liveness is Liveness.DEAD:
            return Label.DEAD
        if self.parked_until:
            return Label.PARKED
        if lapsed:
            return Label.LAPSED
        if liveness is Liveness.ALIVE or self.heartbeat_age_s <= 2 * heartbeat_every:
            return Label.LIVE
        return Label.QUIET


class Actor(NamedTuple):
    """Whom the history names for a change; empty for an unknown one."""

    session_id: str = ""
    hostname: str = ""


class JudgedSession(NamedTuple):
    """A session as this host and this caller judge it, from one look at its process.

    `lapsed` is whether another session may take its item, `left` a process group that its guardian is ending: the
    runner was killed.
    """

    session: Session
    liveness: Liveness
    lapsed: bool
    label: Label
    expires_in_s: float
    left: int | None = None

    @property
    def remark(self) -> str | None:
        """What people are told beside the state: what the claim is for, and what outlived its runner."""
        left = f"run was killed, process group {self.left} is still running" if self.left else None
        return "; ".join(part for part in (self.session.note, left) if part) or None


def _process_record(part: object, pid: int | None = None) -> ProcessRecord | None:
    if not isinstance(part, dict):
        return None
    pid, start = part.get("pid", pid), part.get("start")
    boot_id, pid_ns = part.get("boot_id"), part.get("pid_ns")
    machine_id = part.get("machine_id")
    if isinstance(pid, int) and isinstance(start, str) and isinstance(boot_id, str) and isinstance(pid_ns, str):
        return ProcessRecord(pid, start, boot_id, pid_ns, machine_id if isinstance(machine_id, str) else None)
    return None
