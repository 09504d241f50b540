"""hook.sh in every shell that may be /bin/sh, with a program that records its calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from poll import until
from requirements import needs, needs_proc, only_root

from claude_sessions_cli.claude_code import stamp
from claude_sessions_cli.claude_code.entries import hook_command
from claude_sessions_cli.claude_code.stamp import Stamp

pytestmark = needs_proc
SHELLS = ("dash", "bash", "busybox", "ksh", "mksh", "yash", "zsh")
each_shell = pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in SHELLS])


class Hook:
    """Runs hook.sh for an agent that is this process."""

    def __init__(self, directory: Path, shell: str, *options: str) -> None:
        self.calls, self.program = directory / "calls", directory / "program"
        self.program.write_text(f'#!/bin/sh\nread -r line\necho "$* $line" >>{self.calls}\n')
        self.program.chmod(0o755)
        self.argv = ["busybox", "sh", *options, "-c"] if shell == "busybox" else [shell, *options, "-c"]
        self.env = {
            **os.environ,
            "CLAUDE_SESSIONS_STATE_DIR": str(directory / "state"),
            "CLAUDE_PID": str(os.getpid()),
            "CLAUDE_CODE_SESSION_ID": "conversation",
        }
        self.stamp = stamp.path_of(self.env, os.getpid())
        self.stamp.parent.mkdir(parents=True)

    def run(self, event: str) -> None:
        """Run the hook of an event, which must be silent."""
        command = hook_command(event, [str(self.program)])
        done = subprocess.run([*self.argv, command], input=b"input\n", env=self.env, capture_output=True, timeout=10)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def called(self, line: str) -> None:
        """Wait for a call of the program."""
        until(lambda: self.calls.exists() and line in self.calls.read_text(), line)
        self.calls.unlink()

    def keep(self, text: str) -> None:
        """Write the stamp, and allow the next hook to run."""
        self.stamp.write_text(text)
        stamp.beside(self.stamp, "lock").unlink(missing_ok=True)


@each_shell
@pytest.mark.parametrize("options", [(), ("-e", "-u")], ids=["plain", "strict"])
def test_hook_decides_by_the_stamp(tmp_path: Path, shell: str, options: tuple[str, ...]) -> None:
    hook = Hook(tmp_path, shell, *options)
    hook.run("Stop")
    hook.called("hook Stop --background input\n")
    hook.run("Stop")
    now = stamp.now()
    hook.keep(Stamp(now, now + 600).text)
    for event in ("Stop", "PreToolUse", "UserPromptSubmit", "PostToolUse", "CwdChanged"):
        hook.run(event)
    hook.run("SessionStart")
    hook.called("hook SessionStart input\n")
    hook.run("SessionEnd")
    hook.called("hook SessionEnd --background input\n")
    hook.keep(Stamp(now, now + 600, "lost").text)
    hook.run("PreToolUse")
    hook.called("hook PreToolUse input\n")
    stamp.beside(hook.stamp, "loss").touch()
    hook.run("UserPromptSubmit")
    hook.called("hook UserPromptSubmit input\n")
    hook.run("Stop")
    assert not hook.calls.exists()


@pytest.mark.parametrize("text", ["", "\n", "x y z\n", "1\n", "1 2\n", "9999999999 9999999999 ok -\n", "\0\0\n"])
def test_malformed_stamp_means_that_a_heartbeat_is_due(tmp_path: Path, text: str) -> None:
    hook = Hook(tmp_path, "sh")
    hook.keep(text)
    hook.run("Stop")
    hook.called("hook Stop --background input\n")


@each_shell
@only_root
def test_stamp_of_another_account_says_nothing(tmp_path: Path, shell: str) -> None:
    hook = Hook(tmp_path, shell)
    now = stamp.now()
    hook.keep(Stamp(now, now + 600, "lost").text)
    os.chown(hook.stamp, 65534, 65534)
    hook.run("Stop")
    hook.called("hook Stop --background input\n")
    hook.run("PreToolUse")
    assert not hook.calls.exists()


@pytest.mark.parametrize(("text", "runs"), [("NOW\n", False), ("1\n", True), ("", True), ("x\n", True)])
def test_lock_that_was_left_behind_is_taken(tmp_path: Path, text: str, runs: bool) -> None:
    hook = Hook(tmp_path, "sh")
    stamp.beside(hook.stamp, "lock").write_text(text.replace("NOW", str(stamp.now())))
    hook.run("Stop")
    if runs:
        hook.called("hook Stop --background input\n")
    else:
        assert not hook.calls.exists()


def test_lock_in_use_is_not_swept(tmp_path: Path) -> None:
    path = tmp_path / "agents" / "1.a"
    with stamp.run_lock(path):
        pass
    lock = stamp.beside(path, "run")
    os.utime(lock, (0, 0))
    with stamp.run_lock(path) as locked:
        stamp.sweep(path)
        assert locked and lock.exists()
    os.utime(lock, (0, 0))
    stamp.sweep(path)
    assert not lock.exists()


def test_odd_variables_do_not_leave_the_directory(tmp_path: Path) -> None:
    hook = Hook(tmp_path, "sh")
    hook.env["CLAUDE_CODE_SESSION_ID"] = "../../x"
    hook.run("Stop")
    hook.called("hook Stop --background input\n")
    assert [path.name for path in hook.stamp.parent.iterdir()] == [f"{os.getpid()}.-.lock"]
    hook.env["CLAUDE_PID"] = "$(id)"
    hook.run("Stop")
    assert not hook.calls.exists()
