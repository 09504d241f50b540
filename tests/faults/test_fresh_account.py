"""A fresh account installs the program, uses it, and uninstalls it: nothing is left."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import CHECKOUT
from poll import until
from terminal import SHELLS, Terminal

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes accounts"),
    pytest.mark.skipif(not all(map(shutil.which, ("useradd", "runuser", "crontab"))), reason="needs Debian's programs"),
]
NAME = f"cs-fresh-{os.getpid()}"
INSTALLERS = {"pipx": ("pipx", "install"), "uv": ("uv", "tool", "install")}
# What an installer keeps for itself: its caches and environments.
THEIRS = (".cache", ".local/share/pipx", ".local/state/pipx", ".local/share/uv", ".local/share/man")
# Of a registry and its certificates.
KEPT = ("PIP_", "UV_", "SSL_", "http_", "https_", "HTTP_", "HTTPS_")
CRONTAB = "# mine\n5 4 * * * true\n"
SHELL_LINES = {
    ".bashrc": 'eval "$(claude-sessions shell-init bash)"\n',
    ".zshrc": 'eval "$(claude-sessions shell-init zsh)"\n',
    ".config/fish/config.fish": "claude-sessions shell-init fish | source\n",
}


@dataclass
class Account:
    """An account that no program has used yet."""

    home: Path
    variables: dict[str, str]

    def words(self, *words: str) -> list[str]:
        """Return the words that run a command as this account."""
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        return ["runuser", "-u", NAME, "--", "env", "-i", "-C", str(self.home), *variables, *words]

    def run(self, *words: str, text: str = "") -> str:
        """Run a command that must succeed, and return what it prints."""
        done = subprocess.run(self.words(*words), input=text, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> dict[str, bytes | str]:
        """Return what is in the home but for an installer's own, with the text of files and the targets of links."""
        found: dict[str, bytes | str] = {}
        for path in sorted(self.home.rglob("*")):
            name = str(path.relative_to(self.home))
            # bash keeps what was typed.
            if not name.startswith(THEIRS) and name != ".bash_history":
                found[name] = str(path.readlink()) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        return found


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    """Return a wheel that every account can read."""
    place = Path(tempfile.mkdtemp(prefix="cs-wheel-", dir="/tmp"))
    place.chmod(0o755)
    # Nothing is fetched: the build backend is installed already.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", place, CHECKOUT], check=True, timeout=120)
    yield next(place.glob("*.whl"))
    shutil.rmtree(place)


@pytest.fixture
def account() -> Iterator[Account]:
    """Return a fresh account with a crontab of its own."""
    make = ["useradd", "--create-home", "--shell", "/bin/bash", NAME]
    # One at a time.
    until(lambda: subprocess.run(make, capture_output=True).returncode == 0, "a new account")
    home = Path(pwd.getpwnam(NAME).pw_dir)
    path = f"{home}/.local/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"HOME": str(home), "USER": NAME, "LOGNAME": NAME, "SHELL": "/bin/bash", "TERM": "dumb", "PATH": path}
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    # uv trusts no certificate of the system unless it is told to.
    made = Account(home, {"UV_NATIVE_TLS": "1", **kept, **own})
    made.run("crontab", "-", text=CRONTAB)
    yield made
    subprocess.run(["crontab", "-r", "-u", NAME], capture_output=True)
    for pid in _processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not _processes(), "the last process of the account")
    # Left by a test that failed, it would be in the way of the next account with this uid.
    for left in _short_directories():
        shutil.rmtree(left)
    remove = ["userdel", "--remove", NAME]
    until(lambda: subprocess.run(remove, capture_output=True).returncode == 0, "the end of the account")


def _short_directories() -> list[Path]:
    """Return the directories of the account's private server whose own path is too long for a socket."""
    return [*Path("/tmp").glob(f"claude-sessions-{pwd.getpwnam(NAME).pw_uid}-*")]


def _processes() -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "-u", NAME], capture_output=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


@pytest.mark.parametrize("installer", INSTALLERS)
def test_uninstall_leaves_nothing_in_a_fresh_account(installer: str, account: Account, wheel: Path) -> None:
    if subprocess.run(account.words(installer, "--version"), capture_output=True).returncode:
        pytest.skip(f"other accounts cannot run {installer}")
    if installer == "uv":
        # Too long for the path of a socket, which gets a shorter one below /tmp.
        account.variables["CLAUDE_SESSIONS_DATA_DIR"] = str(account.home / ("data" * 30))
    account.run(*INSTALLERS[installer], "--python", "/usr/bin/python3", f"{wheel}[embedded]")
    before = account.files()
    for shell in SHELLS:
        account.run("claude-sessions", "--install-completion", shell)
    for name, line in SHELL_LINES.items():
        account.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat >>"$0"', name, text=line)
    for words in (
        *(("install", name) for name in ("claude", "cron", "systemd")),
        ("config", "set", "stale_after", "20m"),
        ("claim", "SD-1", "--session", "by-hand"),
        ("upkeep",),
    ):
        account.run("claude-sessions", *words)
    started = {"session_id": "conversation", "hook_event_name": "SessionStart", "source": "startup"}
    # The first start of a fresh installation takes long, and a hook gives up after 2 s.
    hook = ("claude-sessions", "hook", "SessionStart")
    assert "SD-1" in until(lambda: account.run(*hook, text=json.dumps(started)), "the answer of the hook")
    assert account.run("crontab", "-l") != CRONTAB
    answers = account.home / "answers"
    account.run("mkdir", answers.name)
    window = Terminal(answers, account.words("bash", "-i"))
    try:
        assert window.run('[ -n "$CLAUDE_SESSIONS_SHELL" ] && claude-sessions claim SD-2').code == 0
        assert "removed data" in window.run("claude-sessions uninstall --data").out
        # The hook of the shell, which goes on.
        window.run("true")
    finally:
        window.close()
    shutil.rmtree(answers)
    until(lambda: not _processes(), "the last process of the account")
    assert account.files() == before
    assert account.run("crontab", "-l") == CRONTAB
    assert not _short_directories()
