"""Which session a command runs under: the caller's, which holds the item already, or the wrapper's own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest
from between import acting_before
from clock import at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.errors import HeldByAnother, SessionsError, UsageError
from claude_sessions_cli.guardian import Guardian
from claude_sessions_cli.liveness import this_host
from claude_sessions_cli.model import ProcessRecord
from claude_sessions_cli.operations import run, term
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.release import release


def _on(pid: int, name: str, minutes: float = 0, id_from: str = "claude_code") -> Caller:
    caller = make_caller(name, anchor=process.read(pid), now=at(minutes), tty="/dev/pts/7")
    return caller._replace(identity=caller.identity._replace(id_from=id_from))


def _record(pid: int) -> ProcessRecord:
    host, found = this_host(), process.read(pid)
    return ProcessRecord(pid, found.start, host.boot_id, host.pid_ns, host.machine_id or None)


@pytest.fixture(autouse=True)
def guardians(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dismiss the guardians that a test leaves."""
    started: list[Guardian] = []

    def start(grace: float) -> Guardian:
        started.append(Guardian(grace))
        return started[-1]

    monkeypatch.setattr(run, "Guardian", start)
    yield
    for guardian in started:
        if guardian._child.returncode is None:
            guardian.dismiss()


def _begin(table: Table, own: Caller, wrapper: int, sd_id: str, *, named: bool = False) -> run.Lease:
    return run.begin(
        table.database,
        own,
        process.read(wrapper),
        sd_id,
        named=named,
        track=None,
        acquire=lambda _, claim_one: claim_one(sd_id),
    )


def test_claim_of_an_earlier_id_goes_on_under_the_run(table: Table, sleeper: Sleeper) -> None:
    claude, wrapper = sleeper().pid, sleeper().pid
    before = claim(table.database, _on(claude, "id-a"), "SD-1", track="B").session.session
    lease = _begin(table, _on(claude, "id-b", 1), wrapper, "SD-1")
    assert (lease.caller.session_id, lease.shared, lease.fence > (before.fence or 0)) == ("id-b", True, True)
    assert (table.row("id-b")["sd_id"], table.row("id-b")["track"]) == ("SD-1", "B")
    assert table.own("id-b")["run"]["pid"] == wrapper
    assert (table.row("id-a")["status"], table.own("id-a")["continued_as"]) == ("released", "id-b")
    # The shell of the command still has the earlier id.
    term.leave(table.database, lease.caller, lease.runner, "SD-1", lease.fence)
    assert _begin(table, _on(claude, "id-a", 2), wrapper, "SD-1").caller.session_id == "id-b"


def test_running_command_of_an_earlier_id_keeps_its_row(table: Table, sleeper: Sleeper) -> None:
    claude, wrapper, second = sleeper().pid, sleeper().pid, sleeper().pid
    claim(table.database, _on(claude, "id-a"), "SD-1")
    _begin(table, _on(claude, "id-a"), wrapper, "SD-1")
    before = table.row("id-a")
    with pytest.raises(HeldByAnother, match="a command is already running under SD-1 in this session"):
        _begin(table, _on(claude, "id-b", 1), second, "SD-1")
    assert table.row("id-a") == before
    other = _begin(table, _on(claude, "id-b", 1), second, "SD-2")
    assert (other.shared, other.caller.identity.anchor) == (False, process.read(second))
    assert table.row("id-a") == before


def test_claim_of_a_dead_process_moves_to_the_run(table: Table, sleeper: Sleeper) -> None:
    first, second, wrapper = sleeper(), sleeper().pid, sleeper().pid
    before = claim(table.database, _on(first.pid, "id"), "SD-1").session.session
    first.kill()
    first.wait()
    lease = _begin(table, _on(second, "id", 1), wrapper, "SD-1")
    assert (lease.caller.session_id, lease.shared, lease.fence > (before.fence or 0)) == ("id", True, True)
    assert table.row("id")["pid"] == second


def test_named_run_after_a_killed_one_ends_with_its_own_wrapper(table: Table, sleeper: Sleeper) -> None:
    shell, first, second = sleeper().pid, sleeper(), sleeper().pid
    killed = _begin(table, _on(shell, "nightly", 0, "option"), first.pid, "SD-1", named=True)
    first.kill()
    first.wait()
    # Its guardian ends the command first.
    with pytest.raises(HeldByAnother):
        _begin(table, _on(shell, "nightly", 1, "option"), second, "SD-1", named=True)
    killed.guardian.dismiss()
    lease = _begin(table, _on(shell, "nightly", 1, "option"), second, "SD-1", named=True)
    assert (lease.caller.session_id, lease.shared, lease.fence > killed.fence) == ("nightly", False, True)
    assert table.row("nightly")["pid"] == second


