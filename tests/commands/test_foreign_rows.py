"""Odd rows of other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Cli, Table, dsn_of
from requirements import long_but_every

from commands.answers import Inside

DEEP = "[" * 5000 + "]" * 5000
STRANGE: list[dict[str, Any]] = [
    {"heartbeat_at": "infinity", "claimed_at": "infinity", "created_at": "infinity", "updated_at": "infinity"},
    {"heartbeat_at": "-infinity", "claimed_at": "-infinity", "created_at": "-infinity", "updated_at": "-infinity"},
    {"heartbeat_at": "-infinity", "claimed_at": "infinity"},
    {"heartbeat_at": "0044-03-15 12:00 BC", "claimed_at": "0044-03-15 12:00 BC"},
    {"heartbeat_at": "200000-01-01", "claimed_at": "200000-01-01"},
    {"heartbeat_at": None, "claimed_at": None, "created_at": None, "updated_at": None, "status": None},
    {"pid": 2147483647, "tty": "x" * 100_000},
    {"pid": -2147483648, "hostname": "", "codebase": "", "tty": ""},
    {"metadata": None},
    {"metadata": "null"},
    {"metadata": '"text"'},
    {"metadata": "[1, 2]"},
    {"metadata": '{"claude_sessions_cli": []}'},
    {"metadata": '{"claude_sessions_cli": {"process": 3, "tombstone": 4, "stale_after": {}, "parked_until": 5}}'},
    {"metadata": '{"claude_sessions_cli": {"process": {"pid": "x"}, "tombstone": {"sd_id": 4, "at": "yesterday"}}}'},
    {"metadata": '{"claude_sessions_cli": {"parked_until": "9999-12-31T23:59:59Z", "stale_after": 1e400}}'},
    {"metadata": '{"claude_sessions_cli": {"tombstone": {"sd_id": "SD-X", "fence": 1e30, "at": "infinity"}}}'},
    {"metadata": '{"claude_sessions_cli": {"tombstone": {"sd_id": "SD-X", "fence": ' + "9" * 40 + "}}}"},
    {"metadata": '{"number": ' + "7" * 5000 + "}"},
    {"metadata": '{"deep": ' + DEEP + "}"},
    {"metadata": '{"\\u001b[31m": "\\ud83d\\ude00"}'},
    *(
        {"sd_id": None, "status": "stale", "metadata": '{"claude_sessions_cli": {"tombstone": ' + tombstone + "}}"}
        for tombstone in (
            '{"sd_id": "SD-1", "reason": "silent", "fence": ' + "9" * 40 + "}",
            '{"sd_id": "SD-1", "reason": "silent", "fence": -1, "at": "9999-12-31T23:59:59+00:00"}',
            '{"sd_id": "SD-1", "reason": 7, "fence": true, "by": 5, "track": "Z", "note": []}',
        )
    ),
]


@pytest.fixture(params=["whole schema", pytest.param("001 alone", marks=pytest.mark.faults)])
def usual_table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Return the table; on the seed alone with the long tests."""
    made = Table(dsn_of(request))
    with made.stack:
        yield made


@pytest.mark.parametrize("row", long_but_every(3, STRANGE), ids=lambda row: str(row)[:60])
def test_foreign_row_breaks_no_command(usual_table: Table, inside: Inside, row: dict[str, Any]) -> None:
    usual_table.insert("strange", **{"sd_id": "SD-1", "status": "active", **row})
    env = {"CLAUDE_SESSIONS_DSN": usual_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}

    def json_of(*argv: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        done = inside(*argv, "--json", env=env)
        assert done.returncode in codes, (argv, done.stdout)
        data = json.loads(done.stdout)["data"]
        return data if isinstance(data, dict) else {}

    json_of("list")
    json_of("reap", "--dry-run")
    json_of("heartbeat", "--session", "strange", codes=(0, 4))
    json_of("claim", "SD-1", codes=(0, 3))
    fences = []
    for session in ("a", "b"):
        taken = json_of("claim", "SD-1", "--force", "--reason", "test", "--session", session)
        fences.append(taken["fence"])
    assert fences[1] > fences[0] > 0
    json_of("heartbeat", "--session", "strange", codes=(0, 4))
    json_of("release", "--end", "--session", "strange", codes=(0, 4))
    json_of("reap")


def test_foreign_rows_are_listed_and_reaped(table: Table, cli: Cli) -> None:
    for number, row in enumerate(STRANGE):
        table.insert(f"strange-{number}-", **{"sd_id": f"SD-{number}-", "status": "active", **row})
    names = {f"strange-{number}-" for number in range(len(STRANGE))}
    env = {"CLAUDE_SESSIONS_DSN": table.dsn}
    argvs = [("list", "--all"), ("list", "--all", "--json"), ("reap", "--dry-run", "--explain"), ("reap", "--explain")]
    for argv in argvs:
        done = cli(*argv, env=env)
        assert (done.returncode, done.stderr) == (0, ""), argv
        assert {name for name in names if name in done.stdout} == names, argv
    silent = [
        number for number, row in enumerate(STRANGE)
        if "heartbeat_at" in row and row["heartbeat_at"] not in ("infinity", "200000-01-01")
    ]  # fmt: skip
    held = "SELECT session_id FROM public.claude_sessions WHERE sd_id IS NOT NULL"
    kept = {row["session_id"] for row in table.execute(held)}
    given = {f"strange-{number}-" for number in silent}
    without = {f"strange-{number}-" for number, row in enumerate(STRANGE) if row.get("sd_id", "") is None}
    assert kept == names - given - without
