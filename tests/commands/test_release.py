"""`release`: outcome, losses, and other sessions by prefix."""

from __future__ import annotations

from commands.answers import SESSION_KEYS, Run, data_of


def test_release_prints_outcome(run: Run) -> None:
    assert run("release").stdout == "nothing held\n"
    run("claim", "SD-1")
    assert run("release", "SD-1", session="b").returncode == 4
    data = data_of(run("release", "SD-1", "--json"), "release")
    assert data["outcome"] == "released"
    assert set(data["session"]) == SESSION_KEYS
    assert run("release", "--end").stdout == "ended a\n"


def test_release_reports_loss_once(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", session="b")
    assert run("release").returncode == 4
    assert run("release").returncode == 0


def test_release_by_prefix_without_session(run: Run) -> None:
    run("claim", "SD-1", session="agent-7")
    done = run("release", "--session", "agent", session=None)
    assert (done.returncode, done.stdout) == (0, "released SD-1\n")
    assert run("heartbeat", session="agent-7").returncode == 4
