"""Worker processes seen from the test, and the invariants of the table while they race."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from poll import until, until_waiting
from psycopg.rows import dict_row

from claude_sessions_cli import queries

TESTS = Path(__file__).parents[1]
RACERS = 16
# Of the long races, four fifths go directly to the server, on both kinds of schema; the last one through PgBouncer.
CONTENDED = int(os.environ.get("CLAUDE_SESSIONS_TEST_CONTENDED", "100000"))
ISOLATION = ["read committed", "repeatable read", "serializable"]
SEED, EXCLUSIVE, HISTORY = "001_claude_sessions.sql", "002_exclusive_claims.sql", "003_history.sql"
SCHEMAS = {"001 alone": [SEED], "whole schema": [SEED, EXCLUSIVE, HISTORY]}
DOUBLE_HOLDERS = (
    "SELECT sd_id FROM public.claude_sessions WHERE sd_id IS NOT NULL AND status IS DISTINCT FROM 'released'"
    " GROUP BY sd_id HAVING count(*) > 1"
)
# The end of each claim, its actor and its tombstone: a fence is claimed_at in microseconds.
AUDIT = """
CREATE TABLE IF NOT EXISTS public.audit (
    actor text, session_id text, sd_id text, fence bigint, tombstone jsonb, next_sd_id text
);
TRUNCATE public.audit;
CREATE OR REPLACE FUNCTION public.note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.audit VALUES (
        current_setting('claude_sessions.actor', true), OLD.session_id, OLD.sd_id,
        (extract(epoch FROM OLD.claimed_at) * 1000000)::bigint,
        NEW.metadata -> 'claude_sessions_cli' -> 'tombstone', NEW.sd_id
    );
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS note_end ON public.claude_sessions;
CREATE TRIGGER note_end AFTER UPDATE ON public.claude_sessions FOR EACH ROW
WHEN (OLD.sd_id IS NOT NULL AND (NEW.sd_id, NEW.claimed_at) IS DISTINCT FROM (OLD.sd_id, OLD.claimed_at))
EXECUTE FUNCTION public.note_end();
"""
LOST_WITHOUT_TOMBSTONE = """
SELECT * FROM public.audit
WHERE next_sd_id IS NOT NULL
    OR actor <> session_id AND (tombstone ->> 'sd_id', (tombstone ->> 'fence')::bigint) IS DISTINCT FROM (sd_id, fence)
