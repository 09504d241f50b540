"""Who stands behind a row: one id in two processes, one process with two ids, a term that another program ended."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from clock import DAY, NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process, queries
from claude_sessions_cli.errors import HeldByAnother, NotHeld, SessionsError, UsageError
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import ProcessRecord, Witness
from claude_sessions_cli.operations import agent, losses, rows, term
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import claim, mark_loss
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.list import list_sessions
from claude_sessions_cli.operations.park import park
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other
from claude_sessions_cli.operations.whoami import whoami
from claude_sessions_cli.times import fence_of, uptime

# The function has the module's name.
heartbeats = importlib.import_module("claude_sessions_cli.operations.heartbeat")
RUNNER = ProcessRecord(2**22 + 1, "1", this_host().boot_id, this_host().pid_ns)


def _all(table: Table) -> list[dict[str, Any]]:
    return table.execute("SELECT *, xmin::text FROM public.claude_sessions ORDER BY session_id")


def _on(pid: int, name: str = "a", minutes: float = 0, id_from: str = "environment") -> Caller:
    caller = make_caller(name, anchor=process.read(pid), now=at(minutes), tty="/dev/pts/7")
    return caller._replace(identity=caller.identity._replace(id_from=id_from))


def _caught(act: Callable[[], object]) -> SessionsError | None:
    try:
        act()
    except SessionsError as error:
        return error
    return None


# One id, two processes.


def test_second_process_of_an_id_is_refused_and_changes_nothing(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper().pid, sleeper().pid
    fence = claim(table.database, _on(first), "SD-1").session.session.fence
    before, twin = _all(table), _on(second, minutes=1)
    acts: dict[str, Callable[[], object]] = {
        "claim": lambda: claim(table.database, twin, "SD-1"),
        "claim another": lambda: claim(table.database, twin, "SD-2"),
        "heartbeat": lambda: heartbeat(table.database, twin),
        "register": lambda: heartbeat(table.database, twin, register=True),
        "park": lambda: park(table.database, twin, 60),
        "release": lambda: release(table.database, twin),
        "end": lambda: release(table.database, twin, end=True),
        "run": lambda: term.enter(table.database, twin, RUNNER, "SD-1"),
    }
    for name, act in acts.items():
        error = _caught(act)
        assert isinstance(error, HeldByAnother), name
        assert f"session a holds SD-1 and is open in another process (host {this_host().hostname}" in error.message
        assert _all(table) == before, name
    error = _caught(lambda: check(table.database, twin))
    assert isinstance(error, NotHeld) and "is open in another process" in error.message
    assert check(table.database, _on(first, minutes=2)).session.fence == fence
    [listed] = list_sessions(table.database, twin).sessions
    assert listed.label.value == "LIVE"


def test_process_of_unknown_fate_is_a_twin_until_it_lapses(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _on(sleeper().pid), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions"
        " SET metadata = jsonb_set(metadata, '{claude_sessions_cli,process,pid_ns}', '\"pid:[1]\"')"
    )
    second = sleeper().pid
    assert isinstance(_caught(lambda: heartbeat(table.database, _on(second, minutes=14))), HeldByAnother)
    result = claim(table.database, _on(second, minutes=16), "SD-1")
    assert (result.outcome, result.session.session.pid) == ("moved", second)


@pytest.mark.parametrize("verb", ["claim", "heartbeat", "park", "run"])
def test_session_of_a_dead_process_moves_under_a_new_fence(table: Table, sleeper: Sleeper, verb: str) -> None:
    first, second = sleeper(), sleeper().pid
    before = claim(table.database, _on(first.pid), "SD-1", track="A").session.session
    first.kill()
    first.wait()
    caller = _on(second, minutes=1)
    acts: dict[str, Callable[[], object]] = {
        "claim": lambda: claim(table.database, caller, "SD-1").outcome,
        "heartbeat": lambda: heartbeat(table.database, caller).outcome,
        "park": lambda: park(table.database, caller, 60),
        "run": lambda: term.enter(table.database, caller, RUNNER, "SD-1"),
    }
    assert check(table.database, caller).session.fence == before.fence, "check answers for the row"
    outcome = acts[verb]()
    assert outcome == "moved" or verb in ("park", "run")
    row, own = table.row("a"), table.own("a")
    assert (row["pid"], row["sd_id"], row["track"], own["process"]["pid"]) == (second, "SD-1", "A", second)
    assert own["term"] == {"sd_id": "SD-1", "fence": check(table.database, caller).session.fence}
    assert own["term"]["fence"] > (before.fence or 0)
    assert "tombstone" not in own


def test_release_after_a_dead_process_takes_no_new_term(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper(), sleeper().pid
    claim(table.database, _on(first.pid), "SD-1")
    first.kill()
    first.wait()
    assert release(table.database, _on(second, minutes=1)).sd_id == "SD-1"
    assert table.row("a")["sd_id"] is None


def test_force_moves_session_and_tells_the_process_before(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper().pid, sleeper().pid
    fence = claim(table.database, _on(first), "SD-1").session.session.fence
    moved = claim(table.database, _on(second, minutes=1), "SD-1", force_reason="resumed there")
    assert (moved.outcome, moved.lost_before) == ("moved", None)
    assert table.own("a")["moved"]["fence"] == fence
    error = _caught(lambda: heartbeat(table.database, _on(first, minutes=2)))
    assert isinstance(error, NotHeld) and "was moved to another process" in error.message
    assert error.message.endswith("resumed there")
    assert heartbeat(table.database, _on(second, minutes=2)).outcome == "renewed"


def test_moved_session_leaves_an_earlier_loss_behind(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper().pid, sleeper().pid
    claim(table.database, _on(first), "SD-1")
    release_other(table.database, make_caller("b", now=at(1)), "a", None, reason="needed here")
    moved = claim(table.database, _on(second, minutes=2), "SD-1", force_reason="resumed there")
    assert moved.lost_before is None
    assert heartbeat(table.database, _on(second, minutes=3)).outcome == "renewed"
    assert check(table.database, _on(second, minutes=3)).session.sd_id == "SD-1"
    error = _caught(lambda: heartbeat(table.database, _on(first, minutes=4)))
    assert isinstance(error, NotHeld) and "was moved to another process" in error.message


def test_release_of_session_that_has_moved_here_is_its_own(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sleeper().pid, sleeper().pid
    claim(table.database, _on(first), "SD-1")
    pick = rows.pick

    def move_first(*args: Any) -> Any:
        monkeypatch.undo()
        claim(table.another(), _on(second, minutes=1), "SD-1", force_reason="resumed there")
        return pick(*args)

    monkeypatch.setattr(rows, "pick", move_first)
    result = release_other(table.database, _on(second, minutes=2), "a", None, reason="mine")
    assert (result.outcome, result.of_another) == ("released", False)
    assert "tombstone" not in table.own("a")


def test_unknown_process_compares_with_nothing(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid), "SD-1")
    # Cron, or a job without a terminal: the id is the authority.
    assert heartbeat(table.database, make_caller("a", now=at(1))).outcome == "renewed"
    assert check(table.database, make_caller("a", now=at(1)))
    assert (table.row("a")["pid"], table.row("a")["tty"]) == (pid, "/dev/pts/7")
    claim(table.database, make_caller("ci-42", now=at(1)), "SD-2")
    assert heartbeat(table.database, _on(pid, "ci-42", 2)).outcome == "renewed"
    # The end of this terminal must not end the job.
    assert (table.row("ci-42")["pid"], "process" in table.own("ci-42")) == (None, False)
    assert release(table.database, make_caller("ci-42", now=at(3))).sd_id == "SD-2"


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({}, True),
        ({"machine_id": "other"}, False),
        ({"machine_id": None}, False),
        ({"pid_ns": "pid:[4026539999]"}, False),
    ],
)
def test_process_of_an_earlier_boot_is_dead(
    table: Table, sleeper: Sleeper, change: dict[str, Any], moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = make_caller("a", anchor=process.read(sleeper().pid), stale_after=7 * 86400)
    claim(table.database, caller, "SD-1")
    host = this_host()._replace(machine_id="this", pid_ns="pid:[4026531836]")
    record = {"pid": 7, "start": "7", "boot_id": "earlier", "pid_ns": host.pid_ns, "machine_id": "this", **change}
    before_boot = f"clock_timestamp() - interval '{uptime() + 60} seconds'"
    own = psycopg_json({name: value for name, value in record.items() if value is not None})
    for heartbeat_at, is_dead in [("clock_timestamp()", False), (before_boot, moves)]:
        table.execute(
            f"UPDATE public.claude_sessions SET heartbeat_at = {heartbeat_at}, pid = 7,"
            " metadata = jsonb_set(metadata, '{claude_sessions_cli,process}', %s)",
            own,
        )
        booted = caller._replace(identity=caller.identity._replace(host=host))
        error = _caught(lambda booted=booted: heartbeat(table.database, booted))  # type: ignore[misc]
        assert isinstance(error, HeldByAnother) != is_dead, (heartbeat_at, error)


def psycopg_json(value: dict[str, Any]) -> Any:
    from psycopg.types.json import Jsonb

    return Jsonb(value)


def test_named_session_without_process_is_not_the_callers(table: Table) -> None:
    claim(table.database, make_caller("alice", now=NOON), "SD-1")
    with pytest.raises(UsageError, match="has not lapsed"):
        release_other(table.database, make_caller("bob", now=at(1)), "alice", None)
    result = release_other(table.database, make_caller("bob", now=at(1)), "alice", None, reason="she left")
    assert (result.outcome, result.sd_id) == ("released", "SD-1")
    lost = heartbeat(table.database, make_caller("alice", now=at(2)))
    assert lost.outcome == "lost" and lost.tombstone
    assert (lost.tombstone.by, lost.tombstone.note) == ("bob", "she left")


def test_short_prefix_is_refused(table: Table) -> None:
    claim(table.database, make_caller("alice", now=NOON), "SD-1")
    with pytest.raises(UsageError, match="too short"):
        release_other(table.database, make_caller("bob", now=at(1)), "ali", None, reason="why")
    assert release_other(table.database, make_caller("bob", now=at(1)), "alic", None, reason="why").sd_id == "SD-1"


# One process, two ids.


def test_claim_of_earlier_id_goes_on_under_the_next(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    first = claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1", track="B", note="the parser")
    result = claim(table.database, _on(pid, "id-b", 1, "claude_code"), "SD-1")
    assert (result.outcome, result.source) == ("continued", "id-a")
    assert (result.session.session.fence or 0) > (first.session.session.fence or 0)
    assert (table.row("id-b")["track"], table.own("id-b")["note"]) == ("B", "the parser")
    row = table.row("id-a")
    assert (row["status"], row["sd_id"], table.own("id-a")["continued_as"]) == ("released", None, "id-b")
    # A command that still runs under the earlier id acts for the next.
    late = heartbeat(table.database, _on(pid, "id-a", 2, "claude_code"))
    assert (late.outcome, late.session.session.session_id) == ("renewed", "id-b")
    assert check(table.database, _on(pid, "id-a", 2, "claude_code"), "SD-1").session.session_id == "id-b"
    assert release(table.database, _on(pid, "id-a", 3, "claude_code")).sd_id == "SD-1"


@pytest.mark.parametrize("verb", ["heartbeat", "park"])
def test_heartbeat_and_park_continue_too(table: Table, sleeper: Sleeper, verb: str) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    caller = _on(pid, "id-b", 1, "claude_code")
    if verb == "heartbeat":
        assert heartbeat(table.database, caller).outcome == "continued"
    else:
        park(table.database, caller, 60)
    assert table.row("id-b")["sd_id"] == "SD-1"


def test_check_and_release_act_for_the_earlier_id(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    before, caller = _all(table), _on(pid, "id-b", 1, "claude_code")
    assert check(table.database, caller, "SD-1").session.session_id == "id-a"
    assert _all(table) == before
    assert release(table.database, caller).sd_id == "SD-1"
    assert [row["session_id"] for row in _all(table)] == ["id-a"]


@pytest.mark.parametrize("places", [(None, None), (None, "terminal"), ("terminal", None)])
def test_earlier_id_is_found_without_a_terminal(
    table: Table, sleeper: Sleeper, places: tuple[str | None, str | None]
) -> None:
    pid = sleeper().pid
    found = process.read(pid)._replace(tty="/dev/pts/7")

    def on(name: str, minutes: float, place: str | None) -> Caller:
        caller = _on(pid, name, minutes, "claude_code")
        # A command that left the terminal knows the process by CLAUDE_PID alone; `claude -p` in CI has none.
        named = found if any(places) else found._replace(tty=None)
        left = caller.identity._replace(anchor=None, tty=None, agent=named)
        return caller if place else caller._replace(identity=left)

    claim(table.database, on("id-a", 0, places[0]), "SD-1")
    assert (table.row("id-a")["pid"], table.row("id-a")["tty"]) == (pid, "/dev/pts/7" if places[0] else None)
    table.insert("other", pid=pid, tty="/dev/pts/8", status="active", sd_id="SD-2")
    assert heartbeat(table.database, on("id-b", 1, places[1])).outcome == "continued"


def test_search_for_earlier_ids_uses_the_index(table: Table) -> None:
    for tty in ("/dev/pts/7", None):
        text = queries.get("list_same_process")
        values = {"session_id": "a", "tty": tty, "pid": 7, "now": None}
        with table.connection.transaction(), psycopg.ClientCursor(table.connection) as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {text}", values)
            plan = "\n".join(row["QUERY PLAN"] for row in cursor)
        # Which columns are compared in the index depends on how many rows there are.
        conditions = [line for line in plan.splitlines() if "Index Cond" in line]
        assert "idx_claude_sessions_tty_pid" in plan
        assert conditions and all("pid = 7" in line for line in conditions), plan


@pytest.mark.parametrize(
    "ids", [("environment", "claude_code"), ("claude_code", "environment"), ("derived", "derived")]
)
def test_ids_of_people_and_terminals_never_move(table: Table, sleeper: Sleeper, ids: tuple[str, str]) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, ids[0]), "SD-1")
    with pytest.raises(HeldByAnother, match="SD-1 is held by id-a"):
        claim(table.database, _on(pid, "id-b", 1, ids[1]), "SD-1")


def test_claims_of_both_ids_stay(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-b", 0, "claude_code"), "SD-2")
    table.execute("UPDATE public.claude_sessions SET session_id = 'id-x'")
    claim(table.database, _on(pid, "id-b", 1, "environment"), "SD-1")
    table.execute("UPDATE public.claude_sessions SET session_id = 'id-a' WHERE session_id = 'id-x'")
    assert heartbeat(table.database, _on(pid, "id-b", 2, "claude_code")).outcome == "renewed"
    held = {row["session_id"]: row["sd_id"] for row in _all(table)}
    assert held == {"id-a": "SD-2", "id-b": "SD-1"}
    assert release_other(table.database, _on(pid, "id-b", 3, "claude_code"), "id-a", None).sd_id == "SD-2"


def test_running_command_keeps_its_id(table: Table, sleeper: Sleeper) -> None:
    pid, runner = sleeper().pid, process.read(sleeper().pid)
    earlier = _on(pid, "id-a", 0, "claude_code")
    claim(table.database, earlier, "SD-1")
    host = this_host()
    term.enter(table.database, earlier, ProcessRecord(runner.pid, runner.start, host.boot_id, host.pid_ns), "SD-1")
    result = claim(table.database, _on(pid, "id-b", 1, "claude_code"), "SD-1")
    assert (result.outcome, result.session.session.session_id) == ("already_yours", "id-a")


def test_other_process_opens_continued_id_again(table: Table, sleeper: Sleeper) -> None:
    pid, other = sleeper().pid, sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    claim(table.database, _on(pid, "id-b", 1, "claude_code"), "SD-1")
    assert claim(table.database, _on(other, "id-a", 2, "claude_code"), "SD-2").outcome == "claimed"
    assert table.row("id-a")["sd_id"] == "SD-2"


def test_circle_of_ids_ends_with_an_error(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    for name in ("id-a", "id-b"):
        heartbeat(table.database, _on(pid, name, 0, "claude_code"), register=True)
    for name, other in (("id-a", "id-b"), ("id-b", "id-a")):
        table.execute(
            "UPDATE public.claude_sessions SET status = 'released',"
            " metadata = jsonb_set(metadata, '{claude_sessions_cli,continued_as}', %s::jsonb) WHERE session_id = %s",
            f'"{other}"',
            name,
        )
    with pytest.raises(NotHeld, match="its ids continue in a circle"):
        claim(table.database, _on(pid, "id-a", 1, "claude_code"), "SD-1")


def test_loss_of_an_ended_id_stays_there(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    claim(table.database, make_caller("rival", now=at(0)), "SD-1", force_reason="urgent")
    release(table.database, _on(pid, "id-a", 0, "claude_code"), end=True)
    assert "tombstone" in table.own("id-a")
    assert heartbeat(table.database, _on(pid, "id-b", 1, "claude_code"), register=True).outcome == "registered"
    assert "tombstone" not in table.own("id-b")


@pytest.mark.parametrize("earlier", ["holds", "lost"])
def test_id_open_elsewhere_inherits_nothing_from_an_earlier_id(table: Table, sleeper: Sleeper, earlier: str) -> None:
    here, there = sleeper().pid, sleeper().pid
    claim(table.database, _on(here, "id-a", 0, "claude_code"), "SD-1")
    if earlier == "lost":
        claim(table.database, make_caller("rival", now=at(0)), "SD-1", force_reason="urgent")
    heartbeat(table.database, _on(there, "id-b", 0, "claude_code"), register=True)
    before, caller = _all(table), _on(here, "id-b", 1, "claude_code")
    acts: dict[str, Callable[[], object]] = {
        "claim": lambda: claim(table.database, caller, "SD-1"),
        "claim another": lambda: claim(table.database, caller, "SD-2"),
        "heartbeat": lambda: heartbeat(table.database, caller, register=True),
        "park": lambda: park(table.database, caller, 60),
        "release": lambda: release(table.database, caller),
        "end": lambda: release(table.database, caller, end=True),
    }
    for name, act in acts.items():
        error = _caught(act)
        assert isinstance(error, HeldByAnother) and "session id-b is open in another process" in error.message, name
        assert _all(table) == before, name
    assert isinstance(_caught(lambda: check(table.database, caller)), NotHeld)
    found = whoami(table.database, caller)
    assert (found.is_twin, [other.session.session_id for other in found.others]) == (
        True,
        ["id-a"] if earlier == "holds" else [],
    )
    # Naming the earlier id is this process's own release.
    assert release_other(table.database, caller, "id-a", None).sd_id == ("SD-1" if earlier == "holds" else None)


@pytest.mark.parametrize("new", ["is open elsewhere", "holds another item"])
def test_force_continues_an_earlier_id_without_a_loss(table: Table, sleeper: Sleeper, new: str) -> None:
    here, there = sleeper().pid, sleeper().pid
    before = claim(table.database, _on(here, "id-a", 0, "claude_code"), "SD-1", track="B", note="x").session.session
    if new == "is open elsewhere":
        heartbeat(table.database, _on(there, "id-b", 0, "claude_code"), register=True)
    else:
        claim(table.database, _on(here, "id-b", 0), "SD-2")
    caller = _on(here, "id-b", 1, "claude_code")
    taken = claim(table.database, caller, "SD-1", switch=True, force_reason="resumed here")
    assert (taken.outcome, taken.source, taken.evicted) == ("continued", "id-a", None)
    assert (taken.session.session.fence or 0) > (before.fence or 0)
    assert (table.row("id-b")["pid"], table.row("id-b")["track"], table.own("id-b")["note"]) == (here, "B", "x")
    assert (table.row("id-a")["status"], table.own("id-a")["continued_as"]) == ("released", "id-b")
    assert "tombstone" not in table.own("id-a")
    assert heartbeat(table.database, caller._replace(now=at(2))).outcome == "renewed"
    if new == "is open elsewhere":
        error = _caught(lambda: heartbeat(table.database, _on(there, "id-b", 2, "claude_code")))
        assert isinstance(error, NotHeld) and "was moved to another process" in error.message


def test_force_stops_a_command_of_an_earlier_id(table: Table, sleeper: Sleeper) -> None:
    here, there, runner = sleeper().pid, sleeper().pid, process.read(sleeper().pid)
    earlier, host = _on(here, "id-a", 0, "claude_code"), this_host()
    claim(table.database, earlier, "SD-1")
    term.enter(table.database, earlier, ProcessRecord(runner.pid, runner.start, host.boot_id, host.pid_ns), "SD-1")
    heartbeat(table.database, _on(there, "id-b", 0, "claude_code"), register=True)
    forced = claim(table.database, _on(here, "id-b", 1, "claude_code"), "SD-1", force_reason="resumed here")
    assert (forced.outcome, table.own("id-a")["tombstone"]["by"]) == ("forced", "id-b")


def test_late_heartbeat_of_earlier_id_takes_nothing_back(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    heartbeat(table.database, _on(pid, "id-a", 0, "claude_code"), register=True)
    claim(table.database, _on(pid, "id-b", 1, "claude_code"), "SD-1")
    late = heartbeat(table.database, _on(pid, "id-a", 2, "claude_code"))
    assert (late.outcome, late.session.session.session_id) == ("renewed", "id-b")
    # Naming the earlier one releases that alone.
    named = release_other(table.database, _on(pid, "id-b", 3, "claude_code"), "id-a", None, end=True)
    assert (named.outcome, named.sd_id) == ("ended", None)
    assert table.row("id-b")["sd_id"] == "SD-1"


def test_late_command_of_an_earlier_id_moves_nothing_back(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    for minute, name in enumerate(("id-a", "id-b", "id-c")):
        claim(table.database, _on(pid, name, minute, "claude_code"), "SD-1")
        if name == "id-b":
            release(table.database, _on(pid, name, minute, "claude_code"))
    late = heartbeat(table.database, _on(pid, "id-a", 3, "claude_code"))
    assert (late.outcome, late.session.session.session_id) == ("renewed", "id-b")
    assert table.row("id-c")["sd_id"] == "SD-1"


def test_command_of_unknown_fate_keeps_the_claim(table: Table, sleeper: Sleeper) -> None:
    # Its terminal is closed, and it may work in a container.
    shell = sleeper()
    claim(table.database, _on(shell.pid), "SD-1")
    term.enter(table.database, _on(shell.pid), RUNNER._replace(pid_ns="pid:[1]"), "SD-1")
    shell.kill()
    shell.wait()
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("b", now=at(1)), "SD-1")


# A term that another program ended.

CLEAR = "UPDATE public.claude_sessions SET sd_id = NULL, track = NULL, claimed_at = NULL, status = %s"


@pytest.mark.parametrize("status", ["stale", "idle", "active"])
@pytest.mark.parametrize("is_taken", [True, False])
def test_claim_cleared_by_other_program_is_lost(table: Table, status: str, is_taken: bool) -> None:
    fence = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session.fence
    table.execute(CLEAR, status)
    if is_taken:
        claim(table.database, make_caller("b", now=at(1)), "SD-1")
    with pytest.raises(NotHeld, match="cleared by another program"):
        check(table.database, make_caller("a", now=at(2)))
    for minute in (2, 3):
        beat = heartbeat(table.database, make_caller("a", now=at(minute)))
        assert beat.outcome == "lost" and beat.tombstone
        assert (beat.tombstone.sd_id, beat.tombstone.fence) == ("SD-1", fence)
        assert beat.tombstone.by == ("b" if is_taken else None)


def test_claim_under_another_fence_is_not_lost(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute("UPDATE public.claude_sessions SET claimed_at = %s", at(1))
    beat = heartbeat(table.database, make_caller("a", now=at(2)))
    assert (beat.outcome, beat.session.session.fence) == ("renewed", table.own("a")["term"]["fence"])


def test_second_holder_under_a_later_fence_wins(seed_dsn: str) -> None:
    # Without 002, other programs can give an item to two.
    table = Table(seed_dsn)
    with table.stack:
        mine = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session
        table.insert("b", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
        with pytest.raises(NotHeld, match="lost SD-1 to b"):
            term.renew(table.database, make_caller("a", now=at(2)), "SD-1", mine.fence or 0)
        beat = heartbeat(table.database, make_caller("a", now=at(2)))
        assert beat.outcome == "lost" and beat.tombstone and beat.tombstone.by == "b"
        assert table.row("a")["sd_id"] is None


def test_loss_by_reaper_of_older_version_is_restored(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    own = table.own("a")["term"]
    reap(table.database, make_caller(None, now=at(16)))
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,term}', %s)",
        psycopg_json(own),
    )
    assert heartbeat(table.database, make_caller("a", now=at(17))).outcome == "restored"


@pytest.mark.parametrize("is_gone", [False, True])
def test_claim_that_the_database_forgot_is_lost(table: Table, is_gone: bool) -> None:
    heartbeat(table.database, make_caller("a", now=NOON), register=True)
    before = table.row("a")
    held = claim(table.database, make_caller("a", now=at(1)), "SD-1").session.session
    witness = Witness("SD-1", held.fence, fence_of(held.updated_at) or 0)
    assert heartbeat(table.database, make_caller("a", now=at(2)), witness=witness).outcome == "renewed"
    # A fail-over to a standby that had not received the claim.
    table.execute("DELETE FROM public.claude_sessions")
    if not is_gone:
        table.insert("a", **{**{name: before[name] for name in ("status", "updated_at")}, "heartbeat_at": NOON})
    beat = heartbeat(table.database, make_caller("a", now=at(3)), register=True, witness=witness)
    assert beat.outcome == "lost" and beat.tombstone
    assert (beat.tombstone.sd_id, beat.tombstone.reason) == ("SD-1", "forgotten by the database")
    # The file shows the loss now, and the row keeps it.
    assert heartbeat(table.database, make_caller("a", now=at(4))).outcome == "lost"


def test_forgotten_claim_leaves_the_term_of_the_item_before(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-2")
    before = table.row("a")
    held = claim(table.database, make_caller("a", now=at(1)), "SD-1", switch=True).session.session
    witness = Witness("SD-1", held.fence, fence_of(held.updated_at) or 0)
    # A fail-over to a standby that had received only the first claim.
    table.execute("DELETE FROM public.claude_sessions")
    table.insert(**{**before, "metadata": psycopg_json(before["metadata"])})
    beat = heartbeat(table.database, make_caller("a", now=at(2)), witness=witness)
    assert (beat.outcome, beat.session.session.sd_id) == ("lost", "SD-2")
    assert table.own("a")["term"] == {"sd_id": "SD-2", "fence": fence_of(before["claimed_at"])}
    for minute in (3, 4):
        claim(table.database, make_caller("a", now=at(minute)), "SD-2")
    table.execute(CLEAR, "idle")
    beat = heartbeat(table.database, make_caller("a", now=at(5)))
    assert beat.outcome == "lost" and beat.tombstone and beat.tombstone.sd_id == "SD-2"


def test_row_of_older_version_has_no_term_to_lose(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute("UPDATE public.claude_sessions SET metadata = metadata #- '{claude_sessions_cli,term}'")
    table.execute(CLEAR, "idle")
    assert heartbeat(table.database, make_caller("a", now=at(1))).outcome == "renewed"


@pytest.mark.parametrize("how", ["refused claim", "refused force", "claim", "release"])
def test_loss_is_told_twice_by_claim_or_release(table: Table, how: str) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    for minute in (2, 3):
        caller = make_caller("a", now=at(minute))
        if how.startswith("refused"):
            force: dict[str, Any] = {"force_reason": "mine", "force_fence": 7} if how == "refused force" else {}
            with pytest.raises(HeldByAnother, match="this session lost SD-1 to b"):
                claim(table.database, caller, "SD-1", **force)
        elif how == "claim":
            assert claim(table.database, caller, "SD-2").lost_before
        else:
            assert release(table.database, caller).tombstone
        if minute == 2:
            assert table.own("a")["tombstone"]["told"] is True
            loss = heartbeat(table.database, make_caller("a", now=at(2.5))).outcome
            assert loss == ("renewed" if how == "claim" else "lost")
    assert "tombstone" not in table.own("a")
    assert release(table.database, make_caller("a", now=at(4))).tombstone is None


@pytest.mark.parametrize("held", [True, False])
def test_several_attempts_of_a_claim_remove_no_loss(table: Table, held: bool) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    for minute in (2, 3, 4):
        with pytest.raises(HeldByAnother, match="this session lost SD-1 to b"):
            claim(table.database, make_caller("a", now=at(minute)), "SD-1", several=True)
    # Nobody has seen these refusals.
    assert "told" not in table.own("a")["tombstone"]
    if held:
        mark_loss(table.database, make_caller("a", now=at(5)))
    else:
        release(table.database, make_caller("b", now=at(5)))
        assert claim(table.database, make_caller("a", now=at(6)), "SD-1", several=True).lost_before
    assert table.own("a")["tombstone"]["told"] is True
    # The answer of a command that waits can be lost too.
    assert release(table.database, make_caller("a", now=at(7))).tombstone


# Both at once, and in between.


def test_loss_before_a_move_is_told_after_it(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper(), sleeper().pid
    claim(table.database, _on(first.pid), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    first.kill()
    first.wait()
    assert heartbeat(table.database, _on(second, minutes=2)).outcome == "lost"
    assert table.row("a")["pid"] == second


@pytest.mark.parametrize("verb", ["heartbeat", "park"])
def test_stale_claim_with_a_rival_does_not_move(table: Table, sleeper: Sleeper, verb: str) -> None:
    first, second = sleeper(), sleeper().pid
    claim(table.database, _on(first.pid), "SD-1")
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    table.insert("b", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
    first.kill()
    first.wait()
    caller = _on(second, minutes=2)
    if verb == "heartbeat":
        assert heartbeat(table.database, caller).outcome == "lost"
    else:
        with pytest.raises(NotHeld, match="lost SD-1 to b"):
            park(table.database, caller, 60)
    row = table.row("a")
    assert (row["sd_id"], row["pid"], table.own("a")["tombstone"]["by"]) == (None, second, "b")


def test_stale_claim_without_a_rival_moves(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper(), sleeper().pid
    fence = claim(table.database, _on(first.pid), "SD-1").session.session.fence
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    first.kill()
    first.wait()
    beat = heartbeat(table.database, _on(second, minutes=2))
    assert (beat.outcome, beat.session.session.status) == ("moved", "active")
    assert (beat.session.session.fence or 0) > (fence or 0)


@pytest.mark.parametrize("verb", ["park", "run"])
@pytest.mark.parametrize("how", ["cleared", "second holder"])
def test_park_and_run_note_a_loss_first(seed_dsn: str, verb: str, how: str) -> None:
    table = Table(seed_dsn)
    with table.stack:
        claim(table.database, make_caller("a", now=NOON), "SD-1")
        if how == "cleared":
            table.execute(CLEAR, "idle")
        else:
            table.insert("b", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
        caller = make_caller("a", now=at(2))
        with pytest.raises(NotHeld, match="cleared by another program"):
            park(table.database, caller, 60) if verb == "park" else term.enter(table.database, caller, RUNNER, "SD-1")
        assert table.own("a")["tombstone"]["sd_id"] == "SD-1"


def test_claim_moved_during_a_heartbeat_stays_there(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sleeper().pid, sleeper().pid
    claim(table.database, _on(first), "SD-1")
    reap(table.database, make_caller(None, now=at(1)), max_age=1)
    table.execute("UPDATE public.claude_sessions SET status = 'stale'")
    settle = heartbeats._settle

    def move_first(*args: Any) -> Any:
        claim(table.another(), _on(second, minutes=2), "SD-1", force_reason="resumed there")
        return settle(*args)

    monkeypatch.setattr(heartbeats, "_settle", move_first)
    with pytest.raises(NotHeld, match="was moved to another process"):
        heartbeat(table.database, _on(first, minutes=2))
    assert table.row("a")["pid"] == second


def test_id_registered_by_another_process_at_once_is_refused(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sleeper().pid, sleeper().pid
    refuse = heartbeats._refuse_gone

    def register_first(caller: Caller) -> None:
        monkeypatch.undo()
        heartbeat(table.another(), _on(second), register=True)
        refuse(caller)

    monkeypatch.setattr(heartbeats, "_refuse_gone", register_first)
    with pytest.raises(HeldByAnother, match="is open in another process"):
        heartbeat(table.database, _on(first), register=True)


def test_claim_cleared_while_its_term_is_corrected_is_lost(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute("UPDATE public.claude_sessions SET claimed_at = %s", at(1))
    correct = heartbeats._correct_term

    def clear_first(*args: Any) -> Any:
        table.execute(CLEAR, "idle")
        return correct(*args)

    monkeypatch.setattr(heartbeats, "_correct_term", clear_first)
    assert heartbeat(table.database, make_caller("a", now=at(2))).outcome == "lost"


@pytest.mark.parametrize("how", ["continued", "ended"])
def test_heartbeat_begins_again_if_its_session_has_ended(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    table.execute("UPDATE public.claude_sessions SET claimed_at = %s", at(1))
    correct = heartbeats._correct_term

    def end_first(*args: Any) -> Any:
        monkeypatch.undo()
        if how == "continued":
            claim(table.another(), _on(pid, "id-b", 2, "claude_code"), "SD-1")
        else:
            release(table.another(), _on(pid, "id-a", 2, "claude_code"), end=True)
        return correct(*args)

    monkeypatch.setattr(heartbeats, "_correct_term", end_first)
    if how == "continued":
        session = heartbeat(table.database, _on(pid, "id-a", 3, "claude_code")).session.session
        assert (session.session_id, session.sd_id) == ("id-b", "SD-1")
    else:
        with pytest.raises(NotHeld, match="session id-a has ended"):
            heartbeat(table.database, _on(pid, "id-a", 3, "claude_code"))


def test_loss_noted_by_a_parallel_heartbeat_is_told_by_both(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute(CLEAR, "idle")
    note = losses.note_loss

    def note_twice(*args: Any) -> Any:
        note(*args)
        return note(*args)

    monkeypatch.setattr(losses, "note_loss", note_twice)
    assert heartbeat(table.database, make_caller("a", now=at(2))).outcome == "lost"


def test_cleared_claim_is_lost_after_a_reap_too(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    table.execute(CLEAR, "idle")
    reap(table.database, make_caller(None, now=at(20)))
    assert table.row("a")["status"] == "stale"
    beat = heartbeat(table.database, make_caller("a", now=at(21)))
    assert beat.outcome == "lost" and beat.tombstone and beat.tombstone.sd_id == "SD-1"


def test_new_term_inherits_no_command(table: Table, sleeper: Sleeper) -> None:
    runner, host = process.read(sleeper().pid), this_host()
    caller = make_caller("a", now=NOON)
    claim(table.database, caller, "SD-1")
    term.enter(table.database, caller, ProcessRecord(runner.pid, runner.start, host.boot_id, host.pid_ns), "SD-1")
    claim(table.database, make_caller("a", now=at(1)), "SD-1")
    assert "run" in table.own("a")
    # The command itself may end its term.
    within = caller.identity._replace(run_fence=fence_of(table.row("a")["claimed_at"]))
    claim(table.database, caller._replace(identity=within, now=at(2)), "SD-2", switch=True)
    assert "run" not in table.own("a")
    assert claim(table.database, make_caller("b", now=at(20)), "SD-2").outcome == "took_over"


@pytest.mark.parametrize("change", ["status = 'released'", "status = 'released', sd_id = NULL, claimed_at = NULL"])
@pytest.mark.parametrize("successor", [None, "b"])
def test_end_by_another_program_is_a_loss(table: Table, change: str, successor: str | None) -> None:
    fence = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session.fence
    table.execute(f"UPDATE public.claude_sessions SET {change}")
    if successor:
        claim(table.database, make_caller(successor, now=at(1)), "SD-1")
    seen = whoami(table.database, make_caller("a", now=at(2))).lost
    assert seen and (seen.sd_id, seen.fence) == ("SD-1", fence)
    beat = heartbeat(table.database, make_caller("a", now=at(2)), register=True)
    assert beat.outcome == "lost" and beat.tombstone
    assert (beat.tombstone.fence, beat.tombstone.by) == (fence, successor)
    assert table.row("a")["sd_id"] is None
    again = claim(table.database, make_caller("a", now=at(3)), "SD-2")
    assert again.lost_before and again.lost_before.sd_id == "SD-1"


def test_end_by_the_tool_is_no_loss(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    release(table.database, make_caller("a", now=at(1)), end=True)
    assert heartbeat(table.database, make_caller("a", now=at(2)), register=True).outcome == "registered"
    claim(table.database, make_caller("a", now=at(3)), "SD-1")
    reap(table.database, make_caller(None, now=at(30)))
    reap(table.database, make_caller(None, now=at(2 * DAY)))
    assert table.row("a")["status"] == "released"
    lost = heartbeat(table.database, make_caller("a", now=at(2 * DAY + 1)), register=True).tombstone
    assert lost and lost.reason != "cleared by another program"


def test_rival_of_an_earlier_id_is_no_continuation(seed_dsn: str, sleeper: Sleeper) -> None:
    table, pid = Table(seed_dsn), sleeper().pid
    with table.stack:
        claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
        table.insert("b", sd_id="SD-1", status="active", claimed_at=at(1), heartbeat_at=at(1))
        beat = heartbeat(table.database, _on(pid, "id-b", 2, "claude_code"))
        assert beat.outcome == "lost" and beat.tombstone and beat.tombstone.by == "b"
        held = {row["session_id"]: row["sd_id"] for row in _all(table)}
        assert held == {"b": "SD-1", "id-a": None, "id-b": None}


@pytest.mark.parametrize("holds", [True, False])
def test_earlier_id_that_has_ended_since_is_not_continued(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    if not holds:
        release_other(table.database, make_caller("b", now=at(1)), "id-a", None, reason="needed here")
    carry_on = agent.continue_session

    def end_first(*args: Any) -> Any:
        monkeypatch.undo()
        release(table.another(), _on(pid, "id-a", 2, "claude_code"), end=True)
        return carry_on(*args)

    monkeypatch.setattr(agent, "continue_session", end_first)
    result = claim(table.database, _on(pid, "id-b", 3, "claude_code"), "SD-1")
    assert (result.outcome, result.session.session.session_id, result.source) == ("claimed", "id-b", None)
    assert "tombstone" not in table.own("id-b") and "continued_as" not in table.own("id-a")


@pytest.mark.parametrize("verb", ["heartbeat", "check", "claim", "release"])
def test_cleared_claim_of_an_earlier_id_is_lost(table: Table, sleeper: Sleeper, verb: str) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    table.execute(CLEAR, "idle")
    caller = _on(pid, "id-b", 1, "claude_code")
    if verb == "check":
        with pytest.raises(NotHeld, match="lost SD-1"):
            check(table.database, caller)
    elif verb == "release":
        lost = release(table.database, caller).tombstone
        assert lost and lost.sd_id == "SD-1"
    elif verb == "claim":
        result = claim(table.database, caller, "SD-1")
        assert (result.outcome, result.session.session.session_id) == ("claimed", "id-b")
        assert result.lost_before and result.lost_before.sd_id == "SD-1"
    else:
        assert heartbeat(table.database, caller).outcome == "lost"


def test_loss_of_the_next_id_survives_a_continuation(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "id-b", 0, "claude_code"), "SD-2")
    table.execute("UPDATE public.claude_sessions SET session_id = 'id-x' WHERE session_id = 'id-b'")
    heartbeat(table.database, _on(pid, "id-a", 1, "derived"), register=True)
    claim(table.database, _on(pid, "id-a", 2, "derived"), "SD-1")
    claim(table.database, make_caller("b", now=at(2.5)), "SD-2", force_reason="urgent")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,id_from}',"
        " '\"claude_code\"'), session_id = CASE session_id WHEN 'id-x' THEN 'id-b' ELSE session_id END"
    )
    beat = heartbeat(table.database, _on(pid, "id-b", 3, "claude_code"))
    assert beat.outcome == "lost" and beat.tombstone and beat.tombstone.sd_id == "SD-2"
    assert table.row("id-b")["sd_id"] == "SD-1"


@pytest.mark.parametrize("verb", ["claim", "check", "release"])
def test_loss_of_earlier_id_does_not_replace_own_loss(table: Table, sleeper: Sleeper, verb: str) -> None:
    pid = sleeper().pid
    for minute, (name, item) in enumerate({"id-a": "SD-1", "id-b": "SD-2"}.items()):
        claim(table.database, _on(pid, name, minute, "derived"), item)
        claim(table.database, make_caller("b" + name, now=at(minute)), item, force_reason="urgent")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli,id_from}',"
        " '\"claude_code\"') WHERE session_id IN ('id-a', 'id-b')"
    )
    caller = _on(pid, "id-b", 3, "claude_code")
    if verb == "claim":
        with pytest.raises(HeldByAnother, match="this session lost SD-2 to bid-b"):
            claim(table.database, caller, "SD-2")
    elif verb == "check":
        with pytest.raises(NotHeld, match="this session lost SD-2 to bid-b"):
            check(table.database, caller)
    else:
        told = release(table.database, caller).tombstone
        assert told and told.sd_id == "SD-2"
    assert heartbeat(table.database, _on(pid, "id-a", 4, "claude_code")).tombstone is not None
    assert (table.own("id-a")["tombstone"]["sd_id"], "continued_as" in table.own("id-a")) == ("SD-1", False)


def test_id_that_another_process_opened_again_is_its_own(table: Table, sleeper: Sleeper) -> None:
    pid, other = sleeper().pid, sleeper().pid
    claim(table.database, _on(pid, "id-a", 0, "claude_code"), "SD-1")
    claim(table.database, _on(pid, "id-b", 1, "claude_code"), "SD-1")
    claim(table.database, _on(other, "id-a", 2, "claude_code"), "SD-2")
    release(table.database, _on(other, "id-a", 3, "claude_code"), end=True)
    again = claim(table.database, _on(other, "id-a", 4, "claude_code"), "SD-3")
    assert again.session.session.session_id == "id-a"


def test_end_of_a_moved_run_leaves_the_session_there(table: Table, sleeper: Sleeper) -> None:
    first, second = _on(sleeper().pid), _on(sleeper().pid, minutes=1)
    fence = claim(table.database, first, "SD-1").session.session.fence
    claim(table.database, second, "SD-1", force_reason="resumed there")
    release(table.database, second)
    with suppress(NotHeld):
        term.release(table.database, first, "SD-1", fence or 0, reason="completed")
    assert table.row("a")["status"] == "idle"


JUNK = [
    *({name: value} for name in ("term", "moved", "process", "note", "tombstone") for value in (7, "x", [1], None)),
    {"term": {"sd_id": 7, "fence": 1}},
    {"term": {"sd_id": "SD-9", "fence": "abc"}},
    {"moved": {"process": 7}},
    {"continued_as": 7},
    {"continued_as": "a"},
    {"id_from": [1]},
]


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_junk_in_metadata_breaks_no_command(table: Table, sleeper: Sleeper, junk: dict[str, Any]) -> None:
    caller = _on(sleeper().pid, "a", 1, "claude_code")
    claim(table.database, caller._replace(now=NOON), "SD-1")
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata, '{claude_sessions_cli}',"
        " metadata -> 'claude_sessions_cli' || %s)",
        psycopg_json(junk),
    )
    acts: list[Callable[[], object]] = [
        lambda: heartbeat(table.database, caller),
        lambda: check(table.database, caller),
        lambda: park(table.database, caller, 60),
        lambda: claim(table.database, caller, "SD-1"),
        lambda: claim(table.database, make_caller("b", now=at(2)), "SD-1"),
        lambda: list_sessions(table.database, caller),
        lambda: reap(table.database, make_caller(None, now=at(2 * DAY))),
        lambda: release(table.database, caller),
    ]
    for act in acts:
        error = _caught(act)
        assert error is None or error.exit_code in (3, 4), error


@pytest.mark.parametrize("fence", [None, 1])
def test_force_takes_only_the_named_term(table: Table, fence: int | None) -> None:
    held = claim(table.database, make_caller("a", now=NOON), "SD-1").session.session.fence
    if fence is not None:
        with pytest.raises(HeldByAnother, match=f"held under fence {held} now, not under 1"):
            claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="why", force_fence=fence)
        release(table.database, make_caller("a", now=at(1)))
        with pytest.raises(HeldByAnother, match="free now, not under"):
            claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="why", force_fence=held)
        return
    forced = claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="why", force_fence=held)
    assert forced.outcome == "forced"


def test_note_is_shown_to_whoever_is_refused(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), "SD-1", note="the parser")
    with pytest.raises(HeldByAnother, match="working on: the parser"):
        claim(table.database, make_caller("b", now=at(1)), "SD-1")
    claim(table.database, make_caller("a", now=at(2)), "SD-1")
    assert table.own("a")["note"] == "the parser"
    release(table.database, make_caller("a", now=at(3)))
    assert "note" not in table.own("a")
