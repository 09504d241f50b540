"""`install cron` on a real crontab, in a private spool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from private_cron import Run, private_cron
from run_bench import PROGRAM

from claude_sessions_cli.timers import cron

FOREIGN = 'MAILTO=""\n\n# m h  dom mon dow   command\n0 4 * * * echo 50\\% "of it"\t\n'


@pytest.fixture
def in_private_cron(tmp_path: Path) -> Run:
    """Return a function that runs a command with a private spool of cron."""
    return private_cron(tmp_path)


def _crontab(run: Run) -> str:
    return run("crontab", "-l").stdout


@pytest.mark.faults
def test_install_adds_one_line_and_remove_restores_crontab(in_private_cron: Run, tmp_path: Path) -> None:
    assert in_private_cron("crontab", "-", input=FOREIGN).returncode == 0
    shown = in_private_cron(*PROGRAM, "install", "cron", "--dry-run")
    assert shown.returncode == 0
    assert _crontab(in_private_cron) == FOREIGN
    assert not (tmp_path / ".local").exists()

    done = in_private_cron(*PROGRAM, "install", "cron")
    assert (done.returncode, done.stdout.partition(",")[0].strip()) == (0, "cron: installed")
    # This machine may have no daemon.
    assert ("nothing runs it" in done.stdout) == done.stderr.startswith("claude-sessions: no cron daemon is running")
    after = _crontab(in_private_cron)
    assert after.startswith(FOREIGN)
    block = after.removeprefix(FOREIGN)
    assert block in shown.stdout
    [line] = [line for line in block.splitlines() if not line.startswith("#")]
    assert line.startswith("* * * * * /bin/sh -c 'HOME=") and line.endswith(" upkeep --log >/dev/null 2>&1'")
    assert "/upkeep.log\n" in block and str(tmp_path) in line

    again = in_private_cron(*PROGRAM, "install", "cron", "--json")
    assert json.loads(again.stdout)["data"]["outcome"] == "already_installed"
    assert _crontab(in_private_cron) == after

    gone = in_private_cron(*PROGRAM, "install", "cron", "--remove")
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "cron: removed\n", "")
    assert _crontab(in_private_cron) == FOREIGN
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove").stdout == "cron: not installed\n"


@pytest.mark.faults
def test_remove_leaves_no_crontab_if_there_was_none(in_private_cron: Run) -> None:
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove").stdout == "cron: not installed\n"
    assert in_private_cron(*PROGRAM, "install", "cron", "-q").stdout == ""
    assert cron.BEGIN in _crontab(in_private_cron)
    assert in_private_cron(*PROGRAM, "install", "cron", "--remove", "--dry-run").returncode == 0
    assert cron.BEGIN in _crontab(in_private_cron)
    in_private_cron(*PROGRAM, "install", "cron", "--remove")
    assert "no crontab for" in in_private_cron("crontab", "-l").stderr
