"""What a role without rights on the table cannot do to its history, and claims whose fences are used up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from conftest import Table, make_caller

from claude_sessions_cli import database
from claude_sessions_cli.errors import SchemaMismatch
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release

GUEST = "cs_may_connect"
TRIGGER = """
CREATE TEMP TABLE forged (
    id uuid, session_id text, sd_id text, track text, tty text, pid integer, hostname text, codebase text,
    claimed_at timestamptz, heartbeat_at timestamptz, status text, metadata jsonb, created_at timestamptz,
    updated_at timestamptz
);
CREATE TRIGGER forge AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION public.claude_sessions_record();
INSERT INTO forged (session_id, sd_id, claimed_at, status) VALUES ('x', 'SD-1', '9998-12-31 23:59Z', 'active');
"""


@pytest.fixture
def guest(full_table: Table) -> Iterator[str]:
    """Return the name of a role that may only connect."""
    full_table.execute(f"DROP ROLE IF EXISTS {GUEST}")
    full_table.execute(f"CREATE ROLE {GUEST}")
    yield GUEST
    full_table.execute(f"DROP ROLE {GUEST}")


def events(table: Table) -> int:
    return len(table.execute("SELECT FROM public.claude_session_events"))


def test_role_that_may_only_connect_forges_no_history(full_table: Table, guest: str) -> None:
    with full_table.connection.transaction(force_rollback=True):
        full_table.execute(f"SET LOCAL ROLE {guest}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"):
            full_table.connection.execute(TRIGGER)
    assert events(full_table) == 0


def test_history_records_its_table_alone(full_table: Table) -> None:
    # Even if its owner hangs the function there.
    with (
        full_table.connection.transaction(force_rollback=True),
        pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"records the table public\.claude_sessions alone"),
    ):
        full_table.connection.execute(TRIGGER)
    assert events(full_table) == 0


@pytest.mark.parametrize("grantee", ["PUBLIC", GUEST])
def test_history_writers_are_reported_and_apply_revokes_them(
    fresh_database: Callable[..., str], guest: str, grantee: str
) -> None:
    dsn = fresh_database()
    with psycopg.connect(dsn, autocommit=True) as connection, database.connect(dsn, "the test") as opened:
        # As on hosted databases, where each new function may be executed by several roles.
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {grantee}")
        schema.apply(opened)
        connection.execute(f"ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM {grantee}")
        assert not schema.check(opened)
        connection.execute(f"GRANT EXECUTE ON FUNCTION public.claude_sessions_record() TO {grantee}")
        [found] = schema.check(opened)
        assert (found.difference, found.name) == ("changed", "claude_sessions_record")
        assert f"EXECUTE TO {grantee}" in str(found)
        schema.apply(opened)
        assert not schema.check(opened)


@pytest.mark.parametrize("last", ["9998-12-31 23:59:59.999999Z", "9998-12-31 23:59:59.999998Z"])
def test_claim_is_refused_before_a_fence_repeats(full_table: Table, last: str) -> None:
    full_table.insert("other", sd_id="SD-1", status="active", claimed_at=last, heartbeat_at="2026-01-01Z")
    full_table.execute("DELETE FROM public.claude_sessions")
    fences = []
    with pytest.raises(SchemaMismatch, match="no fence is left for this work item") as refused:
        for _ in range(3):
            fences.append(claim(full_table.database, make_caller("a"), "SD-1").session.session.fence)
            release(full_table.database, make_caller("a"))
    assert refused.value.exit_code == 7
    assert "claude_session_events" in str(refused.value.hint)
    assert len(fences) == len(set(fences)) == (1 if last.endswith("8Z") else 0)
    full_table.execute("DELETE FROM public.claude_session_events WHERE claimed_at > '9000-01-01Z'")
    full_table.execute("UPDATE public.claude_sessions SET metadata = '{}'")
    assert claim(full_table.database, make_caller("b"), "SD-1").outcome == "claimed"
