"""Sixteen processes that claim, beat, stall, freeze and die: the times when each held an item or believed to.

Some open the session of another, some change their session id, and another program changes claims.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Server
from poll import until
from psycopg.rows import dict_row

from faults import pool as racing

pytestmark = pytest.mark.faults
SECONDS = float(os.environ.get("CLAUDE_SESSIONS_TEST_SECONDS", "60"))
HOLDERS, REAPERS = 16, 2
TWINS = (2, 10)
ITEMS = [f"SD-{number}" for number in range(6)]
# Between the clocks of this host and of a server in a container on it.
SKEW_S = 0.05
# A run without one of these proves little.
EVENTS = [
    *("claimed", "took_over", "renewed", "lost", "reaped", "kills", "freezes"),
    *("twin refused", "moved", "continued", "late", "ran"),
]
PICKED = """
WITH picked AS (
    SELECT * FROM public.claude_sessions WHERE sd_id IS NOT NULL AND status = 'active'
    ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED
)
"""
# What another program does to a claim.
MEDDLING = {
    "clear": PICKED
    + """
UPDATE public.claude_sessions AS s SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'idle'
FROM picked WHERE s.id = picked.id RETURNING picked.session_id, picked.sd_id
""",
    "re-stamp": PICKED
    + """
UPDATE public.claude_sessions AS s SET claimed_at = clock_timestamp()
FROM picked WHERE s.id = picked.id RETURNING picked.session_id, picked.sd_id
""",
    "double claim": PICKED
    + """
, taken AS (
    INSERT INTO public.claude_sessions (session_id, sd_id, status, claimed_at, heartbeat_at)
    SELECT 'stranger-' || gen_random_uuid(), sd_id, 'active', clock_timestamp(), clock_timestamp() FROM picked
)
SELECT session_id, sd_id FROM picked
""",
}

Line = dict[str, Any]


@dataclass
class Life:
    """One process, killed or not; its times are the host's monotonic clock. `session` is the id that it begins with."""

    name: str
    session: str
    anchored: bool
    log: Path
    child: subprocess.Popen[bytes]
    killed: float | None = None
    lines: list[Line] = field(default_factory=list)

    def read(self) -> None:
        """Read its log; a kill may have cut the last line."""
        whole = self.log.read_bytes().rpartition(b"\n")[0] if self.log.exists() else b""
        self.lines = [json.loads(line) for line in whole.splitlines()]

    def holds(self) -> bool:
        """Whether it believes to hold an item."""
        self.read()
        return bool(self.lines) and self.lines[-1].get("until", 0) > time.monotonic()

    @property
    def sessions(self) -> set[str]:
        """The ids that it had."""
        return {self.session} | {line["session"] for line in self.lines if "session" in line}

    def had(self, session: str) -> bool:
        """Whether it had an id, perhaps one that it was killed before it could log."""
        next_ids = f"{self.session.partition('.')[0]}.{self.child.pid}."
        return session in self.sessions or session.startswith(next_ids)


@dataclass
class Interval:
    """When a process held an item, or believed to, under a fence; `start` is when it asked."""

    item: str
    process: str
    session: str
    fence: int
    start: float
    begin: float
    end: float
    is_command: bool

    def overlaps(self, other: Interval) -> bool:
        """Whether two processes had one item at one time."""
        one = self.item == other.item and self.process != other.process
        return one and self.begin < other.end and other.begin < self.end


@dataclass
class Loss:
    """When another program ended the claim of a session: its holder cannot know before it asks."""

    session: str
    item: str
    before: float
    after: float


