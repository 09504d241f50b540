"""Processes killed, stopped or cut off before any statement of theirs, and a server that crashes while they race.

Whatever happens: no item has two holders, a transaction happened whole or not at all, and the next claim works.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from poll import until

from faults import pool as racing
from faults import servers
from faults.pool import Pool, Watch, Worker

pytestmark = pytest.mark.faults
# The victim's own timeouts, in the tests that stop it; the others keep the tool's.
TIMEOUT_MS = 600
# The slack of a busy machine.
SLACK_S = 3.0
MOST_STATEMENTS = 20


@pytest.fixture
def watch(racing_dsn: str) -> Iterator[Watch]:
    """Return a view of the table, which must have no double holder at the end."""
    with closing(Watch(racing_dsn)) as seen:
        yield seen
        seen.assert_single_holders()


@pytest.fixture
def rival(racing_dsn: str) -> Iterator[Worker]:
    """Return a connected worker that wants the victim's item."""
    with racing.workers(1) as [worker]:
        worker.expect("connect", dsn=racing_dsn)
        yield worker


class Scene:
    """The table before the victim acts, its operation, and its rival's answer if the victim fails."""

    def __init__(self, prepare: Callable[[Watch, Worker], object], act: dict[str, Any], rival_gets: str) -> None:
        self.prepare, self.act, self.rival_gets = prepare, act, rival_gets

    def set(self, watch: Watch, rival: Worker) -> list[dict[str, Any]]:
        """Make the table anew and return its rows."""
        watch.execute("TRUNCATE public.claude_sessions")
        self.prepare(watch, rival)
        return rows(watch)


def _restorable(watch: Watch, rival: Worker) -> None:
    rival.expect("claim", session="victim", sd="SD-1")
    watch.silence("victim")
    assert rival.expect("reap")["changed"] == ["victim"]


def _holding(item: str) -> Callable[[Watch, Worker], object]:
    return lambda _, rival: rival.expect("claim", session="victim", sd=item)


def _lapsed(watch: Watch, _: Worker) -> None:
    for number in (1, 2, 3):
        watch.insert_lapsed(f"lost{number}", f"SD-{number}")


CLAIM = {"do": "claim", "session": "victim", "sd": "SD-1"}
SCENES = {
    "claim": Scene(lambda *_: None, CLAIM, "claimed"),
    "take over": Scene(_lapsed, CLAIM, "took_over"),
    "switch": Scene(_holding("SD-2"), {**CLAIM, "switch": True}, "claimed"),
    "claim again": Scene(_holding("SD-1"), CLAIM, "HeldByAnother"),
    "heartbeat": Scene(_holding("SD-1"), {"do": "heartbeat", "session": "victim"}, "HeldByAnother"),
    "restore": Scene(_restorable, {"do": "heartbeat", "session": "victim"}, "claimed"),
    "release": Scene(_holding("SD-1"), {"do": "release", "session": "victim"}, "HeldByAnother"),
    "reap": Scene(_lapsed, {"do": "reap", "session": "victim"}, "took_over"),
}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    """Return each scene in turn."""
    return SCENES[request.param]


def rows(watch: Watch) -> list[dict[str, Any]]:
    """Return the whole table."""
    return watch.execute("SELECT * FROM public.claude_sessions ORDER BY session_id")


def victims_backends(watch: Watch) -> int:
    """Return how many server processes the victim still has."""
    return watch.count(
        "SELECT count(*) AS number FROM pg_stat_activity"
        " WHERE application_name = 'victim' AND datname = current_database()"
    )


def outcome(answer: dict[str, Any]) -> Any:
    """Return an answer in one word."""
    return answer.get("error") or answer.get("outcome") or ("reaped" if answer["changed"] else "nothing reaped")


def rival_claims(rival: Worker, within: float) -> str:
    """Claim the victim's item by the rival, and check how long it waits."""
    begin = time.monotonic()
    answer = rival.call("claim", session="rival", sd="SD-1")
    assert time.monotonic() - begin < within, answer
    return str(outcome(answer))


def as_victim(dsn: str) -> str:
    """Return the DSN of the victim's connection, which is known by its name."""
    return psycopg.conninfo.make_conninfo(dsn, application_name="victim")


