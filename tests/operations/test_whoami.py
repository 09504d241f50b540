"""What the database knows of the caller's session."""

from __future__ import annotations

from clock import NOON, at
from conftest import Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.whoami import whoami


def _on(pid: int, name: str, minutes: float = 0) -> Caller:
    caller = make_caller(name, anchor=process.read(pid), now=at(minutes))
    return caller._replace(identity=caller.identity._replace(id_from="claude_code"))


def test_session_its_claim_and_its_loss_are_shown(table: Table) -> None:
    assert whoami(table.database, make_caller("a")).session is None
    claim(table.database, make_caller("a", now=NOON), "SD-1")
    found = whoami(table.database, make_caller("a", now=at(1)))
    assert found.session and (found.session.session.sd_id, found.lost, found.is_twin) == ("SD-1", None, False)
    claim(table.database, make_caller("b", now=at(2)), "SD-1", force_reason="urgent")
    found = whoami(table.database, make_caller("a", now=at(3)))
    assert found.lost and (found.lost.sd_id, found.lost.by) == ("SD-1", "b")


def test_twin_and_earlier_id_are_shown(table: Table, sleeper: Sleeper) -> None:
    first, second = sleeper().pid, sleeper().pid
    claim(table.database, _on(first, "a"), "SD-1")
    before = table.row("a")
    assert whoami(table.database, _on(first, "a", 1)).others == []
    assert whoami(table.database, _on(second, "a", 1)).is_twin
    found = whoami(table.database, _on(first, "b", 1))
    assert [other.session.sd_id for other in found.others] == ["SD-1"]
    assert table.row("a") == before


def test_loss_of_an_earlier_id_is_shown(table: Table, sleeper: Sleeper) -> None:
    pid = sleeper().pid
    claim(table.database, _on(pid, "a"), "SD-1")
    claim(table.database, make_caller("b", now=at(1)), "SD-1", force_reason="urgent")
    before = table.row("a")
    found = whoami(table.database, _on(pid, "next", 2))
    assert found.lost and (found.session, found.lost.by, found.others) == (None, "b", [])
    assert table.row("a") == before
    claim(table.database, make_caller("next", anchor=process.read(pid), now=at(3)), "SD-2")
    assert whoami(table.database, _on(pid, "next", 4)).lost is None
