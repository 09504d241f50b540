"""The benchmarks name the peers that are missing, and measure nothing beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bench import peers, storage
from bench.__main__ import QUESTIONS, main
from bench.sitting import Sitting


def test_plan_names_each_missing_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answers = tmp_path / "bench.json"
    assert main(["--plan", "--json", str(answers)]) == 0
    printed = capsys.readouterr().out
    missing = {"etcdctl lock": "etcdctl, etcd", "PgBouncer": "pgbouncer", "zsh": "zsh", "pgbench": "pgbench"}
    for name, programs in missing.items():
        assert f"LEFT OUT: {name}: not installed: {programs}\n" in printed
    # psql may be the embedded one.
    assert set(re.findall(r"^beside: (\S+)", printed, re.MULTILINE)) <= {"psql"}
    assert not answers.exists()


def test_program_without_a_version_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "zsh"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    sitting = Sitting(tmp_path / "bench.json", rounds=1, rows=1)
    sitting.begin("prompt", ["zsh"])
    assert not sitting.has("zsh")
    sitting.save()
    written = json.loads(sitting.file.read_text())
    assert [one["what"] for one in written["left_out"]] == ["zsh"]
    assert written["peers"] == {} and written["tables"] == []


def test_missed_bar_fails_the_sitting(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path / "bench.json", rounds=1, rows=1)
    sitting.bar("a ratio", 1.2, most=1.5)
    assert sitting.kept
    sitting.bar("a share", 0.5, least=0.99)
    assert not sitting.kept


@pytest.mark.parametrize(
    "wrong", [["nothing"], ["--rounds", "0"], ["--rows", "many"], ["--json", "/dev/null/bench.json"]]
)
def test_invalid_bench_options_are_usage_errors(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


def test_question_without_its_server_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "private_server", lambda: pytest.skip("no Postgres programs"))
    answers = tmp_path / "bench.json"
    assert main(["storage", "--json", str(answers)]) == 0
    written = json.loads(answers.read_text())
    assert written["left_out"] == [{"question": "storage", "what": "storage", "why": "no Postgres programs"}]
    assert written["tables"] == []


def test_every_question_has_its_file_and_no_other() -> None:
    shared = {"__init__", "__main__", "peers", "programs", "rows", "sitting"}
    assert {file.stem for file in Path(peers.__file__).parent.glob("*.py")} == {*QUESTIONS, *shared}
