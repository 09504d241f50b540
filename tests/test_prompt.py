"""The small file that a prompt reads: its content, its permissions, and failures that are ignored."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import probe
import pytest
from hypothesis import given
from hypothesis import strategies as some

from claude_sessions_cli import prompt
from claude_sessions_cli.model import METADATA_KEY, ProcessRecord, Session
from claude_sessions_cli.process import Process
from claude_sessions_cli.prompt import State

DATABASE, OTHER = "0123456789abcdef", "fedcba9876543210"
FENCE = 1_767_225_600_000_001
HELD = State("held", 1_767_225_600, "SD-AUTH-001", "session_0a1b2c3d_pts3_4711", FENCE, FENCE + 1, DATABASE)
ELSEWHERE = State("held", 1_767_225_600, "SD-2", "session_0a1b2c3d_pts3_4711", FENCE + 5, FENCE + 6, OTHER)
LOST = State.of_loss(HELD.item, HELD.session_id, DATABASE)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


def anchor(pid: int = 4711, start: str = "12345") -> Process:
    return Process(pid, 1, "/dev/pts/3", start, zombie=False, name="bash")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the files, which does not exist yet."""
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "terminals"


def correct() -> None:
    """Show the loss of the term HELD."""
    record = ProcessRecord(4711, "12345", "boot", "namespace")
    prompt.correct(os.environ, record, HELD.session_id, HELD.item, FENCE)


def row(**changes: object) -> Session:
    session = probe.session(4711, "host", {})
    values = {name: getattr(session, name) for name in Session.__slots__}
    return Session(**{**values, **changes})


def test_row_of_a_claim_gives_fence_and_time_of_change() -> None:
    found = State.of(row(sd_id="SD-1", claimed_at=probe.NOON, updated_at=probe.NOON + timedelta(seconds=1)), DATABASE)
    fence = 1_767_268_800_000_000
    assert (found.fence, found.updated_at, found.database) == (fence, fence + 1_000_000, DATABASE)
    assert State.parse(found.line) == found


def test_lines_of_earlier_versions_are_read(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "4711-12345").write_text("held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711\n")
    assert prompt.read(os.environ, anchor()) == State("held", HELD.since, HELD.item, HELD.session_id)


