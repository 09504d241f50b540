"""Who held what over a period."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from conftest import Table, make_caller

from claude_sessions_cli.errors import SchemaMismatch
from claude_sessions_cli.model import Label
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release
from claude_sessions_cli.operations.timeline import timeline

DAY = 86400.0


def test_terms_of_each_item_are_in_order(full_table: Table) -> None:
    database = full_table.database
    claim(database, make_caller("a"), "SD-2")
    claim(database, make_caller("b"), "SD-1")
    release(database, make_caller("b"), "SD-1")
    claim(database, make_caller("c"), "SD-1")
    claim(database, make_caller("d"), "SD-1", force_reason="urgent")
    found = timeline(database, make_caller("c"), DAY)
    assert found.until - found.since == timedelta(days=1)
    assert {item: [span.session_id for span in spans] for item, spans in found.items.items()} == {
        "SD-1": ["b", "c", "d"],
        "SD-2": ["a"],
    }
    first, forced, last = found.items["SD-1"]
    assert (first.is_lost, forced.is_lost, last.is_lost) == (False, True, False)
    assert (forced.ended_by, last.ended_at, last.label) == ("d", None, Label.LIVE)
    for name, items in (("SD-2", ["SD-2"]), ("c", ["SD-1"]), ("nobody", [])):
        assert list(timeline(database, make_caller("c"), DAY, name).items) == items


def test_item_is_found_in_each_unicode_form(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "caf\u00e9")
    for name in ("caf\u00e9", "cafe\u0301"):
        assert list(timeline(full_table.database, make_caller("a"), DAY, name).items) == ["caf\u00e9"]


def test_earlier_terms_are_left_out(full_table: Table) -> None:
    claim(full_table.database, make_caller("a"), "SD-1")
    release(full_table.database, make_caller("a"), "SD-1")
    claim(full_table.database, make_caller("a"), "SD-2")
    later = make_caller("b")._replace(now=datetime.now(timezone.utc) + timedelta(hours=2))
    # What is still held is shown, however long ago it began.
    assert list(timeline(full_table.database, later, 3600).items) == ["SD-2"]
    assert list(timeline(full_table.database, later, 3 * 3600).items) == ["SD-1", "SD-2"]


def test_table_without_history_is_refused(seed_dsn: str) -> None:
    made = Table(seed_dsn)
    with made.stack, pytest.raises(SchemaMismatch, match="history"):
        timeline(made.database, make_caller("a"), DAY)