class Troupe:
    """The processes, and the faults that they suffer."""

    def __init__(self, dsn: str, directory: Path, seed: int, meddling: list[str]) -> None:
        self.dsn, self.directory, self.meddling = dsn, directory, meddling
        self.losses: list[Loss] = []
        self.places: dict[int, Life] = {}
        self.choose = random.Random(seed)
        self.lives: list[Life] = []
        self.counts: Counter[str] = Counter()

    def start(self, place: int, *, reaps: bool = False) -> Life:
        """Start a process; those at even places are a process that others can find."""
        name = f"{'reaper' if reaps else 'holder'}-{place}-{len(self.lives)}"
        log, anchored = self.directory / f"{name}.log", place % 2 == 0 and not reaps
        # Some open the session of a neighbour, which keeps its id.
        session = self.places[place - 2].session if place in TWINS and not reaps else name
        arguments = {"dsn": self.dsn, "session": session, "anchored": anchored, "items": ITEMS, "log": str(log)}
        arguments |= {"reaps": reaps, "rotates": anchored and place + 2 not in TWINS}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
        child = subprocess.Popen(
            [sys.executable, "-m", "faults.holder", json.dumps(arguments)],
            env={**environment, "PYTHONPATH": str(racing.TESTS)},
        )
        life = Life(name, session, anchored, log, child)
        self.lives.append(life)
        if not reaps:
            self.places[place] = life
        return life

    def meddle(self, connection: psycopg.Connection[Any]) -> None:
        """Change a claim as another program does."""
        how = self.choose.choice(self.meddling)
        before = time.monotonic()
        for session, item in connection.execute(MEDDLING[how]).fetchall():
            self.counts[how] += 1
            if how != "re-stamp":
                self.losses.append(Loss(session, item, before, time.monotonic()))

    def perform(self, seconds: float) -> None:
        """Run, freeze and kill them for a time, or longer until every event has happened, and end them."""
        with psycopg.connect(self.dsn, autocommit=True, options="-c statement_timeout=1500") as connection:
            self._perform(seconds, connection)

    def _perform(self, seconds: float, connection: psycopg.Connection[Any]) -> None:
        places = self.places
        for place in range(HOLDERS):
            self.start(place)
        reapers = [self.start(place, reaps=True) for place in range(REAPERS)]
        self.wait_until_ready([*places.values(), *reapers])
        begin, frozen = time.monotonic(), dict[int, float]()
        while (now := time.monotonic()) < begin + seconds or (now < begin + 5 * seconds and not self.is_complete()):
            for place in [place for place, thaw_at in frozen.items() if thaw_at < now]:
                del frozen[place]
                places[place].child.send_signal(signal.SIGCONT)
            if self.choose.random() < 0.25:
                with suppress(psycopg.errors.QueryCanceled):
                    self.meddle(connection)
            place = self.choose.randrange(HOLDERS)
            if self.choose.random() < 0.25:
                place = self.choose.choice([place, place, *self.bereft()])
                frozen.pop(place, None)
                self.kill(places[place])
                self.start(place)
            elif place not in frozen:
                self.counts["freezes"] += 1
                places[place].child.send_signal(signal.SIGSTOP)
                frozen[place] = now + self.choose.choice([0.5, 2, 4, 6])
            time.sleep(self.choose.uniform(0.3, 1.2))
        for place in frozen:
            places[place].child.send_signal(signal.SIGCONT)
        self.wait_until_ready([*places.values(), *reapers])
        for life in [*places.values(), *reapers]:
            life.child.terminate()
        for life in [*places.values(), *reapers]:
            assert life.child.wait(timeout=60) == 0, f"{life.name} failed"

    def bereft(self) -> list[int]:
        """Return the places to kill so that a twin gets what its session holds, or is a twin again."""
        pairs = [(twin, self.places[twin], self.places[twin - 2]) for twin in TWINS]
        alone = [twin for twin, one, other in pairs if one.session != other.session]
        return alone + [twin - 2 for twin, one, other in pairs if one.session == other.session and other.holds()]

    def wait_until_ready(self, lives: list[Life]) -> None:
        """Wait until processes have begun."""

        def all_ready() -> bool:
            self.noted()
            return all(life.lines for life in lives)

        until(all_ready, "processes start")

    def noted(self) -> Counter[str]:
        """Return the counts of the logged events."""
        for life in self.lives:
            life.read()
        return Counter(line["event"] for life in self.lives for line in life.lines)

    def is_complete(self) -> bool:
        """Whether all has happened that must have."""
        noted = self.noted() + self.counts
        return all(noted[event] for event in (*EVENTS, *self.meddling))

    def kill(self, life: Life) -> None:
        """Kill a process, which ends its beliefs."""
        self.counts["kills"] += 1
        life.killed = time.monotonic()
        life.child.kill()
        life.child.wait()

    def close(self) -> None:
        """End the processes that still run."""
        for life in self.lives:
            life.child.kill()
            life.child.wait()


@pytest.fixture(params=racing.SCHEMAS)
def stage(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[str, bool]]:
    """Return a database of its own, and whether it has a history."""
    with racing.racing_database(server.create, "cs_intervals", racing.SCHEMAS[request.param]) as dsn:
        yield dsn, request.param == "whole schema"


def believed(life: Life, losses: list[Loss]) -> list[Interval]:
    """Return the intervals in which a process believed to hold an item, as far as it had logged them.

    A command works on when its process is killed. No belief is wrong before its holder could know what another program
    did.
    """
    intervals: list[Interval] = []
    for line in life.lines:
        for interval in intervals:
            if line["event"] in ("released", "lost", "cut off") or (line["event"] == "stopped" and interval.is_command):
                interval.end = min(interval.end, line["now"])
        if "until" in line:
            item, session, fence, start = (line[name] for name in ("item", "session", "fence", "start"))
            is_command = line["event"] == "ran"
            intervals.append(Interval(item, life.name, session, fence, start, line["now"], line["until"], is_command))
    for interval in intervals:
        if not interval.is_command:
            interval.end = min(interval.end, life.killed or interval.end)
        for loss in losses:
            if loss.session in life.sessions and loss.item == interval.item and interval.start < loss.after:
                interval.end = min(interval.end, loss.before)
    return intervals


