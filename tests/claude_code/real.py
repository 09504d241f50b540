"""A real Claude Code client against a scripted model, without a terminal and in windows of a tmux server of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from poll import until
from run_bench import PROGRAM
from terminal import end_all

HERE = Path(__file__).parent
# `make test-claude` installs it there.
CLIENT = Path(sys.prefix) / "claude-code" / "node_modules" / ".bin" / "claude"
KEY = "dummy-not-a-key"
ATTEMPTS = 10
EVENTS = (
    "SessionStart",
    "SessionEnd",
    "Stop",
    "PostToolUse",
    "PreToolUse",
    "SubagentStop",
    "PostCompact",
    "Notification",
)


class Place:
    """A home in which the client asks nothing, a directory to work in, and a model."""

    def __init__(self, directory: Path, dsn: str, **variables: str) -> None:
        self.directory = directory
        self.home, self.work = directory / "home", directory / "work"
        for made in (self.home / ".claude", self.work, directory / "tmp", directory / "bin"):
            made.mkdir(parents=True)
        projects = {str(self.work): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}}
        state = {
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
            "projects": projects,
        }
        (self.home / ".claude.json").write_text(json.dumps(state))
        record = shlex.join([sys.executable, "-I", str(HERE / "record_hook.py"), "--out", str(self.records_path)])
        self.settings = self.home / ".claude" / "settings.json"
        hooks = {event: [{"hooks": [{"type": "command", "command": record}]}] for event in EVENTS}
        permissions = {"allow": ["Bash", "Agent", "Read"], "defaultMode": "default"}
        self.settings.write_text(json.dumps({"hooks": hooks, "permissions": permissions}))
        program = directory / "bin" / "claude-sessions"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
        program.chmod(0o755)
        self.requests_path.touch()
        port = directory / "port"
        argv = [
            sys.executable,
            "-I",
            str(HERE / "mock_api.py"),
            "--log",
            str(self.requests_path),
            "--port-file",
            str(port),
        ]
        self.model = subprocess.Popen(argv)
        self.env = {
            "PATH": f"{directory}/bin:{CLIENT.parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(directory / "tmp"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{until(lambda: port.exists() and port.read_text(), 'the model')}",
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_SESSIONS_DSN": dsn,
            **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
            **variables,
        }
        self.tmux = f"cs-test-{os.getpid()}-{directory.name}"

    @property
    def records_path(self) -> Path:
        return self.directory / "hooks.jsonl"

    @property
    def requests_path(self) -> Path:
        return self.directory / "requests.jsonl"

    def install(self, *options: str) -> None:
        """Install our hooks, as a user does."""
        done = self.run("claude-sessions", "install", "claude", *options)
        assert done.returncode == 0, done.stderr

    def run(self, *argv: str, timeout: float = 200, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program without a terminal, as the user."""
        return subprocess.run(
            argv,
            env=self.env,
            cwd=self.work,
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,
        )

    def ask(self, prompt: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the client without a terminal."""
        done = self.run("claude", "-p", prompt, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return what the client wrote to a foreign hook."""
        lines = self.records_path.read_text().splitlines() if self.records_path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in found if event in (None, record["event"])]

    def log(self) -> str:
        """Return when which event came, and what our hooks logged."""
        lines = [f"{record['at']:.3f} {record['stdin']['session_id']} {record['event']}" for record in self.records()]
        logged = self.home / ".local/state/claude-sessions/hook.log"
        return "\n".join([*lines, logged.read_text() if logged.exists() else "nothing in hook.log"])

    def told(self) -> str:
        """Return everything that the model was told last, as text."""
        found = ""
        for line in self.requests_path.read_text().splitlines():
            with suppress(ValueError):
                body = json.loads(line)["body"]
                if body.get("messages") and body.get("tools"):
                    found = json.dumps(body["messages"], ensure_ascii=False)
        return found

    def told_in_all(self) -> str:
        """Return the text of every request."""
        return self.requests_path.read_text()

    @contextmanager
    def window(self, *options: str, before: Sequence[str] = ()) -> Iterator[Window]:
        """Open a window with the client."""
        made = Window(self, [*before, "claude", *options])
        try:
            yield made
        finally:
            made.close()

    def close(self) -> None:
        """End everything that runs here: the clients, their hooks and the model."""
        subprocess.run(["tmux", "-L", self.tmux, "kill-server"], capture_output=True)
        self.model.kill()
        self.model.wait()
        end_all(self.home)


class Window:
    """A window of tmux with a client."""

    count = 0

    def __init__(self, place: Place, argv: Sequence[str]) -> None:
        self.place = place
        Window.count += 1
        self.name = f"w{Window.count}"
        script = place.directory / f"{self.name}.sh"
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in place.env.items())
        script.write_text(f"cd {shlex.quote(str(place.work))} && exec env -i {variables} {shlex.join(argv)}\n")
        starts = len(place.records("SessionStart"))
        self._tmux("new-session", "-d", "-s", self.name, "-x", "160", "-y", "45", f"exec bash {script}")
        self.pid = int(self._tmux("list-panes", "-t", self.name, "-F", "#{pane_pid}"))
        until(lambda: len(place.records("SessionStart")) > starts, f"the start of a client: {self.screen}")
        until(lambda: "❯" in self.screen, "its prompt")
        # It asks about its modes in a home that it has seen before.
        while "auto mode" in self.screen and "default permission mode?" in self.screen:
            self.key("Escape")
            time.sleep(0.5)

    def _tmux(self, *argv: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.place.tmux, "-f", "/dev/null", *argv], capture_output=True, text=True, timeout=20
        )
        return done.stdout.strip()

    @property
    def screen(self) -> str:
        """What the window shows."""
        return self._tmux("capture-pane", "-p", "-t", self.name)

    @property
    def title(self) -> str:
        """The title of the terminal."""
        return self._tmux("display-message", "-p", "-t", self.name, "#{pane_title}")

    def key(self, *names: str) -> None:
        """Press keys."""
        self._tmux("send-keys", "-t", self.name, *names)

    def type(self, text: str) -> None:
        """Type a line. A client that has just started loses it, and takes an Enter at once for a part of a paste."""
        for _ in range(ATTEMPTS):
            self._tmux("send-keys", "-t", self.name, "-l", text)
            # Typed twice, the text would be another one: a busy machine shows it late.
            with suppress(AssertionError):
                until(lambda: text[:20] in self.screen.rpartition("❯")[2], "the text", 5)
                break
        time.sleep(0.7)
        self.key("Enter")

    def ask(self, prompt: str, event: str = "Stop") -> None:
        """Type a prompt and wait for the end of the turn."""
        self.after(lambda: self.type(prompt), event)

    def after(self, act: Callable[[], None], event: str) -> dict[str, Any]:
        """Act, wait for an event that follows, and return it."""
        before = len(self.place.records(event))
        act()
        until(lambda: len(self.place.records(event)) > before, f"{event} after that: {self.screen}")
        return self.place.records(event)[-1]

    @property
    def session(self) -> str:
        """The id of its conversation."""
        own = [record for record in self.place.records() if record["env"].get("CLAUDE_PID") == str(self.pid)]
        return str(own[-1]["stdin"]["session_id"])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the client."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Close the window."""
        self._tmux("kill-session", "-t", self.name)

    def has_ended(self) -> bool:
        """Whether the client has ended."""
        return not re.search(rf"^{self.pid}$", self._tmux("list-panes", "-a", "-F", "#{pane_pid}"), re.MULTILINE)
