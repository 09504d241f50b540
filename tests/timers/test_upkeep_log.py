"""The lock, the log and the stamp of `upkeep`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

from claude_sessions_cli import rounds


def test_oversized_log_replaces_the_previous_one(tmp_path: Path) -> None:
    log, old = tmp_path / "upkeep.log", tmp_path / "upkeep.log.1"
    old.write_text("older")
    log.write_bytes(b"x" * rounds.LOG_LIMIT)
    rounds.rotate(tmp_path)
    assert old.read_text() == "older"
    log.write_bytes(b"x" * (rounds.LOG_LIMIT + 1))
    rounds.rotate(tmp_path)
    assert not log.exists() and old.stat().st_size == rounds.LOG_LIMIT + 1
    rounds.rotate(tmp_path)


def test_last_run_is_recorded_with_its_error(tmp_path: Path) -> None:
    assert rounds.last_run(tmp_path) is None
    rounds.record_run(tmp_path, "it broke")
    run = rounds.last_run(tmp_path)
    assert run is not None and run.error == "it broke"
    assert datetime.now(timezone.utc) - run.at < timedelta(minutes=1)
    rounds.record_run(tmp_path, None)
    assert json.loads((tmp_path / "upkeep.json").read_text())["error"] is None
    assert (tmp_path / "upkeep.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "upkeep.json").write_text("{")
    assert rounds.last_run(tmp_path) is None


def test_only_one_run_is_active(tmp_path: Path) -> None:
    with rounds.only_one(tmp_path / "new") as first, rounds.only_one(tmp_path / "new") as second:
        assert (first, second) == (True, False)
    with rounds.only_one(tmp_path / "new") as again:
        assert again
