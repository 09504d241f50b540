"""`history --timeline` and `--svg`."""

from __future__ import annotations

from pathlib import Path

from commands.answers import Run, failed


def test_picture_is_written_into_the_file_that_is_named(run: Run, tmp_path: Path) -> None:
    run("claim", "SD-1")
    target, link = tmp_path / "target.svg", tmp_path / "link.svg"
    target.touch()
    # As /dev/stdout is one.
    link.symlink_to(target)
    assert run("history", "--svg", str(link)).returncode == 0
    assert link.is_symlink() and target.read_text().startswith("<svg ")
    failed(run("history", "--svg", str(tmp_path / "missing" / "x.svg")), 2, "cannot write")


def test_length_without_a_timeline_is_refused(run: Run) -> None:
    failed(run("history", "--since", "1d"), 2, "--since needs --timeline")
