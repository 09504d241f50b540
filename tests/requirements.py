"""Marks that skip tests on machines without the programs they need, and parameters for the shells."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from terminal import SHELLS

from claude_sessions_cli import process


def needs(program: str) -> pytest.MarkDecorator:
    """Skip if a program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def each(*names: str) -> pytest.MarkDecorator:
    """Parametrize with shells."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in names])


def cross(argument: str, values: Collection[Any], usual: Collection[tuple[str, Any]]) -> pytest.MarkDecorator:
    """Parametrize with every shell and every value; only the usual pairs run by default."""
    pairs = [(name, value) for name in SHELLS for value in values]
    assert set(usual) <= set(pairs)
    cases = [
        pytest.param(*pair, marks=[needs(pair[0]), *([] if pair in usual else [pytest.mark.faults])]) for pair in pairs
    ]
    return pytest.mark.parametrize(("name", argument), cases)


def long_but_every(step: int, cases: Sequence[Any]) -> list[Any]:
    """Return cases for a parametrization, of which one in `step` runs by default, and all with the long tests."""
    return [
        case
        if number % step == 0
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.faults)
        for number, case in enumerate(cases)
    ]


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
each_shell = each(*SHELLS)
# If the shell matters little: bash by default, the others with the long tests.
each_shell_at_length = pytest.mark.parametrize(
    "name", ["bash", *(pytest.param(name, marks=[needs(name), pytest.mark.faults]) for name in ("zsh", "fish"))]
)
each_posix_shell = each("bash", "zsh")
only_bash, only_zsh, only_fish = each("bash"), each("zsh"), each("fish")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


def use_missing_ps(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Read processes by a `ps` that is not installed."""
    monkeypatch.setattr("claude_sessions_cli.process.source", lambda: process.Source.PS)
    monkeypatch.setattr("claude_sessions_cli.process.PS", str(directory / "missing"))


def _sudo_asks_nothing() -> bool:
    return bool(shutil.which("sudo")) and not subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode


needs_sudo = pytest.mark.skipif(not _sudo_asks_nothing(), reason="sudo is not installed, or asks for a password")