def overlaps(intervals: list[Interval]) -> list[tuple[Interval, Interval]]:
    """Return which of them overlap."""
    intervals = [interval for interval in intervals if interval.begin < interval.end]
    found: list[tuple[Interval, Interval]] = []
    by_item: defaultdict[str, list[Interval]] = defaultdict(list)
    for interval in sorted(intervals, key=lambda interval: interval.begin):
        open_ones = [other for other in by_item[interval.item] if interval.begin < other.end]
        found += [(other, interval) for other in open_ones if interval.overlaps(other)]
        by_item[interval.item] = [*open_ones, interval]
    return found


def read_terms(dsn: str, monotonic: float, wall: float) -> list[dict[str, Any]]:
    """Return the terms of the history in the order in which they began, their times on the host's monotonic clock."""
    terms: list[dict[str, Any]] = []
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        events = connection.execute(
            "SELECT *, (extract(epoch FROM claimed_at) * 1000000)::bigint AS fence,"
            " extract(epoch FROM at)::float8 AS time"
            " FROM public.claude_session_events WHERE event IN ('claimed', 'unclaimed') ORDER BY id"
        ).fetchall()
    for event in events:
        key = {name: event[name] for name in ("session_id", "sd_id", "fence")}
        at = event["time"] - wall + monotonic
        if event["event"] == "claimed":
            still_open = [term for term in terms if term["sd_id"] == event["sd_id"] and term["end"] is None]
            terms.append({**key, "begin": at, "end": None, "overlaps": still_open, "reason": None, "by": None})
        else:
            [term] = [term for term in terms if term["end"] is None and all(term[name] == key[name] for name in key)]
            term |= {"end": at, "reason": event["reason"], "by": event["actor_session"]}
    return terms


def test_no_two_sessions_hold_or_believe_to_hold_one_item(stage: tuple[str, bool], tmp_path: Path) -> None:
    dsn, has_history = stage
    seed = int(os.environ.get("CLAUDE_SESSIONS_TEST_SEED", "1"))
    # With the unique index no program can claim an item twice.
    meddling = ["clear", "re-stamp"] if has_history else list(MEDDLING)
    troupe = Troupe(dsn, tmp_path, seed, meddling)
    try:
        troupe.perform(SECONDS if has_history else SECONDS / 2)
    finally:
        troupe.close()
    monotonic, wall = time.monotonic(), time.time()
    counts = troupe.counts
    counts.update(troupe.noted())
    for life in troupe.lives:
        assert [line for line in life.lines if line["event"] == "wrong"] == []
    wrong = overlaps([interval for life in troupe.lives for interval in believed(life, troupe.losses)])
    counts["overlaps of beliefs"] = len(wrong)

    taken = [
        (line["item"], line["fence"])
        for life in troupe.lives
        for line in life.lines
        if line["event"] in ("claimed", "took_over", "switched", "restored", "moved", "continued")
    ]
    assert len(set(taken)) == len(taken), "a fence was given twice"

    if has_history:
        check_terms(troupe, read_terms(dsn, monotonic, wall))
    print(f"\n{seed=}", *(f"{name}: {number}" for name, number in sorted(counts.items())), sep="\n  ")
    assert wrong == []
    assert [event for event in (*EVENTS, *meddling) if not counts[event]] == []


def check_terms(troupe: Troupe, terms: list[dict[str, Any]]) -> None:
    """Check the history: no terms overlap, no living process lost one, and every answer to a renewal was true."""
    counts = troupe.counts
    counts["terms"] = len(terms)
    counts["overlaps of terms"] = sum(len(term["overlaps"]) for term in terms)
    assert counts["overlaps of terms"] == 0
    latest: dict[str, int] = {}
    for term in terms:
        assert term["fence"] > latest.get(term["sd_id"], 0), f"a fence falls: {term}"
        latest[term["sd_id"]] = term["fence"]
    for term in terms:
        counts[f"ended: {str(term['reason']).partition(' as ')[0]}"] += 1
        holder = holder_of(troupe, term)
        if holder.anchored and term["reason"] in ("silent", "process gone", "max age", "moved"):
            dead = holder.killed is not None and holder.killed <= term["end"] + SKEW_S
            counts["taken from a living process"] += not dead
            assert dead, f"taken from a living process: {term}"
    ends = {(term["session_id"], term["fence"]): term["end"] for term in terms}
    for life in troupe.lives:
        for line in life.lines:
            key = (line.get("session"), line.get("fence"))
            end = ends.get(key)
            if line["event"] in ("renewed", "late", "ran"):
                assert key in ends, f"a term that there was not: {life.name} {line}"
                assert end is None or line["start"] <= end + SKEW_S, f"renewed a lost claim: {life.name} {line}"
            elif line["event"] == "lost":
                assert end is not None and end <= line["now"] + SKEW_S, f"lost a held claim: {life.name} {line}"


def holder_of(troupe: Troupe, term: dict[str, Any]) -> Life:
    """Return the process that held a term: the one that knew its fence, or else one that was killed before it did."""
    lives = [life for life in troupe.lives if life.had(term["session_id"])]
    key = (term["session_id"], term["fence"])
    knew = [life for life in lives if key in [(line.get("session"), line.get("fence")) for line in life.lines]]
    return min(knew or lives, key=lambda life: life.killed or float("inf"))
