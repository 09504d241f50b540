"""The fence of a claim, and a command that runs under one."""

from __future__ import annotations

from claude_sessions_cli.model import ProcessRecord
from claude_sessions_cli.operations.claim import ClaimResult


def fence_of_claim(result: ClaimResult) -> int:
    assert result.session.session.fence is not None
    return result.session.session.fence


RUNNER = ProcessRecord(1, "1", "another boot", "pid:[1]")
