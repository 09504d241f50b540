"""Files that others read or may have written: links, pipes, strangers and the umask."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from claude_sessions_cli import files


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Return a file that a link of another account might lead to."""
    path = tmp_path / "precious"
    path.write_text("precious")
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("planted", ["link", "pipe", "link beside", "pipe beside"])
def test_write_replaces_links_and_pipes(tmp_path: Path, precious: Path, planted: str) -> None:
    path = tmp_path / "state"
    trap = path.with_name(f".{path.name}.{os.getpid()}") if "beside" in planted else path
    if planted.startswith("link"):
        trap.symlink_to(precious)
    else:
        os.mkfifo(trap)
    files.write(path, b"new")
    assert (path.read_bytes(), path.is_symlink(), path.stat().st_mode & 0o777) == (b"new", False, 0o600)
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("precious", 0o640)
    assert {found.name for found in tmp_path.iterdir()} == {"state", "precious"}


def test_read_refuses_pipe_and_directory_without_waiting(tmp_path: Path, precious: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular file|directory"):
            files.read(wrong)
    (tmp_path / "link").symlink_to(precious)
    assert files.read(tmp_path / "link") == b"precious"
    assert files.read(Path(os.devnull)) == b""


def test_pipe_of_the_caller_is_read_to_its_end() -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(b"late")

    late = threading.Timer(0.05, write)
    late.start()
    assert files.read(Path(f"/dev/fd/{reader}")) == b"late"
    late.join()
    os.close(reader)


@pytest.mark.parametrize("planted", ["link", "pipe", "open"])
def test_lock_and_log_that_are_planted_are_refused(tmp_path: Path, precious: Path, planted: str) -> None:
    path = tmp_path / "log"
    if planted == "link":
        path.symlink_to(precious)
    elif planted == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        path.chmod(0o602)
    with pytest.raises(OSError, match=r"symbolic links|not a regular file|No such device|every account may write it"):
        files.open_own(path, os.O_WRONLY | os.O_APPEND)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_umask_neither_opens_nor_closes_files(tmp_path: Path, umask: int) -> None:
    code = (
        "import os, sys; from pathlib import Path; from claude_sessions_cli import files\n"
        f"os.umask({umask}); place = Path(sys.argv[1]) / 'a' / 'b'\n"
        "files.make_directory(place); files.write(place / 'state', b'')\n"
        "os.close(files.open_own(place / 'log', os.O_WRONLY))\n"
        "print(*(f'{path.stat().st_mode & 0o777:o}' for path in (place.parent, place, place / 'state', place / 'log')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("700 700 600 600\n", "")


@pytest.mark.parametrize(
    ("mode", "stranger"), [(0o700, None), (0o775, None), (0o702, "every account"), (0o1777, "every account")]
)
def test_directory_open_to_every_account_has_strangers(tmp_path: Path, mode: int, stranger: str | None) -> None:
    place, link = tmp_path / "place", tmp_path / "link"
    place.mkdir()
    os.chown(place, -1, os.getegid())
    place.chmod(mode)
    link.symlink_to(place)
    assert files.stranger_of(place) == files.stranger_of(link) == stranger


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "sudo", "stranger"),
    [
        ((65534, 0), 0o700, "", "account nobody"),
        ((65534, 0), 0o700, "65534", None),
        ((65534, 65534), 0o770, "65534", None),
        ((65534, 0), 0o700, "65533", "account nobody"),
        ((0, 12), 0o770, "", "group 12"),
        ((0, 12), 0o750, "", None),
    ],
)
def test_directory_of_another_account_is_a_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[int, int], mode: int, sudo: str, stranger: str | None
) -> None:
    monkeypatch.setenv("SUDO_UID", sudo)
    os.chown(tmp_path, *owner)
    tmp_path.chmod(mode)
    assert files.stranger_of(tmp_path) == stranger
