"""`claim --wait` in a terminal, in scripts, interrupted, and with twenty waiters."""

from __future__ import annotations

import re
import signal
import time
from datetime import datetime, timezone

import pytest
from conftest import make_caller
from poll import until
from run_bench import PROGRAM, Bench
from terminal import CLI

from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.release import release

CLAIM = f"{CLI} claim SD-1 --wait"


@pytest.mark.faults
def test_terminal_shows_countdown_and_clears_it(bench: Bench) -> None:
    claim(bench.table.database, make_caller("holder"), "SD-1")
    window = bench.window("bash")
    window.type(f"{CLAIM} 90s")
    shown = re.compile(r"(\d+)m(\d\d)s left \(Ctrl-C gives up\): waiting for SD-1, held by holder")
    until(lambda: len(set(shown.findall(window.seen()))) >= 3, "the countdown")
    left = [int(minutes) * 60 + int(seconds) for minutes, seconds in shown.findall(window.seen())]
    assert left[0] <= 90 and left == sorted(left, reverse=True)
    release(bench.table.database, make_caller("holder"))
    assert window.answers() == "0"
    # The exit code may arrive before the screen has been read.
    until(lambda: "claimed SD-1" in window.seen(), "the final line")
    last = window.seen().rpartition("\x1b[K")[2]
    assert "claimed SD-1" in last
    assert "left" not in last


@pytest.mark.faults
def test_countdown_stays_on_one_line_and_escapes_names(bench: Bench) -> None:
    name = "evil\x1b]0;title\x07\x1b[31m\nline-" + "x" * 200
    now = datetime.now(timezone.utc)
    bench.table.insert(name, sd_id="SD-1", status="active", claimed_at=now, heartbeat_at=now)
    window = bench.window("bash")
    window.type("stty cols 80")
    window.answers()
    window.type(f"{CLAIM} 2s")
    assert until(
        lambda: re.search(
            r"0m0\ds left \(Ctrl-C gives up\): waiting for SD-1, held by evil]0;title\[31m", window.seen()
        ),
        "the countdown",
    )
    assert window.answers() == "3"
    shown = window.seen().partition("\x1b[K")[2].partition("gave up waiting")[0]
    lines = [line for line in re.split(r"\r?\x1b\[K|\r", shown) if "left" in line]
    assert lines and all(len(line) <= 79 and line.endswith("…") for line in lines), lines
    assert not {"\x07", "\n"} & set("".join(lines))
    assert "\x1b]0" not in shown and "\x1b[31m" not in shown


@pytest.mark.faults
@pytest.mark.parametrize(("key", "code"), [("\x03", "130"), ("\x1c", "131")])
def test_key_ends_wait_and_leaves_nothing_behind(bench: Bench, key: str, code: str) -> None:
    claim(bench.table.database, make_caller("holder"), "SD-1")
    window = bench.window("bash")
    window.type(f"ulimit -c 0; {CLAIM} 5m")
    until(lambda: re.search(r"4m\d\ds left", window.seen()), "the wait to begin")
    window.press(key)
    assert window.answers() == code
    assert "Traceback" not in window.seen()
    assert [row["session_id"] for row in bench.rows()] == ["holder"]


def test_signal_ends_wait_of_script_and_leaves_nothing(bench: Bench) -> None:
    claim(bench.table.database, make_caller("holder"), "SD-1")
    connected = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'claude-sessions' AND state LIKE 'idle%'"
    )

    def clients() -> set[int]:
        return {row["pid"] for row in bench.table.execute(connected)}

    # Some of these may be closing.
    before = clients()
    waiting = bench.start_any(*PROGRAM, "claim", "SD-1", "--wait", "5m", "--session", "w")
    until(lambda: clients() - before, "the wait to begin")
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(timeout=30) in (-signal.SIGTERM, 143)
    assert [row["session_id"] for row in bench.rows()] == ["holder"]


def test_own_item_is_not_waited_for(bench: Bench) -> None:
    claim(bench.table.database, make_caller("w"), "SD-1")
    begin = time.monotonic()
    done = bench.start_any(*PROGRAM, "claim", "SD-1", "--wait", "10m", "--session", "w")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert "SD-1" in out
    assert time.monotonic() - begin < 60


@pytest.mark.faults
def test_no_waiter_of_twenty_starves(bench: Bench) -> None:
    claim(bench.table.database, make_caller("holder"), "SD-1")
    waiting = {
        f"w{number}": bench.start_any(*PROGRAM, "claim", "SD-1", "--wait", "5m", "--session", f"w{number}", "--quiet")
        for number in range(20)
    }
    had: list[str] = []
    holder = "holder"
    while len(had) < 20:
        release(bench.table.database, make_caller(holder), end=True)
        holder = str(bench.holder()["session_id"])
        assert waiting[holder].wait(timeout=60) == 0
        had.append(holder)
    assert sorted(had) == sorted(waiting)
    gaps = bench.table.execute(
        "SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY id)) * 1000 AS ms, event"
        " FROM public.claude_session_events WHERE event IN ('claimed', 'unclaimed') ORDER BY id"
    )
    waited = sorted(float(gap["ms"]) for gap in gaps[1:] if gap["event"] == "claimed")
    print(f"\nfrom a release to the next claim, 20 waiters: median {waited[10]:.0f} ms, most {waited[-1]:.0f} ms")


@pytest.mark.faults
def test_wait_that_is_killed_has_reported_no_loss(bench: Bench) -> None:
    claim(bench.table.database, make_caller("w"), "SD-1")
    claim(bench.table.database, make_caller("holder"), "SD-1", force_reason="urgent")
    waiting = bench.start_any(*PROGRAM, "claim", "SD-1", "--wait", "5m", "--session", "w")
    polls = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'claude-sessions%%' AND query LIKE '%%COMMIT%%'"
    until(lambda: bench.table.execute(polls) or waiting.poll() is not None, "a poll")
    time.sleep(2)
    waiting.kill()
    waiting.wait()
    assert "told" not in bench.table.own("w")["tombstone"]
    done = bench.start_any(*PROGRAM, "claim", "SD-1", "--wait", "1s", "--session", "w")
    assert "this session lost SD-1 to holder" in done.communicate(timeout=30)[1]
    assert bench.table.own("w")["tombstone"]["told"] is True