def test_process_killed_before_any_statement_changes_nothing(scene: Scene, watch: Watch, rival: Worker) -> None:
    for statement in count(1):
        before = scene.set(watch, rival)
        with racing.workers(1) as [victim]:
            victim.expect("connect", dsn=as_victim(watch.dsn))
            victim.expect("arm", statement=statement, kind="kill")
            victim.send(**scene.act)
            try:
                answer = victim.receive()
            except EOFError:
                until(lambda: victims_backends(watch) == 0, "the server notices the death")
            else:
                assert "error" not in answer, answer
                break
        assert rows(watch) == before, statement
        assert rival_claims(rival, SLACK_S) == scene.rival_gets, statement
        watch.assert_single_holders()
    assert 3 < statement < MOST_STATEMENTS
    assert rows(watch) != before


def test_connection_lost_before_any_statement_changes_nothing(scene: Scene, watch: Watch, rival: Worker) -> None:
    with racing.workers(1) as [victim]:
        for statement in count(1):
            before = scene.set(watch, rival)
            victim.expect("connect", dsn=as_victim(watch.dsn))
            victim.expect("arm", statement=statement, kind="terminate", admin_dsn=watch.dsn)
            answer = victim.call(**scene.act)
            if not victim.expect("disarm")["came"]:
                assert "error" not in answer, answer
                break
            assert (answer["error"], answer["exit_code"]) == ("Unreachable", 6), answer
            assert rows(watch) == before, statement
            assert rival_claims(rival, SLACK_S) == scene.rival_gets, statement
            watch.assert_single_holders()
    assert 3 < statement < MOST_STATEMENTS
    assert rows(watch) != before


def test_process_stopped_before_any_statement_loses_its_turn(scene: Scene, watch: Watch, rival: Worker) -> None:
    for statement in count(1):
        before = scene.set(watch, rival)
        with racing.workers(1) as [victim]:
            victim.expect("connect", dsn=as_victim(watch.dsn), timeout_ms=TIMEOUT_MS)
            victim.expect("arm", statement=statement, kind="stop")
            victim.send(**scene.act)
            stopped = victim.wait_until_stopped_or_answered()
            if not stopped:
                break
            assert rival_claims(rival, TIMEOUT_MS / 1000 + SLACK_S) == scene.rival_gets, statement
            evicted = lambda: victims_backends(watch) == 0 or not in_transaction(watch)  # noqa: E731
            until(evicted, "the stopped process loses its transaction", TIMEOUT_MS / 1000 + SLACK_S)
            holder = watch.holders("SD-1")
            assert holder == (["victim"] if scene.rival_gets == "HeldByAnother" else ["rival"])
            after = rows(watch)
            was_cut_off = victims_backends(watch) == 0
            victim.kill(signal.SIGCONT)
            answer = victim.receive()
            if was_cut_off:
                assert (answer["error"], answer["exit_code"]) == ("Unreachable", 6), answer
                assert rows(watch) == after, statement
            elif scene.rival_gets != "HeldByAnother":
                # It was between two transactions: it acts on the current table.
                assert outcome(answer) in ("HeldByAnother", "lost", "reaped", "nothing reaped"), answer
                assert watch.holders("SD-1") == ["rival"]
        watch.assert_single_holders()
    assert 3 < statement < MOST_STATEMENTS
    assert rows(watch) != before


def in_transaction(watch: Watch) -> int:
    """Return how many transactions the victim has open."""
    return watch.count(
        "SELECT count(*) AS number FROM pg_stat_activity"
        " WHERE application_name = 'victim' AND datname = current_database() AND state <> 'idle'"
    )


def test_stopped_reaper_does_not_block_other_reapers(watch: Watch, rival: Worker) -> None:
    watch.execute("TRUNCATE public.claude_sessions")
    _lapsed(watch, rival)
    with racing.workers(1) as [victim]:
        victim.expect("connect", dsn=as_victim(watch.dsn))
        # Before the COMMIT of its second transaction: four steps to look, two to change all sessions.
        victim.expect("arm", statement=7, kind="stop")
        victim.send("reap", session="victim")
        victim.wait_until_stopped()
        assert rival.expect("reap")["changed"] == []
        assert in_transaction(watch) == 1
        victim.kill(signal.SIGCONT)
        assert victim.receive()["changed"] == ["lost1", "lost2", "lost3"]


