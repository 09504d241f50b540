"""A real cron daemon runs the installed line, and releases the item of a killed terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Table
from poll import until
from private_cron import private_cron, private_spool
from run_bench import PROGRAM
from terminal import CLI, Terminal

from claude_sessions_cli.timers import upkeep_log

pytestmark = pytest.mark.faults
TWO_MINUTES_S = 125


def test_cron_renews_living_and_releases_killed_terminal(full_table: Table, tmp_path: Path) -> None:
    run = private_cron(tmp_path)
    if not shutil.which("cron"):
        pytest.skip("cron is not installed")
    config = tmp_path / ".config/claude-sessions/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'dsn = "{full_table.dsn}"\n')
    state = tmp_path / "100% state"
    env = {**os.environ, "CLAUDE_SESSIONS_STATE_DIR": str(state)}
    if tcsh := shutil.which("tcsh"):
        # The line must not depend on the shell that the user has chosen for the others.
        assert run("crontab", "-", input=f"SHELL={tcsh}\n").returncode == 0
    assert run(*PROGRAM, "install", "cron", "-q", env=env).returncode == 0
    assert full_table.dsn not in run("crontab", "-l").stdout

    empty, lock = tmp_path / "empty", tmp_path / "crond.pid"
    empty.mkdir()
    lock.touch()
    # Without the machine's own jobs, and beside a running daemon.
    hide = (
        f"for f in /etc/crontab /etc/anacrontab; do [ ! -e $f ] || mount --bind /dev/null $f; done;"
        f" mount --bind {empty} /etc/cron.d; touch /run/crond.pid; mount --bind {lock} /run/crond.pid; exec cron -f"
    )
    daemon = subprocess.Popen([*private_spool(tmp_path), "sh", "-c", hide])
    lives, dies = Terminal(tmp_path), Terminal(tmp_path)
    try:
        for window, item in ((lives, "SD-LIVES"), (dies, "SD-DIES")):
            assert window.run(f"{CLI} claim {item}").code == 0
        before = {row["sd_id"]: row for row in full_table.execute("SELECT * FROM public.claude_sessions")}
        os.kill(dies.pid, signal.SIGKILL)
        name = before["SD-DIES"]["session_id"]
        until(lambda: full_table.row(name)["status"] == "released", "it is released", TWO_MINUTES_S)
        assert full_table.row(name)["sd_id"] is None
        assert full_table.own(name)["tombstone"]["reason"] == "process gone"
        kept = full_table.row(before["SD-LIVES"]["session_id"])
        assert (kept["sd_id"], kept["status"]) == ("SD-LIVES", "active")
        assert kept["heartbeat_at"] > before["SD-LIVES"]["heartbeat_at"]
        log, line = state / "upkeep.log", f"released {name} SD-DIES: process gone"
        # The run logs the release after all rows, and then records itself.
        until(lambda: log.exists() and line in log.read_text(), "it is in the log", TWO_MINUTES_S)
        assert until(lambda: upkeep_log.last_run(state), "it is noted that a run has ended").error is None
    finally:
        daemon.terminate()
        daemon.wait()
        for window in (lives, dies):
            window.close()
