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


def test_release_reports_loss_twice(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", session="b")
    for _ in range(2):
        # The answer of the first may be lost, and --quiet silences no loss.
        done = run("release", "--quiet")
        assert (done.returncode, done.stdout) == (4, "")
        assert "lost SD-1 to b" in done.stderr
    assert run("release").returncode == 0


def test_release_after_new_claim_repeats_loss_and_succeeds(run: Run) -> None:
    run("claim", "SD-1")
    run("claim", "SD-1", "--force", "--reason", "why", session="b")
    assert "lost SD-1 to b" in run("claim", "SD-2", "--quiet").stderr
    assert run("heartbeat").returncode == 0
    done = run("release")
    assert (done.returncode, done.stdout) == (0, "released SD-2\n")
    assert "lost SD-1 to b" in done.stderr


def test_release_names_what_is_held_instead(run: Run) -> None:
    run("claim", "SD-1")
    done = run("release", "SD-TYPO")
    assert done.returncode == 4
    assert "this session holds SD-1, not SD-TYPO" in done.stderr
    assert run("check", "SD-1").returncode == 0


def test_release_by_prefix_without_session(run: Run) -> None:
    run("claim", "SD-1", session="agent-7")
    done = run("release", "--session", "agent", session=None)
    assert (done.returncode, done.stdout) == (0, "released SD-1\n")
    assert run("heartbeat", session="agent-7").returncode == 0, "cron has no identity: it acts for that session"


def test_release_of_other_holder_needs_a_reason(run: Run) -> None:
    run("claim", "SD-1", session="agent-7")
    done = run("release", "--session", "agent", session="bob")
    assert (done.returncode, "say why" in done.stderr) == (2, True)
    done = run("release", "--session", "agent", "--reason", "it hangs", session="bob")
    assert (done.returncode, done.stdout) == (0, "released SD-1 of agent-7\n")
    lost = run("heartbeat", session="agent-7")
    assert lost.returncode == 4
    assert "released by bob (it hangs)" in lost.stderr
