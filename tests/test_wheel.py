"""An installed wheel carries its SQL, scripts and plugin; a checkout reads the SQL beside the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from claude_sessions_cli import queries

CHECKOUT = Path(__file__).parents[1]


def test_checkout_reads_sql_beside_the_package() -> None:
    assert queries.directory() == CHECKOUT / "sql"


@pytest.mark.faults
def test_wheel_carries_sql_scripts_and_the_plugin(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # Nothing is fetched: the build backend is installed already.
    pip += ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path), str(CHECKOUT)], check=True, timeout=120)
    installed = tmp_path / "claude_sessions_cli" / "sql"
    assert _files(installed) == _files(CHECKOUT / "sql")
    scripts = {name for name in _files(CHECKOUT / "claude_sessions_cli") if not re.search(r"\.pyc?$", name)}
    assert {"claude_code/hook.sh", "claude_code/plugin/.claude-plugin/plugin.json"} <= scripts
    assert scripts <= _files(tmp_path / "claude_sessions_cli")
    # First on the path: the installed package, not the checkout that this environment may have.
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from claude_sessions_cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "schema", "print"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CREATE TABLE IF NOT EXISTS public.claude_sessions" in done.stdout


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