def test_stopped_waiter_blocks_next_only_until_its_timeout(watch: Watch, rival: Worker) -> None:
    watch.execute("TRUNCATE public.claude_sessions")
    with racing.workers(1) as [victim]:
        victim.expect("connect", dsn=as_victim(watch.dsn), timeout_ms=TIMEOUT_MS)
        with watch.connection.transaction():
            watch.execute("SELECT pg_advisory_xact_lock(hashtext('SD-1'))")
            victim.send(**CLAIM)
            watch.wait_for_waiters(1)
            victim.kill(signal.SIGSTOP)
            rival.send("claim", session="rival", sd="SD-1")
            watch.wait_for_waiters(2)
            begin = time.monotonic()
        assert outcome(rival.receive()) == "claimed"
        assert time.monotonic() - begin < TIMEOUT_MS / 1000 + SLACK_S
        victim.kill(signal.SIGCONT)
        assert outcome(victim.receive()) == "Unreachable"
    assert watch.holders("SD-1") == ["rival"]


def test_death_of_lock_holder_lets_one_waiter_win(watch: Watch) -> None:
    with racing.workers(racing.RACERS) as pool:
        for _ in range(5):
            watch.execute("TRUNCATE public.claude_sessions")
            with racing.workers(1) as [victim]:
                victim.expect("connect", dsn=as_victim(watch.dsn))
                # It has the lock of the item, and its row is written but not committed.
                victim.expect("arm", statement=4, kind="stop")
                victim.send(**CLAIM)
                victim.wait_until_stopped()
                pool.all("connect", dsn=watch.dsn)

                def kill(victim: Worker = victim) -> None:
                    watch.wait_for_waiters(len(pool))
                    victim.kill()

                commands = [{"do": "claim", "session": f"w{number}", "sd": "SD-1"} for number in range(len(pool))]
                begin = time.monotonic()
                winner = racing.assert_one_winner(pool.race(commands, meanwhile=kill), "claimed")
                assert time.monotonic() - begin < SLACK_S
            assert watch.holders("SD-1") == [f"w{winner}"]
            assert watch.execute("SELECT session_id FROM public.claude_sessions WHERE session_id = 'victim'") == []


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Return worker processes."""
    with racing.workers() as started:
        yield started


@pytest.mark.parametrize("schema", racing.SCHEMAS)
@pytest.mark.parametrize("crash", ["immediate stop", "killed backend"])
def test_answered_claims_survive_a_server_crash(schema: str, crash: str, pool: Pool, tmp_path: Path) -> None:
    with (
        servers.private_server() as server,
        racing.racing_database(server.create, "crashing", racing.SCHEMAS[schema]) as dsn,
    ):
        pool.all("connect", dsn=dsn)

        def crash_often() -> None:
            for _ in range(6):
                _wait_for_claims(dsn)
                if crash == "immediate stop":
                    server.stop_immediately()
                    server.start()
                else:
                    server.kill_backend()

        counts = racing.contend(pool, tmp_path / "locks", items=3, attempts=4000, restarts=True, meanwhile=crash_often)
        print(f"\n{dict(counts)}")
        assert counts["went away"] >= len(pool), counts
        with closing(Watch(dsn)) as watch:
            watch.assert_single_holders()
            assert watch.execute("SELECT sd_id FROM public.claude_sessions WHERE sd_id IS NOT NULL") == []
            assert outcome(pool[0].call("claim", session="w0", sd="SD-1")) == "claimed"
        pool.all("disconnect")


def _wait_for_claims(dsn: str) -> None:
    """Wait until claims are won that begin later than now; the server may be recovering still."""
    since: list[Any] = []

    def won() -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as connection:
            if not since:
                since.extend(connection.execute("SELECT clock_timestamp()").fetchall())
            return bool(
                connection.execute("SELECT 1 FROM public.claude_sessions WHERE claimed_at > %s", since[0]).fetchall()
            )
        return False

    until(won, "somebody claims")
