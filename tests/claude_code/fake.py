"""A process named `claude` that starts the installed hooks as the client does, and runs commands as its tools do."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from conftest import Table
from poll import until
from run_bench import PROGRAM
from terminal import environment

from claude_sessions_cli import cli, invocation, process
from claude_sessions_cli.claude_code import settings_file, stamp
from claude_sessions_cli.claude_code.entries import EVENTS, LATER_EVENTS, Choice
from claude_sessions_cli.commands import hook

# One JSON object in, one out. A hook is a child of /bin/sh -c in a session of its own; those of an event run at once,
# and the client waits for all but the async ones. The input is written by a thread: a hook may never read it.
CLIENT = r"""
import json, os, re, subprocess, sys, threading, time

def feed(child, data):
    try:
        child.stdin.write(data)
        child.stdin.close()
    except OSError:
        pass

def start(hook, data, env):
    child = subprocess.Popen(
        ["/bin/sh", "-c", hook["command"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, start_new_session=True,
    )
    feeding = threading.Thread(target=feed, args=(child, data), daemon=True)
    feeding.start()
    return child, feeding

def run(call):
    # `run` around the client has added some.
    added = {name: value for name, value in os.environ.items() if name.startswith("CLAUDE_SESSIONS_")}
    env = {**call["env"], **added, "CLAUDE_PID": str(os.getpid())}
    if "bash" in call:
        done = subprocess.run(
            ["bash", "-c", call["bash"]], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            start_new_session=True,
        )
        return [done.returncode, done.stdout, done.stderr]
    data, answers, began = call["input"].encode("utf-8", "surrogateescape"), [], time.monotonic()
    children = [start(hook, data, env) for hook in call["hooks"] for _ in range(call["times"])]
    for hook, (child, feeding) in zip([hook for hook in call["hooks"] for _ in range(call["times"])], children):
        if not hook.get("async"):
            out, err = child.stdout.read().decode(), child.stderr.read().decode()
            answers.append([child.wait(), out, err, time.monotonic() - began])
        # A test may end the client at once: what a program in the background reads must be written by then.
        feeding.join(10)
    return answers

for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
"""
ALL = (*EVENTS, *LATER_EVENTS)
GIVEN_UP = "no answer within"


@dataclass(frozen=True)
class Answered:
    """What a hook printed, and how long the client waited."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def output(self) -> dict[str, Any]:
        """The object that the client acts on; empty if there is none."""
        found = json.loads(self.out)["hookSpecificOutput"] if self.out else {}
        assert isinstance(found, dict)
        return found

    @property
    def context(self) -> str:
        """The text for the model."""
        return str(self.output.get("additionalContext", ""))


class Client:
    """A client that runs; its conversation changes as the client's does.

    If it `is_patient`, an event whose hook gave up on a busy machine comes again.
    """

    is_patient = True
    # Hooks of a plugin, beside those of the settings.
    plugin: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, directory: Path, dsn: str, session: str | None = None, prefix: Sequence[str] = (), **variables: str
    ) -> None:
        self.directory = directory
        self.session = session or str(uuid.uuid4())
        self.env = environment(directory, {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDECODE": "1", **variables})
        # Commands of the tools name the program as an agent would.
        bin_directory = directory / "bin"
        bin_directory.mkdir(exist_ok=True)
        program = bin_directory / "claude-sessions"
        if not program.exists():
            program.write_text(f'#!/bin/sh\nexec "{PROGRAM[0]}" {" ".join(PROGRAM[1:])} "$@"\n')
            program.chmod(0o755)
        self.env["PATH"] = f"{bin_directory}:{self.env['PATH']}"
        named = [*prefix, "bash", "-c", 'exec -a claude "$0" -c "$1"', sys.executable, CLIENT]
        self.process = subprocess.Popen(
            named,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=directory,
            start_new_session=True,
        )
        self.pid = self.process.pid

    # -- what the client does -----------------------------------------------------------------------------------------

    def hook(
        self, event: str, *, raw: str | None = None, times: int = 1, env: Mapping[str, str] | None = None, **fields: Any
    ) -> Answered:
        """Run the hooks of an event, and return the answer of the first; `raw` replaces its input."""
        return self.hooks(event, raw=raw, times=times, env=env, **fields)[0]

    def hooks(
        self, event: str, *, raw: str | None = None, times: int = 1, env: Mapping[str, str] | None = None, **fields: Any
    ) -> list[Answered]:
        """Run the hooks of an event `times` times at once, and return all answers."""
        settings = json.loads((self.directory / ".claude/settings.json").read_text())
        groups = [*settings["hooks"].get(event, []), *self.plugin.get(event, [])]
        found = [hook for group in groups for hook in group["hooks"]]
        given = {"session_id": self.session, "cwd": str(self.directory), "hook_event_name": event, **fields}
        call = {
            "hooks": found,
            "times": times,
            "input": json.dumps(given, separators=(",", ":")) if raw is None else raw,
            "env": {**self.env, "CLAUDE_CODE_SESSION_ID": self.session, **(env or {})},
        }
        given_up = self.log.count(GIVEN_UP)
        answers = [Answered(*answer) for answer in self._call(call)]
        if self.is_patient and self.log.count(GIVEN_UP) > given_up:
            return self.hooks(event, raw=raw, times=times, env=env, **fields)
        for answer in answers:
            assert (answer.code, answer.err) == (0, ""), answer
        return answers or [Answered(0, "", "", 0.0)]

    def status_line(self, text: str = "{}") -> str:
        """Run the status line and return its text."""
        line = json.loads((self.directory / ".claude/settings.json").read_text())["statusLine"]
        env = {**self.env, "CLAUDE_CODE_SESSION_ID": self.session}
        [answer] = self._call({"hooks": [line], "times": 1, "input": text, "env": env})
        assert (answer[0], answer[2]) == (0, "")
        return str(answer[1])

    def bash(self, command: str, **env: str) -> tuple[int, str, str]:
        """Run a command of the Bash tool."""
        variables = {**self.env, "CLAUDE_CODE_SESSION_ID": self.session, **env}
        code, out, err = self._call({"bash": command, "env": variables})
        return code, out, err

    def start(self, source: str = "startup") -> Answered:
        """Begin the conversation."""
        return self.hook("SessionStart", source=source)

    def change(self, reason: str, session: str | None = None) -> Answered:
        """Go on in another conversation, as `/clear` and `/resume` do."""
        self.hook("SessionEnd", reason=reason)
        self.session = session or str(uuid.uuid4())
        return self.start(reason)

    def exit(self, reason: str = "prompt_input_exit") -> None:
        """End as `/exit` does: the last hook may outlive the client."""
        self.hook("SessionEnd", reason=reason)
        self.end()

    def end(self) -> None:
        """End at once, as SIGKILL does."""
        self.process.kill()
        self.process.communicate()

    def _call(self, call: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    # -- what it left -------------------------------------------------------------------------------------------------

    @property
    def stamp_path(self) -> Path:
        """The stamp of its conversation."""
        return self.directory / ".local/state/claude-sessions/agents" / f"{self.pid}.{self.session}"

    @property
    def stamp(self) -> stamp.Stamp:
        """The content of its stamp."""
        return stamp.read(self.stamp_path)

    @property
    def log(self) -> str:
        """The log of the hooks."""
        path = self.directory / ".local/state/claude-sessions/hook.log"
        return path.read_text() if path.exists() else ""

    def make_due(self) -> None:
        """Let the next heartbeat be due."""
        known = self.stamp
        known.at = known.due = 0
        stamp.write(self.stamp_path, known)

    def beat(self, event: str = "PostToolUse", **fields: Any) -> Answered:
        """Run a hook when a heartbeat is due, and wait for that."""
        self.make_due()
        answer = self.hook(event, **fields)
        until(lambda: self.stamp.at, "a heartbeat in the background")
        return answer


class Inside(Client):
    """A client whose hooks decide in sh, and whose programs then run inside this process, ten times as fast."""

    STUB = """#!/bin/sh
cat >"{0}/$$.in"
for word; do printf '%s\\n' "$word"; done >"{0}/$$.words"
mv "{0}/$$.words" "{0}/$$.call"
"""

    def __init__(
        self,
        directory: Path,
        dsn: str,
        session: str | None = None,
        *,
        patch: pytest.MonkeyPatch,
        output: pytest.CaptureFixture[str],
        **variables: str,
    ) -> None:
        self.directory, self.patch, self.output = directory, patch, output
        self.session = session or str(uuid.uuid4())
        self.env = environment(directory, {"CLAUDE_SESSIONS_DSN": dsn, "CLAUDECODE": "1", **variables})
        self.spool = directory / "calls"
        self.spool.mkdir(exist_ok=True)
        stub = directory / "stub"
        if not stub.exists():
            stub.write_text(self.STUB.format(self.spool))
            stub.chmod(0o755)
            install(directory, guard=True, words=[str(stub)])
        self.sleeper = subprocess.Popen(["bash", "-c", "exec -a claude sleep 600"], start_new_session=True)
        self.pid = self.sleeper.pid
        until(lambda: process.read(self.pid).is_claude, "a process named claude")

    def end(self) -> None:
        """End at once."""
        self.sleeper.kill()
        self.sleeper.wait()

    def _call(self, call: dict[str, Any]) -> Any:
        env = {**call["env"], "CLAUDE_PID": str(self.pid)}
        if "bash" in call:
            return self._run(shlex.split(call["bash"])[1:], env, b"")
        data, answers = call["input"].encode("utf-8", "surrogateescape"), []
        began = time.monotonic()
        printed = self._shells(call, env, data)
        for out in printed:
            answers.append([0, out, "", 0.0])
        for made in sorted(self.spool.glob("*.call"), key=lambda path: path.stat().st_mtime_ns):
            argv = made.read_text().splitlines()
            code, out, err = self._run(argv, env, made.with_suffix(".in").read_bytes())
            made.unlink()
            if "--background" in argv:
                assert (code, out, err) == (0, "", "")
            else:
                answers[-1 if len(answers) == 1 else next(n for n, answer in enumerate(answers) if not answer[1])] = [
                    *(code, out, err),
                    time.monotonic() - began,
                ]
        return answers

    def _shells(self, call: dict[str, Any], env: dict[str, str], data: bytes) -> list[str]:
        """Run the hooks until they and what they have started have ended, and return what they printed."""
        reader, writer = os.pipe()
        children = []
        for entry in call["hooks"] * call["times"]:
            stdin = (self.directory / "stdin").open("w+b")
            stdin.write(data)
            stdin.seek(0)
            child = subprocess.Popen(
                ["/bin/sh", "-c", entry["command"]],
                env=env,
                stdin=stdin,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                pass_fds=[writer],
            )
            stdin.close()
            children.append(child)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        printed = [child.communicate()[0] for child in children]
        assert all(child.returncode == 0 for child in children)
        return printed

    def _run(self, argv: list[str], env: dict[str, str], data: bytes) -> list[Any]:
        """Run a command line inside this process, below the client."""
        lineage = process.lineage
        itself = lineage(os.getpid())[0]._replace(tty=None)
        with self.patch.context() as patch:
            for name in [*os.environ]:
                patch.delenv(name)
            for name, value in env.items():
                patch.setenv(name, value)
            patch.setattr(
                process, "lineage", lambda pid: [itself, *lineage(self.pid)] if pid == os.getpid() else lineage(pid)
            )
            patch.setattr(hook, "_detach", lambda: None)
            # Its deadline would end this process.
            patch.setattr(invocation, "give_up_after", lambda *_: threading.Timer(0, print))
            patch.chdir(self.directory)
            self.output.readouterr()
            kept = os.dup(0)
            with (self.directory / "stdin").open("w+b") as stdin:
                stdin.write(data)
                stdin.seek(0)
                os.dup2(stdin.fileno(), 0)
            try:
                code = cli.run(argv)
            finally:
                os.dup2(kept, 0)
                os.close(kept)
        captured = self.output.readouterr()
        return [code, captured.out, captured.err]


def install(directory: Path, *, guard: bool = False, status_line: bool = True, words: Sequence[str] = PROGRAM) -> Path:
    """Install the hooks of every event, and return the settings file."""
    path = directory / ".claude" / "settings.json"
    settings_file.install(path, Choice(words, ALL, guard, status_line))
    return path


def holder(table: Table, item: str = "SD-1") -> str | None:
    """Return the session that holds an item."""
    rows = table.execute("SELECT session_id FROM public.claude_sessions WHERE sd_id = %s", item)
    return str(rows[0]["session_id"]) if rows else None


def status(table: Table, session: str) -> str | None:
    """Return the status of a session; None if it is not registered."""
    rows = table.execute("SELECT status FROM public.claude_sessions WHERE session_id = %s", session)
    return str(rows[0]["status"]) if rows else None
