"""The start of an agent's conversation: what it learns of itself and of others."""

from __future__ import annotations

from datetime import timedelta

from conftest import Sleeper, Table, make_caller
from wire import Wire

from claude_sessions_cli import database, process
from claude_sessions_cli.errors import HeldByAnother
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.start import start


def _agent(sleeper: Sleeper, session: str = "a") -> Caller:
    caller = make_caller(session, anchor=process.read(sleeper().pid))
    return caller._replace(identity=caller.identity._replace(id_from="hook"))


def test_start_shows_holders_of_the_codebase(table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    claim(table.database, make_caller("neighbour"), "SD-1")
    claim(table.database, make_caller("elsewhere"), "SD-2")
    claim(table.database, make_caller("lapsed"), "SD-3")
    heartbeat(table.database, make_caller("idle"), register=True)
    table.execute("UPDATE public.claude_sessions SET codebase = 'other' WHERE session_id = 'elsewhere'")
    table.execute(
        "UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at - %s WHERE session_id = 'lapsed'",
        timedelta(hours=1),
    )
    claim(table.database, caller, "SD-4")
    found = start(table.database, caller)
    assert [seen.session.session_id for seen in found.neighbours] == ["neighbour"]
    assert found.acting and found.acting.session.sd_id == "SD-4"


def test_start_of_a_twin_changes_nothing(table: Table, sleeper: Sleeper) -> None:
    claim(table.database, _agent(sleeper), "SD-1")
    before = table.row("a")
    found = start(table.database, _agent(sleeper))
    assert found.acting is None and found.standings.is_twin and isinstance(found.refusal, HeldByAnother)
    assert table.row("a") == before


def test_start_asks_in_four_messages(full_table: Table, sleeper: Sleeper) -> None:
    caller = _agent(sleeper)
    claim(full_table.database, caller, "SD-1")
    wire = Wire(full_table.dsn)
    try:
        with database.connect(wire.dsn, "the test") as connection:
            wire.reset()
            start(connection, caller)
            assert len(wire.messages) == 4, [str(message) for message in wire.messages]
    finally:
        wire.close()
