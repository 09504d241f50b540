"""The codebase and branch of directories, in real git repositories."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from claude_sessions_cli import identity
from claude_sessions_cli.codebase import describe_directory

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


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


def describe(directory: Path) -> tuple[str, str | None]:
    return describe_directory(directory)


@needs_git
def test_repository_gives_codebase_and_branch(repository: Path) -> None:
    deep = repository / "a/b"
    deep.mkdir(parents=True)
    assert describe(repository) == describe(deep) == describe(repository / ".git") == ("project", "main")
    git(repository, "switch", "-c", "feature/é")
    assert describe(deep) == ("project", "feature/é")
    git(repository, "switch", "--detach")
    assert describe(deep) == ("project", None)


def test_pipe_as_head_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "trap" / ".git").mkdir(parents=True)
    os.mkfifo(tmp_path / "trap" / ".git" / "HEAD")
    assert describe(tmp_path / "trap") == ("trap", None)


@needs_git
def test_linked_worktree_has_main_worktrees_codebase(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "../elsewhere", "-b", "side")
    deep = tmp_path / "elsewhere/deep"
    deep.mkdir()
    assert describe(deep) == ("project", "side")


@needs_git
def test_submodule_is_own_codebase(repository: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init")
    git(outer, "submodule", "add", str(repository), "libs/inner")
    assert describe(outer / "libs/inner") == ("inner", "main")
    assert describe(outer / "libs") == ("outer", "main")
    git(outer / "libs/inner", "worktree", "add", str(tmp_path / "linked"), "-b", "side")
    assert describe(tmp_path / "linked") == ("inner", "side")


@needs_git
@pytest.mark.parametrize(("bare", "name"), [("shop.git", "shop"), ("shop", "shop"), ("home/.bare", "home")])
def test_worktree_of_bare_repository_has_its_name(repository: Path, tmp_path: Path, bare: str, name: str) -> None:
    (tmp_path / bare).parent.mkdir(exist_ok=True)
    git(tmp_path, "clone", "--bare", str(repository), bare)
    git(tmp_path / bare, "worktree", "add", str(tmp_path / "work"), "main")
    assert describe(tmp_path / "work") == (name, "main")


@needs_git
def test_separate_git_directory_is_named_by_worktree(tmp_path: Path) -> None:
    git(tmp_path, "init", "--separate-git-dir", str(tmp_path / "kept"), "project")
    assert describe(tmp_path / "project") == ("project", "main")


def test_directory_without_repository_names_codebase(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert describe(plain) == ("plain", None)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has unshare")
@pytest.mark.parametrize("head", [None, "ref: refs/heads/main\n"], ids=["no repository", "a repository"])
def test_root_directory_is_codebase_slash(tmp_path: Path, head: str | None) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_text(head)
    # The new root has neither /proc nor ps, so that processes are unknown.
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


def test_dangling_git_file_is_ignored(tmp_path: Path) -> None:
    targets = (b"", b"missing", os.fsencode(tmp_path / "missing"), b"\0", b".")
    for content in (b"", b"nonsense", b"\xff\xfe", *(b"gitdir: " + target for target in targets)):
        (tmp_path / ".git").write_bytes(content)
        assert describe(tmp_path) == (tmp_path.name, None), content


def test_empty_git_directory_is_ignored(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / ".git").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    assert describe(inner) == (tmp_path.name, "main")


def test_branch_is_read_from_head(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for head, branch in (
        (b"ref: refs/heads/main\n", "main"),
        (b"ref: refs/heads/.invalid\n", None),
        (b"ref: refs/tags/v1\n", None),
        (b"0123456789\n", None),
        (b"", None),
        (b"ref: refs/heads/\xff\n", "\ufffd"),
    ):
        (tmp_path / ".git/HEAD").write_bytes(head)
        assert describe(tmp_path) == (tmp_path.name, branch), head


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
    assert describe(tmp_path) == (tmp_path.name, None)
    (tmp_path / ".git").chmod(0o755)
