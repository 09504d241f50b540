"""`reap`: lines, JSON and dry runs."""

from __future__ import annotations

from conftest import Sleeper

from commands.answers import Run, data_of


def test_reap_prints_changes_and_evidence(run: Run, sleeper: Sleeper) -> None:
    child = sleeper()
    run("claim", "SD-1", "--pid", str(child.pid))
    assert run("reap", session=None).stdout == ""
    kept = run("reap", "--explain", session=None).stdout
    assert kept.startswith("kept a SD-1: its process is alive")
    child.kill()
    child.wait()
    assert run("reap", "--dry-run").stdout.startswith("would be released a SD-1: process gone (process dead,")
    data = data_of(run("reap", "--json"), "reap")
    assert data["dry_run"] is False
    [changed] = data["changed"]
    assert set(changed) == {"session", "to", "reason", "evidence"}
    assert (changed["to"], changed["reason"]) == ("released", "process gone")
    assert run("reap").stdout == ""