def test_written_prompt_file_is_read_back(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    assert prompt.read(os.environ, anchor()) == HELD
    line = "held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711 1767225600000001 1767225600000002 0123456789abcdef\n"
    assert [path.read_text() for path in (place / "4711-12345", place / "4711-12345.0123456789abcdef")] == [line, line]


def test_prompt_file_is_private_under_any_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        prompt.write(os.environ, anchor(), HELD)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (place / "4711-12345", place, place.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_file_of_reused_pid_is_ignored(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    assert prompt.read(os.environ, anchor(start="99999")) is None


def test_start_unknown_to_shells_is_not_in_file_name(place: Path) -> None:
    prompt.write(os.environ, anchor(start="Tue_Nov_24_12:00:00_2026"), HELD)
    assert sorted(path.name for path in place.iterdir()) == ["4711", f"4711.{DATABASE}"]


def test_writing_replaces_the_file_atomically(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    before = (place / "4711-12345").stat().st_ino
    with (place / "4711-12345").open() as reader:
        prompt.write(os.environ, anchor(), LOST)
        assert reader.read().startswith("held ")
    assert (place / "4711-12345").stat().st_ino != before
    assert len(list(place.iterdir())) == 2


def test_segment_shows_item_and_age() -> None:
    shown = {42: "SD-AUTH-001 42s", 720: "SD-AUTH-001 12m", 5400: "SD-AUTH-001 1h30m", -100: "SD-AUTH-001 0s"}
    assert {age: HELD.segment(HELD.since + age) for age in shown} == shown
    assert State("lost", 0, "SD-AUTH-001", "s").segment(5) == "LOST SD-AUTH-001"
    assert State("none", 0, "-", "s").segment(5) == ""
    counted = [
        state._replace(elsewhere=2).segment(HELD.since + 720) for state in (HELD, LOST, State("none", 0, "-", "s"))
    ]
    assert counted == ["SD-AUTH-001 12m +2", "LOST SD-AUTH-001 +2", "+2"]


def test_held_since_is_computed_on_the_local_clock() -> None:
    # The server's clock is months behind: only the age counts.
    session = row(sd_id="SD-1", claimed_at=probe.NOON - timedelta(minutes=12))
    found = State.of(session, DATABASE)
    assert (found.kind, found.item, found.session_id) == ("held", "SD-1", "holder")
    assert abs(time.time() - found.since - 720) < 30


def test_lost_and_idle_sessions_have_their_own_states() -> None:
    tombstone = {"sd_id": "SD-2", "fence": 1, "reason": "forced"}
    lost = row(sd_id=None, claimed_at=None, status="idle", metadata={METADATA_KEY: {"tombstone": tombstone}})
    updated_at = 1_767_268_800_000_000
    assert State.of(lost, DATABASE) == State("lost", 0, "SD-2", "holder", None, updated_at, DATABASE)
    idle = row(sd_id=None, claimed_at=None, status="idle")
    assert State.of(idle, DATABASE) == State("none", 0, "-", "holder", None, updated_at, DATABASE)


@given(some.text(min_size=1, max_size=256) | some.text(some.characters(codec="ascii"), min_size=1))
def test_text_from_database_is_harmless_to_shells(text: str) -> None:
    shown = prompt.harmless(text)
    assert not re.search(r"[^\x80-\U0010ffffA-Za-z0-9._:/@+,=? -]|^ | $", shown)
    assert shown.isprintable()
    assert {unicodedata.category(character)[0] for character in shown if character > "\x7f"} <= set("LNM")
    assert len(shown) == len(unicodedata.normalize("NFC", text))
    assert prompt.harmless(shown) == shown
    state = HELD._replace(item=shown)
    assert State.parse(state.line) == state


KEPT = ("org/repo", "feature/foo bar", "задача-7", "a@b+c,d=e", "क्षेत्र", "漢字 ﾊﾝｶｸ", "ש א")
REPLACED = "%$`\\\"'#!~*?[]{}()<>|&;^\x1b\x00\x9b\n\t"
# Blanks that are none to a shell, and what moves or hides text.
REPLACED += "\u00a0\u2028\u202e\u200f\u200d\ufeff\u3164\ufe0f\ue000€😀"


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        *((name, name) for name in KEPT),
        *((f"a{character}b", "a?b") for character in REPLACED),
        ("cafe\u0301", "caf\u00e9"),
        ("\u0301a", "?a"),
        ("1\u0301", "1?"),
        ("$\u0301", "??"),
        ("  a ", "??a?"),
        (" ", "?"),
        ("", "?"),
    ],
)
def test_item_is_shown_as_far_as_it_is_harmless(item: str, shown: str) -> None:
    assert prompt.harmless(item) == shown


def test_blank_of_an_item_has_a_place_in_the_file(place: Path) -> None:
    spaced = HELD._replace(item="feature/foo bar")
    prompt.write(os.environ, anchor(), spaced)
    assert (place / "4711-12345").read_text().split()[2] == "feature/foo~bar"
    assert prompt.read(os.environ, anchor()) == spaced
    assert spaced.witness and spaced.witness.sd_id == "feature/foo bar"


def test_item_of_an_earlier_version_is_read(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "4711-12345").write_text(HELD.line.replace(HELD.item, "org?repo"))
    assert prompt.read(os.environ, anchor()) == HELD._replace(item="org?repo")


def test_malformed_prompt_file_is_ignored(place: Path) -> None:
    place.mkdir(parents=True)
    lines = ["", "held x SD-1 s", "held 5 $(id) s", "what 5 SD-1 s", "held 05 SD-1 s", "\xff"]
    lines += ["held 5 a|b s", "held 5 a\x9bb s", "held 5 ~a s"]
    lines += ["held 5 SD-1 s 1", "held 5 SD-1 s 1 2 ../x", f"held 5 SD-1 s 1 2 {DATABASE} x", "held 5 SD-1 s 1 2 -1 +x"]
    for content in ("", "held", "held 5 SD-1 s", *(f"{line}\n" for line in lines)):
        (place / "4711-12345").write_bytes(content.encode("latin-1"))
        assert prompt.read(os.environ, anchor()) is None, content


def test_pipe_in_place_of_the_file_is_ignored(place: Path) -> None:
    path = prompt.file_of(os.environ, anchor())
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    assert prompt.read(os.environ, anchor()) is None


@pytest.mark.parametrize("below", ["", "terminals"])
def test_state_directory_of_strangers_is_ignored(place: Path, below: str) -> None:
    prompt.write(os.environ, anchor(), HELD)
    (place.parent / below).chmod(0o777)
    before = {path: path.read_bytes() for path in place.iterdir()}
    assert prompt.directory(os.environ) is None
    assert prompt.read(os.environ, anchor()) is None
    prompt.write(os.environ, anchor(), LOST)
    prompt.remove(os.environ, anchor(), DATABASE)
    correct()
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_impossible_state_directory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    for wrong in (blocker / "below", Path("relative"), Path("/proc/nothing")):
        monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(wrong))
        prompt.write(os.environ, anchor(), HELD)
        assert prompt.read(os.environ, anchor()) is None
        prompt.remove(os.environ, anchor(), DATABASE)
        correct()
        prompt.sweep(os.environ)
    assert not Path("relative").exists()


def test_missing_home_writes_nothing_to_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_state_dir", lambda *_, **__: "~/.local/state/claude-sessions")
    prompt.write(os.environ, anchor(), HELD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory_keeps_file_without_error(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    place.chmod(0o500)
    prompt.write(os.environ, anchor(), LOST)
    correct()
    place.chmod(0o700)
    assert prompt.read(os.environ, anchor()) == HELD


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of three pages."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12k,nr_inodes=20,mode=700", "none", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@needs_root
def test_full_disk_removes_stale_prompt_file(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(full_disk))
    prompt.write(os.environ, anchor(), HELD)
    assert prompt.read(os.environ, anchor()) == HELD
    (full_disk / "filler").write_bytes(b"x" * 4096)
    prompt.write(os.environ, anchor(), LOST)
    assert HELD.line not in [path.read_text() for path in (full_disk / "terminals").iterdir()]


@needs_root
def test_root_creates_no_directory_in_another_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    monkeypatch.setenv("CLAUDE_SESSIONS_STATE_DIR", str(home / ".local" / "state"))
    prompt.write(os.environ, anchor(), HELD)
    assert list(home.iterdir()) == []


def test_session_is_found_in_any_file_of_its_terminal(place: Path) -> None:
    assert prompt.session_of(os.environ, anchor()) is None
    prompt.write(os.environ, anchor(), HELD)
    (place / "4711-12345").write_text("none 0 - - - - -2 +1\n")
    assert prompt.session_of(os.environ, anchor()) == HELD.session_id


def test_ended_session_leaves_no_file(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    prompt.remove(os.environ, anchor(), DATABASE)
    assert list(place.iterdir()) == []


def test_other_databases_claims_are_counted(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    prompt.write(os.environ, anchor(pid=47), ELSEWHERE)
    assert prompt.read(os.environ, anchor()) == HELD
    prompt.write(os.environ, anchor(), ELSEWHERE, shown=lambda: False)
    assert prompt.read(os.environ, anchor()) == HELD._replace(elsewhere=1)
    prompt.write(os.environ, anchor(), ELSEWHERE)
    assert prompt.read(os.environ, anchor()) == ELSEWHERE._replace(elsewhere=1)
    prompt.write(os.environ, anchor(), LOST, shown=lambda: False)
    assert prompt.read(os.environ, anchor()) == ELSEWHERE


def test_turn_of_the_shell_during_a_write_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt.write(os.environ, anchor(), HELD)
    path = prompt.file_of(os.environ, anchor())
    assert path
    count = prompt._count_others

    def turn(*args: Any) -> int:
        # As a shell does whose variables name another database now.
        path.write_text(ELSEWHERE.line)
        monkeypatch.setattr(prompt, "_count_others", count)
        return count(*args)

    monkeypatch.setattr(prompt, "_count_others", turn)
    renewed = HELD._replace(updated_at=(HELD.updated_at or 0) + 1)

    def shown() -> bool:
        seen = prompt.read(os.environ, anchor())
        return seen is not None and seen.database == DATABASE

    prompt.write(os.environ, anchor(), renewed, shown=shown)
    assert prompt.read(os.environ, anchor()) == ELSEWHERE._replace(elsewhere=1)
    assert prompt.read(os.environ, anchor(), DATABASE) == renewed


def test_turn_at_the_moment_of_replacement_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt.write(os.environ, anchor(), HELD)
    shown = prompt.file_of(os.environ, anchor())
    assert shown
    move = Path.replace

    def turn_first(self: Path, target: Path) -> Path:
        if target == shown:
            monkeypatch.setattr(Path, "replace", move)
            shown.write_text(ELSEWHERE.line)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", turn_first)
    renewed = HELD._replace(updated_at=(HELD.updated_at or 0) + 1)
    prompt.write(os.environ, anchor(), renewed, shown=lambda: prompt.read(os.environ, anchor()) == HELD)
    assert prompt.read(os.environ, anchor()) == ELSEWHERE._replace(elsewhere=1)
    assert prompt.read(os.environ, anchor(), DATABASE) == renewed


def test_one_claim_under_two_names_of_a_database_counts_once(place: Path) -> None:
    # Such as localhost and 127.0.0.1.
    prompt.write(os.environ, anchor(), HELD)
    prompt.write(os.environ, anchor(), HELD._replace(database=OTHER))
    assert prompt.read(os.environ, anchor()) == HELD._replace(database=OTHER)


def test_state_that_is_not_shown_creates_no_prompt(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD, shown=lambda: False)
    assert [path.name for path in place.iterdir()] == [f"4711-12345.{DATABASE}"]


def test_lost_term_is_corrected_under_another_name(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD._replace(database=OTHER))
    correct()
    assert prompt.read(os.environ, anchor()) == LOST._replace(database=OTHER)


def test_lost_term_is_corrected_in_another_terminal(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    correct()
    assert prompt.read(os.environ, anchor()) == LOST
    # In a terminal that shows another database.
    prompt.write(os.environ, anchor(), HELD)
    prompt.write(os.environ, anchor(), ELSEWHERE)
    correct()
    assert prompt.read(os.environ, anchor()) == ELSEWHERE


def test_lost_term_of_an_earlier_version_is_corrected(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "4711-12345").write_text("held 1767225600 SD-AUTH-001 session_0a1b2c3d_pts3_4711\n")
    correct()
    assert prompt.read(os.environ, anchor()) == LOST._replace(database="-")
    assert [path.name for path in place.iterdir()] == ["4711-12345"]


@pytest.mark.parametrize(
    "change",
    [{"fence": FENCE + 9}, {"session_id": "another"}, {"item": "SD-3"}, {"kind": "none"}],
)
def test_newer_or_foreign_state_is_not_corrected(place: Path, change: dict[str, Any]) -> None:
    prompt.write(os.environ, anchor(), HELD._replace(**change))
    before = {path: path.read_text() for path in place.iterdir()}
    correct()
    assert {path: path.read_text() for path in place.iterdir()} == before


def test_correction_creates_no_file(place: Path) -> None:
    correct()
    assert not place.exists()


@needs_root
def test_other_users_file_is_not_corrected(place: Path) -> None:
    prompt.write(os.environ, anchor(), HELD)
    for path in place.iterdir():
        os.chown(path, 12345, 12345)
    correct()
    assert prompt.read(os.environ, anchor()) == HELD


def test_session_that_ended_elsewhere_keeps_the_prompt(place: Path) -> None:
    prompt.write(os.environ, anchor(), ELSEWHERE)
    prompt.write(os.environ, anchor(), HELD)
    prompt.remove(os.environ, anchor(), OTHER)
    assert sorted(path.name for path in place.iterdir()) == ["4711-12345", f"4711-12345.{DATABASE}"]


def test_sweep_deletes_files_of_dead_shells_after_a_week(place: Path) -> None:
    for name in ("1-1", "2-2", ".3-3.77", "4", f"5-5.{DATABASE}", f".6.{DATABASE}.77", "foreign"):
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
        os.utime(place / name, (0, 0))
    os.utime(place / "2-2", (time.time() - 6 * 86400,) * 2)
    prompt.sweep(os.environ)
    assert sorted(path.name for path in place.iterdir()) == ["2-2", "foreign"]


def test_writing_both_files_takes_less_than_two_milliseconds(place: Path) -> None:
    def once() -> float:
        begin = time.thread_time()
        prompt.write(os.environ, anchor(), HELD)
        return time.thread_time() - begin

    once()
    assert min(once() for _ in range(20)) < 0.002
