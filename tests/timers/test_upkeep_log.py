"""The lock, the log and the stamp of `upkeep`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.files import LOG_LIMIT
from claude_sessions_cli.timers import upkeep_log


def test_oversized_log_replaces_the_previous_one(tmp_path: Path) -> None:
    log, old = tmp_path / "upkeep.log", tmp_path / "upkeep.log.1"
    old.write_text("older")
    log.write_bytes(b"x" * LOG_LIMIT)
    files.rotate(log)
    assert old.read_text() == "older"
    log.write_bytes(b"x" * (LOG_LIMIT + 1))
    files.rotate(log)
    assert not log.exists() and old.stat().st_size == LOG_LIMIT + 1
    files.rotate(log)


def test_last_run_is_recorded_with_its_error(tmp_path: Path) -> None:
    assert upkeep_log.last_run(tmp_path) is None
    upkeep_log.record_run(tmp_path, "it broke")
    run = upkeep_log.last_run(tmp_path)
    assert run is not None and run.error == "it broke"
    assert datetime.now(timezone.utc) - run.at < timedelta(minutes=1)
    upkeep_log.record_run(tmp_path, None)
    stamp = json.loads((tmp_path / "upkeep.json").read_text())
    assert (stamp["at"][-1], stamp["error"]) == ("Z", None)
    assert (tmp_path / "upkeep.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "upkeep.json").write_text("{")
    assert upkeep_log.last_run(tmp_path) is None


def test_only_one_run_is_active(tmp_path: Path) -> None:
    with upkeep_log.run_lock(tmp_path / "new") as first, upkeep_log.run_lock(tmp_path / "new") as second:
        assert (first, second) == (True, False)
    with upkeep_log.run_lock(tmp_path / "new") as again:
        assert again