@pytest.mark.parametrize("holds", [None, "SD-1", "SD-2"])
def test_run_refuses_a_named_session_of_another_process(table: Table, sleeper: Sleeper, holds: str | None) -> None:
    first, second, wrapper = sleeper().pid, sleeper().pid, sleeper().pid
    heartbeat(table.database, _on(first, "x", id_from="environment"), register=True)
    if holds:
        claim(table.database, _on(first, "x", id_from="environment"), holds)
    before = table.row("x")
    with pytest.raises(HeldByAnother, match=r"session x .*is open in another process \(host"):
        _begin(table, _on(second, "x", 1, "option"), wrapper, "SD-1", named=True)
    assert table.row("x") == before


def test_named_session_without_a_process_is_not_ended(table: Table, sleeper: Sleeper) -> None:
    heartbeat(table.database, make_caller("ci-42", now=at(0)), register=True)
    before = table.row("ci-42")
    with pytest.raises(UsageError, match="session ci-42 is open"):
        _begin(table, make_caller("ci-42", now=at(1)), sleeper().pid, "SD-1", named=True)
    assert table.row("ci-42") == before


def test_named_session_that_was_continued_opens_again(table: Table, sleeper: Sleeper) -> None:
    claude, wrapper = sleeper().pid, sleeper().pid
    claim(table.database, _on(claude, "id-a"), "SD-1")
    claim(table.database, _on(claude, "id-b", 1), "SD-1")
    named = _on(claude, "id-a", 2, "option")
    other = _begin(table, named, wrapper, "SD-2", named=True)
    assert (other.caller.session_id, other.shared) == ("id-a", False)
    assert table.row("id-b")["sd_id"] == "SD-1"


def test_id_open_elsewhere_runs_nothing_under_its_item(table: Table, sleeper: Sleeper) -> None:
    first, second, wrapper = sleeper().pid, sleeper().pid, sleeper().pid
    claim(table.database, _on(first, "id"), "SD-1")
    before = table.row("id")
    with pytest.raises(HeldByAnother, match="is open in another process"):
        _begin(table, _on(second, "id", 1), wrapper, "SD-1")
    assert table.row("id") == before


def test_earlier_id_and_new_id_each_keep_their_item(table: Table, sleeper: Sleeper) -> None:
    claude, wrapper = sleeper().pid, sleeper().pid
    claim(table.database, _on(claude, "id-a"), "SD-1")
    claim(table.database, _on(claude, "id-b", id_from="environment"), "SD-2")
    with pytest.raises(HeldByAnother, match="SD-1 is held by id-a"):
        _begin(table, _on(claude, "id-b", 1), wrapper, "SD-1")
    assert {name: table.row(name)["sd_id"] for name in ("id-a", "id-b")} == {"id-a": "SD-1", "id-b": "SD-2"}
    assert release(table.database, _on(claude, "id-b", 2)).sd_id == "SD-2"


def test_renewal_after_the_verdict_keeps_the_item(table: Table, sleeper: Sleeper) -> None:
    there = make_caller("x", now=at(0))
    elsewhere = there.identity._replace(host=this_host()._replace(boot_id="another boot", hostname="there"))
    holder = there._replace(identity=elsewhere._replace(anchor=process.read(sleeper().pid)))
    fence = claim(table.database, holder, "SD-1").session.session.fence or 0
    term.enter(table.database, holder, _record(sleeper().pid)._replace(boot_id="another boot"), "SD-1")
    cron = make_caller("x", now=at(16))

    def renew() -> None:
        term.renew(table.another(), holder._replace(now=at(16)), "SD-1", fence)

    with acting_before("lock_session", renew), pytest.raises(HeldByAnother):
        _begin(table, cron, sleeper().pid, "SD-1", named=True)
    assert (table.row("x")["sd_id"], table.row("x")["claimed_at"]) == ("SD-1", at(0))


def test_run_without_a_guardian_leaves_no_claim(
    table: Table, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: float) -> Guardian:
        raise OSError(errno.EAGAIN, "no room")

    monkeypatch.setattr(run, "Guardian", refuse)
    with pytest.raises(SessionsError, match="cannot start /bin/sh"):
        _begin(table, make_caller(None, now=at(0)), sleeper().pid, "SD-1")
    assert table.execute("SELECT FROM public.claude_sessions WHERE sd_id IS NOT NULL") == []


def test_renewal_puts_the_record_of_a_run_back(table: Table, sleeper: Sleeper) -> None:
    wrapper = sleeper().pid
    lease = _begin(table, make_caller(None, now=at(0), stale_after=3600), wrapper, "SD-1")
    name = lease.caller.session_id
    table.execute("UPDATE public.claude_sessions SET metadata = '{\"theirs\": 1}'")
    held = run.renew(table.database, replace(lease, caller=lease.caller._replace(now=at(1))))
    own = table.own(name)
    assert (own["run"]["pid"], own["stale_after"], held.session.fence) == (wrapper, 3600, lease.fence)
    assert table.row(name)["metadata"]["theirs"] == 1
    with pytest.raises(HeldByAnother):
        claim(table.database, make_caller("rival", now=at(30), stale_after=900), "SD-1")
