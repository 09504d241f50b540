"""`claim`: outcome, refusal, force, and earlier losses."""

from __future__ import annotations

import re

from commands.answers import SESSION_KEYS, Run, data_of


def test_claim_prints_outcome_and_fence(run: Run) -> None:
    done = run("claim", "SD-1", "--track", "A")
    assert done.returncode == 0
    assert done.stdout.startswith("claimed SD-1 (track A), fence 1")
    assert done.stderr == ""
    data = data_of(run("claim", "SD-1", "--json"), "claim")
    assert (data["outcome"], data["evicted"]) == ("already_yours", None)
    assert set(data["session"]) == SESSION_KEYS
    assert data["fence"] == data["session"]["fence"]
    assert data["session"]["claimed_at"].endswith("Z")


def test_refused_claim_names_the_holder(run: Run) -> None:
    run("claim", "SD-1")
    done = run("claim", "SD-1", session="b")
    assert (done.returncode, done.stdout) == (3, "")
    assert "SD-1 is held by a (host" in done.stderr
    assert "claude-sessions list SD-1" in done.stderr
    error = data_of(run("claim", "SD-1", "--json", session="b"), "claim", 3)
    assert error["code"] == "held"
    assert set(error["holder"]) == SESSION_KEYS
    assert error["holder"]["session_id"] == "a"


def test_force_needs_a_reason(run: Run) -> None:
    run("claim", "SD-1")
    assert run("claim", "SD-1", "--force", session="b").returncode == 2
    assert run("claim", "SD-1", "--reason", "x", session="b").returncode == 2
    done = run("claim", "SD-1", "--force", "--reason", "a is away", session="b")
    assert done.returncode == 0
    assert "took by force SD-1 from a" in done.stdout
    lost = run("heartbeat")
    assert lost.returncode == 4
    fence = re.search(r"fence (\d+)", done.stdout)
    assert fence
    assert f"lost SD-1 to b under fence {fence[1]} at" in lost.stderr
    assert "forced (a is away)" in lost.stderr


def test_claim_reports_earlier_loss(run: Run) -> None:
    for again in ("SD-1", "SD-2"):
        run("claim", "SD-1", "--switch")
        run("claim", "SD-1", "--force", "--reason", "why", session="b")
        run("release", session="b")
        if again == "SD-1":
            done = run("claim", again)
            assert done.returncode == 0
            assert re.search(r"before this, the session lost SD-1 to b under fence \d+ at .*why", done.stderr)
        else:
            tombstone = data_of(run("claim", again, "--json"), "claim")["tombstone"]
            assert (tombstone["sd_id"], tombstone["by"], tombstone["note"]) == ("SD-1", "b", "why")
    # It is reported twice, not counting the attempts of a claim that makes several.
    assert data_of(run("claim", "SD-2", "SD-3", "--any", "--json"), "claim")["tombstone"]["sd_id"] == "SD-1"
    assert data_of(run("claim", "SD-2", "--json"), "claim")["tombstone"]["sd_id"] == "SD-1"
    assert data_of(run("claim", "SD-2", "--json"), "claim")["tombstone"] is None


def test_note_is_listed_and_shown_to_the_refused(run: Run) -> None:
    assert run("claim", "SD-1", "--note", "the parser").returncode == 0
    assert "the parser" in run("list").stdout
    assert "working on: the parser" in run("claim", "SD-1", session="b").stderr
    assert data_of(run("list", "--json"), "list")["sessions"][0]["note"] == "the parser"
    for note in ("", "x" * 10_000, "a\nb", "\x1b[31m"):
        done = run("claim", "SD-1", "--note", note)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), note


def test_force_with_fence_takes_only_that_term(run: Run) -> None:
    fence = data_of(run("claim", "SD-1", "--json"), "claim")["fence"]
    forced = ("claim", "SD-1", "--force", "--reason", "why", "--fence")
    assert run(*forced, "1", session="b").returncode == 3
    assert run(*forced, "abc", session="b").returncode == 2
    assert run("claim", "SD-1", "--fence", "1", session="b").returncode == 2
    assert run(*forced, str(fence), session="b").returncode == 0
