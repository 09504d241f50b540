"""The rules of identity on given values, and the codebase of real git repositories."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_sessions_cli import identity, process
from claude_sessions_cli.errors import NoIdentity, UsageError
from claude_sessions_cli.process import Process

NIL = "00000000-0000-0000-0000-000000000000"
NEVER_IDS = {
    "empty": "",
    "nil UUID": NIL,
    "nil UUID without dashes": NIL.replace("-", ""),
    "a space": "a b",
    "a leading dash": "-a",
    "a leading dot": ".a",
    "a slash": "a/b",
    "a line": "a\n",
    "two lines": "a\nb",
    "a NUL": "a\0b",
    "an escape": "\x1b[31mred",
    "not ASCII": "é",
    "a full-width letter": "ａ",
    "a digit of another script": "a٣",
    "not UTF-8": "a\udcff",
    "129 characters": "a" * 129,
    "10,000 characters": "a" * 10_000,
}
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def chain(*found: Process) -> list[Process]:
    """Return this command under the given processes, nearest first."""
    return [Process(9, 8, None, "9", False, "python"), *found]


# -- values that are given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "A.b_c:d-e", "0", "a" * 128, "8a1c66ff-0000-4000-8000-000000000001"])
def test_id_of_allowed_characters_is_kept(value: str) -> None:
    assert identity.detect({}, session=value).session_id == value


@pytest.mark.parametrize("value", NEVER_IDS.values(), ids=list(NEVER_IDS))
def test_malformed_session_id_is_refused_in_one_short_line(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        identity.detect({}, session=value)
    assert caught.value.message.startswith("--session is")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
@pytest.mark.parametrize(
    "value", [value for value in NEVER_IDS.values() if value], ids=[key for key in NEVER_IDS if key != "empty"]
)
def test_malformed_id_in_environment_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        identity.detect({name: value}, lineage=chain())
    assert caught.value.message.startswith(f"{name} is")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
def test_malformed_id_is_ignored_if_option_is_given(name: str) -> None:
    assert identity.detect({name: "not an id"}, session="given").session_id == "given"


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
def test_empty_variable_counts_as_unset(name: str) -> None:
    assert identity.detect({name: ""}, lineage=chain()).session_id is None


@pytest.mark.parametrize(
    "tty",
    [
        "",
        "unknown",
        "not a tty",
        "pts/3",
        "/dev/",
        "/dev/pts/3\n",
        "/dev/\x1b[31m",
        "/dev/" + "x" * 10_000,
        "/dev/é",
        "/dev/\udcff",
    ],
)
def test_malformed_terminal_is_refused(tty: str) -> None:
    with pytest.raises(UsageError) as caught:
        identity.detect({}, session="a", tty=tty)
    assert caught.value.message.startswith("--tty is not a terminal: ")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("tty", ["/dev/pts/3", "/dev/ttys003", "/dev/tty1", "/dev/console"])
def test_valid_terminal_is_kept(tty: str) -> None:
    assert identity.detect({}, session="a", tty=tty).tty == tty


@pytest.mark.parametrize("pid", [2**22 + 1, 2**63, 10**100])
def test_missing_process_is_refused(pid: int) -> None:
    with pytest.raises(UsageError, match=r"^--pid \d+(\.\.\.\d)?: no such process$"):
        identity.detect({}, pid=pid)


def test_given_process_is_anchor_and_names_session() -> None:
    found = identity.detect({}, pid=os.getppid())
    assert found.pid == os.getppid()
    assert found.process_record == {
        "pid": os.getppid(),
        "start": process.read(os.getppid()).start,
        "boot_id": process.this_host().boot_id,
        "pid_ns": process.this_host().pid_ns,
    }
    assert found.session_id is not None
    assert found.session_id.endswith(f"_{os.getppid()}")


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--session", ""],
        ["--session", NIL],
        ["--session", "a" * 10_000],
        ["--session", "\x1b[31mred\r\n"],
        ["--session", b"\xff\xfe"],
        ["--pid", "0"],
        ["--pid", "-1"],
        ["--pid", "abc"],
        ["--pid", "1.5"],
        ["--pid", ""],
        ["--pid", "4194305"],
        ["--pid", "9" * 100],
        ["--pid", "\x1b[31m"],
        ["--pid", b"\xff"],
        ["--tty", ""],
        ["--tty", "unknown"],
        ["--tty", "/dev/" + "x" * 10_000],
        ["--tty", "/dev/pts/3\n"],
        ["--tty", b"/dev/\xff"],
    ],
    ids=lambda argv: repr(argv)[:40],
)
def test_malformed_option_is_refused_in_one_line(cli: Run, argv: list[Any]) -> None:
    done = cli("whoami", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("claude-sessions: ")
    assert done.stderr.removesuffix("\n").isprintable()
    assert len(done.stderr) < 300
    assert cli("whoami", "--json", *argv).returncode == 2


# -- what an identity is, by itself ----------------------------------------------------------------------------------


def test_derived_id_depends_on_pid_start_boot_and_namespace() -> None:
    shell = Process(100, 1, "/dev/pts/3", "5000", False, "bash", ("bash",))
    host = process.Host("h", "boot", "pid:[1]")
    first = identity.derive_session_id(shell, host)
    assert first == identity.derive_session_id(shell, process.Host("renamed", "boot", "pid:[1]"))
    others = [
        identity.derive_session_id(Process(100, 1, "/dev/pts/3", "5001", False, "bash"), host),
        identity.derive_session_id(Process(101, 1, "/dev/pts/3", "5000", False, "bash"), host),
        identity.derive_session_id(shell, process.Host("h", "next boot", "pid:[1]")),
        identity.derive_session_id(shell, process.Host("h", "boot", "pid:[2]")),
    ]
    digests = {session_id.split("_")[1] for session_id in [first, *others]}
    assert len(digests) == 5
    assert first.split("_")[2:] == ["pts3", "100"]


def test_session_id_counts_without_readable_processes() -> None:
    with pytest.raises(NoIdentity):
        identity.require(identity.detect({}, lineage=[]))
    assert identity.detect({"CLAUDE_SESSIONS_SESSION_ID": "a"}, lineage=[]).session_id == "a"


def test_unknown_facts_are_left_out_of_metadata() -> None:
    nobody = identity.Identity("a", None, None, None, None, None, process.this_host())
    assert nobody.own_metadata().keys() == {"host_os", "cli"}


# -- the codebase ----------------------------------------------------------------------------------------------------


def git(directory: Path, *words: str) -> None:
    settings = ["user.name=a", "user.email=a@example.org", "init.defaultBranch=main", "protocol.file.allow=always"]
    options = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(["git", *options, *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a commit."""
    made = tmp_path / "project"
    made.mkdir()
    git(made, "init")
    git(made, "commit", "--allow-empty", "-m", "one")
    return made


