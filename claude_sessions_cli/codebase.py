"""The codebase and branch of a directory, from git's files: no git needs to be installed."""

from __future__ import annotations

import os
from pathlib import Path

from claude_sessions_cli import files
from claude_sessions_cli.text import valid_utf8


def describe_directory(directory: Path) -> tuple[str, str | None]:
    """Return the codebase and the branch of a directory.

    The codebase is the name of the git repository's main worktree, also inside a linked worktree, else the directory's
    own name. Git's files are read as gitrepository-layout(5) has them; no git needs to be installed.
    """
    for parent in (directory, *directory.parents):
        dot_git = parent / ".git"
        try:
            if dot_git.is_dir() and os.path.lexists(dot_git / "HEAD"):
                return _name(parent), _branch(dot_git)
            if dot_git.is_file():
                git_dir = parent / os.fsdecode(files.read(dot_git)).removeprefix("gitdir:").strip()
                return _worktree_owner(git_dir) or _name(parent), _branch(git_dir)
        except (OSError, RuntimeError, ValueError):
            break
    return _name(directory), None


def _worktree_owner(git_dir: Path) -> str | None:
    # Only a linked worktree has a commondir; a submodule's .git file leads to a whole repository.
    common = git_dir / "commondir"
    if not common.exists():
        return None
    owner = (git_dir / os.fsdecode(files.read(common)).strip()).resolve()
    # A bare repository is often hidden inside the directory that holds its worktrees.
    return _name(owner.parent) if owner.name.startswith(".") else valid_utf8(owner.name.removesuffix(".git"))


def _branch(git_dir: Path) -> str | None:
    head = git_dir / "HEAD"
    text = valid_utf8(os.fsdecode(files.read(head)).strip()) if head.exists() else ""
    branch = text.removeprefix("ref: refs/heads/")
    # Git writes the branch .invalid if it keeps its references elsewhere.
    return None if branch in (text, ".invalid") else branch


def _name(directory: Path) -> str:
    return valid_utf8(directory.name) or "/"