"""

Answer = dict[str, Any]


class Worker:
    """One worker process; `send` and `receive` are apart, so that many can be sent off at once."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Whatever made the package importable here makes it so there.
            env={**environment, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])},
            start_new_session=True,
        )
        self._received = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, do: str, **parameters: Any) -> None:
        """Give a command without waiting for its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **parameters}).encode() + b"\n")

    def receive(self, timeout: float = 60) -> Answer:
        """Return the answer to the oldest command; raises EOFError if the process has died."""
        assert self._process.stdout
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"worker {self.pid} does not answer")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError(f"worker {self.pid} has ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def call(self, do: str, *, timeout: float = 60, **parameters: Any) -> Answer:
        """Give a command and return its answer."""
        self.send(do, **parameters)
        return self.receive(timeout)

    def expect(self, do: str, **parameters: Any) -> Answer:
        """Give a command that must succeed."""
        answer = self.call(do, **parameters)
        assert "error" not in answer, answer
        return answer

    def wait_until_stopped(self) -> None:
        """Wait until the process has stopped itself."""
        until(lambda: _state(self.pid) == "T", f"worker {self.pid} stops")

    def wait_until_stopped_or_answered(self) -> bool:
        """Wait until the process has stopped itself, or has an answer; return whether it stopped."""
        answers = self._process.stdout
        assert answers

        def has_answered() -> bool:
            return bool(select.select([answers], [], [], 0)[0])

        until(lambda: _state(self.pid) == "T" or has_answered(), f"worker {self.pid} stops or answers")
        return not has_answered()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _state(pid: int) -> str:
    output = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return output[:1]


class Pool(list[Worker]):
    """Workers that start a round together."""

    def race(
        self,
        commands: Sequence[dict[str, Any]],
        timeout: float = 60,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> list[Answer]:
        """Give each worker its command, all at once, do something `meanwhile`, and return their answers in order."""
        for worker, command in zip(self, commands, strict=False):
            worker.send(**command)
        meanwhile()
        return [worker.receive(timeout) for worker, _ in zip(self, commands, strict=False)]

    def all(self, do: str, **parameters: Any) -> None:
        """Give every worker the same command, which must succeed."""
        for answer in self.race([{"do": do, **parameters}] * len(self)):
            assert "error" not in answer, answer


@contextmanager
def workers(count: int = RACERS) -> Iterator[Pool]:
    """Start workers, and end them."""
    pool = Pool(Worker() for _ in range(count))
    try:
        yield pool
    finally:
        for worker in pool:
            worker.close()


class Watch:
    """Another program's view of the table, and the states that it must never see."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self.samples = 0
        self._seen: list[Any] = []

    def execute(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Run a statement."""
        cursor = self.connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def count(self, statement: str) -> int:
        """Run a statement that returns a number."""
        [row] = self.execute(statement)
        return int(row["number"])

    def holders(self, sd: str) -> list[str]:
        """Return the holders of an item."""
        rows = self.execute(
            "SELECT session_id FROM public.claude_sessions WHERE sd_id = %s AND status IS DISTINCT FROM 'released'", sd
        )
        return [row["session_id"] for row in rows]

    def row(self, session: str) -> dict[str, Any]:
        """Return a session's row."""
        [row] = self.execute("SELECT * FROM public.claude_sessions WHERE session_id = %s", session)
        return row

    def tombstone(self, session: str) -> dict[str, Any] | None:
        """Return a session's tombstone."""
        metadata = self.row(session)["metadata"] or {}
        found = metadata.get("claude_sessions_cli", {}).get("tombstone")
        assert found is None or isinstance(found, dict)
        return found

    def insert_lapsed(self, session: str, sd: str, status: str | None = "active", **columns: Any) -> None:
        """Insert a holder that fell silent two hours ago."""
        self.execute(
            "INSERT INTO public.claude_sessions (session_id, sd_id, status, claimed_at, heartbeat_at, pid, metadata)"
            " VALUES (%s, %s, %s, now() - interval '3 hours', now() - interval '2 hours', %s, %s::jsonb)",
            *(session, sd, status, columns.get("pid"), json.dumps(columns.get("metadata", {}))),
        )

    def silence(self, *sessions: str) -> None:
        """Make sessions silent for two hours."""
        self.execute(
            "UPDATE public.claude_sessions SET heartbeat_at = now() - interval '2 hours' WHERE session_id = ANY(%s)",
            list(sessions),
        )

    def set_isolation(self, level: str) -> None:
        """Set the isolation that connections to this database begin with from now on."""
        [row] = self.execute("SELECT current_database() AS name")
        self.execute(f"ALTER DATABASE {row['name']} SET default_transaction_isolation = '{level}'")

    def deadlocks(self) -> int:
        """Return how many deadlocks the database has seen, once every other connection to it is closed."""
        self.wait_until_alone()
        [row] = self.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(row["deadlocks"])

    def wait_until_alone(self) -> None:
        """Wait until every other connection to this database is closed, which also flushes its statistics."""
        others = (
            "SELECT count(*) AS number FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        until(lambda: self.count(others) == 0, "every other connection is closed")

    def wait_for_waiters(self, number: int) -> None:
        """Wait until that many connections to this database wait for a lock, and no more than that do."""
        assert len(until_waiting(self.connection, number)) == number

    def assert_single_holders(self) -> None:
        """Check that no item has two holders now, nor had at any sample."""
        assert self.execute(DOUBLE_HOLDERS) == []
        assert self._seen == []

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Look for double holders without a pause, on a connection of its own."""
        stop = threading.Event()

        def sample() -> None:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                while not stop.is_set():
                    self._seen += connection.execute(DOUBLE_HOLDERS).fetchall()
                    self.samples += 1
                    stop.wait(0.002)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


@contextmanager
def racing_database(create: Callable[[str], str], name: str, files: Sequence[str]) -> Iterator[str]:
    """Make a database with the DDL files given, in which a deadlock is noticed at once; drop it afterwards."""
    dsn = create(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for file in files:
            connection.execute((queries.directory() / "ddl" / file).read_bytes())
        connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
    yield dsn
    with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, dbname="template1"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def watched(dsn: str, pool: Pool) -> Iterator[Watch]:
    """Connect the workers to an empty table; afterwards there must be no double holder and no deadlock."""
    watch = Watch(dsn)
    try:
        watch.execute("TRUNCATE public.claude_sessions")
        watch.execute("DROP TRIGGER IF EXISTS note_end ON public.claude_sessions")
        watch.set_isolation("read committed")
        before = watch.deadlocks()
        pool.all("connect", dsn=dsn)
        yield watch
        watch.assert_single_holders()
        pool.all("disconnect")
        assert watch.deadlocks() == before
    finally:
        watch.close()


def assert_one_winner(answers: Sequence[Answer], outcome: str) -> int:
    """Check that one racer won and that all others got HeldByAnother; return the winner's index."""
    winners = [number for number, answer in enumerate(answers) if answer.get("outcome") == outcome]
    losers = [answer for answer in answers if answer.get("error") == "HeldByAnother" and answer["exit_code"] == 3]
    assert (len(winners), len(losers)) == (1, len(answers) - 1), answers
    return winners[0]


def race_for_one_item(pool: Pool, watch: Watch, rounds: int) -> None:
    """Race all workers for one free item, round after round: known sessions in one, new ones in the next."""
    for number in range(rounds):
        sessions = [f"w{index}" if number % 2 else f"w{index}-{number}" for index in range(len(pool))]
        answers = pool.race([{"do": "claim", "session": session, "sd": "SD-1"} for session in sessions])
        winner = sessions[assert_one_winner(answers, "claimed")]
        assert watch.holders("SD-1") == [winner]
        pool[0].expect("release", session=winner)


def race_of_commands(watch: Watch, rounds: int) -> None:
    """Race whole commands for one free item, held back until every one of them waits for it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
    command = [sys.executable, "-m", "claude_sessions_cli", "claim", "SD-1", "--json", "--dsn", watch.dsn]
    for number in range(rounds):
        with watch.connection.transaction():
            watch.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
            racers = [
                subprocess.Popen(
                    [*command, "--session", f"w{index}-{number}"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
                for index in range(RACERS)
            ]
            watch.wait_for_waiters(RACERS)
        answers = []
        for racer in racers:
            stdout, stderr = racer.communicate(timeout=60)
            assert stderr == b""
            envelope = json.loads(stdout)
            error = {"error": {"held": "HeldByAnother"}.get(envelope["error"]["code"])} if envelope["error"] else {}
            answers.append({**(envelope["data"] or {}), **error, "exit_code": racer.returncode})
        winner = assert_one_winner(answers, "claimed")
        assert answers[winner]["exit_code"] == 0
        assert watch.holders("SD-1") == [f"w{winner}-{number}"]
        watch.execute("TRUNCATE public.claude_sessions")


def heartbeat_behind_reaper(pool: Pool, watch: Watch, rounds: int) -> None:
    """Queue a heartbeat behind the reaper that takes its claim, and a claim of the same item behind the heartbeat.

    Either of the two may get the row first: hence the rounds.
    """
    beating, claiming = pool[:2]
    for number in range(rounds):
        item = f"SD-{number}"
        beating.expect("claim", session=f"w0-{number}", sd=item)
        with watch.connection.transaction():
            watch.execute(
                "UPDATE public.claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = 'stale',"
                " metadata = jsonb_set(metadata, '{claude_sessions_cli,tombstone}', %s::jsonb) WHERE session_id = %s",
                *(json.dumps({"sd_id": item, "fence": 1, "reason": "silent", "by": None}), f"w0-{number}"),
            )
            beating.send("heartbeat", session=f"w0-{number}")
            watch.wait_for_waiters(1)
            claiming.send("claim", session=f"w1-{number}", sd=item)
            watch.wait_for_waiters(2)
        beaten, claimed = beating.receive(), claiming.receive()
        assert (beaten.get("outcome"), claimed.get("outcome")) == ("lost", "claimed"), (beaten, claimed)


def race_for_lapsed_item(pool: Pool, watch: Watch, rounds: int, holders: Sequence[str | None]) -> None:
    """Race all workers for an item whose holders, one for each status given, have all fallen silent."""
    for number in range(rounds):
        lost = [f"lost{index}-{number}-of-{len(holders)}" for index in range(len(holders))]
        for session, status in zip(lost, holders, strict=True):
            watch.insert_lapsed(session, "SD-1", status)
        answers = pool.race([{"do": "claim", "session": f"w{i}", "sd": "SD-1"} for i in range(len(pool))])
        winner = f"w{assert_one_winner(answers, 'took_over')}"
        assert watch.holders("SD-1") == [winner]
        for session in lost:
            tombstone = watch.tombstone(session)
            assert tombstone is not None
            assert (tombstone["sd_id"], tombstone["by"], tombstone["reason"]) == ("SD-1", winner, "silent")
        pool[0].expect("release", session=winner)


def _release_waiters(watch: Watch, waiters: int) -> None:
    watch.wait_for_waiters(waiters)
    # A waiter for the first row of its pair must not hold the second: this order forbids deadlocks.
    unlocked = "SELECT session_id FROM public.claude_sessions FOR UPDATE SKIP LOCKED"
    assert len(watch.execute(unlocked)) == waiters
    watch.execute("COMMIT")


def cross_switches(pool: Pool, watch: Watch, rounds: int) -> Counter[str]:
    """Switch pairs of sessions to each other's item at once: live, one lapsed, both lapsed, forced."""
    pairs = [(f"w{index}", f"w{index + 1}", f"SD-{index}", f"SD-{index + 1}") for index in range(0, len(pool), 2)]
    kinds = ["live", "one lapsed", "both lapsed", "forced", "forced and lapsed"]
    seen = Counter[str]()
    for number in range(rounds):
        kind = kinds[number % len(kinds)]
        for index, (a, b, x, y) in enumerate(pairs):
            pool[index].expect("claim", session=a, sd=x, switch=True)
            pool[index].expect("claim", session=b, sd=y, switch=True)
            watch.silence(*{"live": (), "forced": (), "both lapsed": (a, b)}.get(kind, (a,)))
        force = kind.startswith("forced")
        wishes = [wish for a, b, x, y in pairs for wish in ((a, y), (b, x))]
        commands = [{"do": "claim", "session": who, "sd": item, "switch": True, "force": force} for who, item in wishes]
        if number // len(kinds) % 2:
            answers = pool.race(commands)
        else:
            watch.execute("BEGIN")
            ids = {row["session_id"]: row["id"] for row in watch.execute("SELECT * FROM public.claude_sessions")}
            lowest = [min(a, b, key=ids.__getitem__) for a, b, _, _ in pairs]
            watch.execute("SELECT id FROM public.claude_sessions WHERE session_id = ANY(%s) FOR UPDATE", lowest)
            answers = pool.race(commands, meanwhile=partial(_release_waiters, watch, len(wishes)))
        for (a, b, x, y), first, second in zip(pairs, answers[::2], answers[1::2], strict=True):
            results = tuple(answer.get("outcome") or answer["error"] for answer in (first, second))
            seen[f"{kind}: {' and '.join(sorted(results))}"] += 1
            assert results in _POSSIBLE[kind], (kind, first, second)
            for who, item, kept, answer in ((a, y, x, first), (b, x, y, second)):
                if "outcome" in answer:
                    assert watch.holders(item) == [who]
                elif kind == "live":
                    assert watch.holders(kept) == [who]
        watch.assert_single_holders()
        for index, (a, b, _, _) in enumerate(pairs):
            pool[index].expect("release", session=a)
            pool[index].expect("release", session=b)
    return seen


# The answers to the pair that holds X and Y and wants Y and X: those of one order or the other, and no third.
# A is the one that has lapsed.
_POSSIBLE = {
    "live": {("HeldByAnother", "HeldByAnother")},
    "one lapsed": {("HeldByAnother", "took_over"), ("claimed", "took_over")},
    "both lapsed": {("took_over", "claimed"), ("claimed", "took_over")},
    "forced": {("forced", "claimed"), ("claimed", "forced")},
    "forced and lapsed": {("forced", "claimed"), ("claimed", "took_over")},
}
CHURN = {"claim": 8, "switch": 4, "force": 1, "heartbeat": 6, "release": 3, "end": 1}


def churn(pool: Pool, watch: Watch, count: int, reapers: int = 3) -> Counter[str]:
    """Claim, switch, beat and release by sessions that lapse at once, while others reap; return the answers."""
    watch.execute(AUDIT)
    commands = [
        {
            "do": "churn",
            "session": f"w{index}",
            "items": [f"SD-{number}" for number in range(8)],
            "count": count,
            "weights": {"reap": 1} if index < reapers else CHURN,
            "stale_after": 0.02,
        }
        for index in range(len(pool))
    ]
    counts = Counter[str]()
    with watch.sampling():
        answers = pool.race(commands, timeout=600)
    for answer in answers:
        assert "error" not in answer, answer
        assert answer["wrong"] == []
        counts.update(answer["counts"])
    watch.assert_single_holders()
    assert watch.execute(LOST_WITHOUT_TOMBSTONE) == []
    return counts


def contend(
    pool: Pool,
    directory: Path,
    items: int,
    attempts: int,
    *,
    restarts: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> Counter[str]:
    """Claim and release a few items by all workers in a loop, `attempts` times in all; return the counts."""
    directory.mkdir(exist_ok=True)
    commands = [
        {
            "do": "contend",
            "session": f"w{index}",
            "items": [f"SD-{number}" for number in range(items)],
            "attempts": attempts // len(pool),
            "directory": str(directory),
            "restarts": restarts,
        }
        for index in range(len(pool))
    ]
    counts = Counter[str]()
    for answer in pool.race(commands, timeout=900, meanwhile=meanwhile):
        assert "error" not in answer, answer
        assert answer["wrong"] == []
        counts.update(answer["counts"])
    return counts