def where(directory: Path) -> tuple[str, str | None]:
    return identity.describe_directory(directory)


@needs_git
def test_repository_gives_codebase_and_branch(repository: Path) -> None:
    deep = repository / "a/b"
    deep.mkdir(parents=True)
    assert where(repository) == where(deep) == where(repository / ".git") == ("project", "main")
    git(repository, "switch", "-c", "feature/é")
    assert where(deep) == ("project", "feature/é")
    git(repository, "switch", "--detach")
    assert where(deep) == ("project", None)


@needs_git
def test_linked_worktree_has_main_worktrees_codebase(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "../elsewhere", "-b", "side")
    deep = tmp_path / "elsewhere/deep"
    deep.mkdir()
    assert where(deep) == ("project", "side")


@needs_git
def test_submodule_is_own_codebase(repository: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init")
    git(outer, "submodule", "add", str(repository), "libs/inner")
    assert where(outer / "libs/inner") == ("inner", "main")
    assert where(outer / "libs") == ("outer", "main")
    git(outer / "libs/inner", "worktree", "add", str(tmp_path / "linked"), "-b", "side")
    assert where(tmp_path / "linked") == ("inner", "side")


@needs_git
@pytest.mark.parametrize(("bare", "name"), [("shop.git", "shop"), ("shop", "shop"), ("home/.bare", "home")])
def test_worktree_of_bare_repository_has_its_name(repository: Path, tmp_path: Path, bare: str, name: str) -> None:
    (tmp_path / bare).parent.mkdir(exist_ok=True)
    git(tmp_path, "clone", "--bare", str(repository), bare)
    git(tmp_path / bare, "worktree", "add", str(tmp_path / "work"), "main")
    assert where(tmp_path / "work") == (name, "main")


@needs_git
def test_separate_git_directory_is_named_by_worktree(tmp_path: Path) -> None:
    git(tmp_path, "init", "--separate-git-dir", str(tmp_path / "kept"), "project")
    assert where(tmp_path / "project") == ("project", "main")


def test_directory_without_repository_names_codebase(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert where(plain) == ("plain", None)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has unshare")
@pytest.mark.parametrize("head", [None, "ref: refs/heads/main\n"], ids=["no repository", "a repository"])
def test_root_directory_is_codebase_slash(tmp_path: Path, head: str | None) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_text(head)
    # Its own root has no /proc and no ps either: nothing is known of processes there.
    code = f"""
import os
from claude_sessions_cli import identity
os.chroot({str(tmp_path)!r})
os.chdir("/")
found = identity.detect({{}}, session="a")
print(found.codebase, found.cwd, found.branch, found.anchor, identity.detect({{}}).session_id)
"""
    prefix = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    done = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True)
    if done.stderr.startswith("unshare: "):
        pytest.skip(f"this user may not change the root directory: {done.stderr.strip()}")
    assert (done.stdout, done.stderr) == (f"/ / {'main' if head else None} None None\n", "")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"gitdir: /nonexistent", b"gitdir: \0", b"\xff\xfe", b"gitdir: ."]
)
def test_dangling_git_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".git").write_bytes(content)
    assert where(tmp_path) == (tmp_path.name, None)


def test_empty_git_directory_is_ignored(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / ".git").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    assert where(inner) == (tmp_path.name, "main")


@pytest.mark.parametrize(
    ("head", "branch"),
    [
        (b"ref: refs/heads/main\n", "main"),
        (b"ref: refs/heads/.invalid\n", None),
        (b"ref: refs/tags/v1\n", None),
        (b"0123456789\n", None),
        (b"", None),
        (b"ref: refs/heads/\xff\n", "\ufffd"),
    ],
)
def test_branch_is_read_from_head(tmp_path: Path, head: bytes, branch: str | None) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_bytes(head)
    assert where(tmp_path) == (tmp_path.name, branch)


def test_directory_name_is_decoded_if_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
        odd.mkdir()
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    monkeypatch.chdir(odd)
    found = identity.detect({}, session="a")
    assert found.codebase == "a\ufffd"
    assert found.cwd is not None
    assert found.cwd.encode().endswith("/a\ufffd".encode())


def test_deleted_directory_gives_no_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = identity.detect({}, session="a")
    assert (found.codebase, found.cwd, found.branch) == (None, None, None)
    assert "cwd" not in found.own_metadata()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_unreadable_repository_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git").chmod(0)
    assert where(tmp_path) == (tmp_path.name, None)
    (tmp_path / ".git").chmod(0o755)
