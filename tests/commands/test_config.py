"""Wrong values in environment variables and in the config file."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Cli

from commands.answers import Env, Inside, Refused, failed


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"CLAUDE_SESSIONS_SESSION_ID": "a\nb"}, r"CLAUDE_SESSIONS_SESSION_ID is not a session id: 'a\\nb'"),
        ({"CLAUDE_SESSIONS_SESSION_ID": "\udcff"}, "not a session id"),
        ({"CLAUDE_SESSIONS_SESSION_ID": None, "CLAUDE_CODE_SESSION_ID": "a/b"}, "CLAUDE_CODE_SESSION_ID is not"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "soon"}, "CLAUDE_SESSIONS_STALE_AFTER: not a duration: 'soon'"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "8d"}, "stale_after is at most 7d"),
        ({"CLAUDE_SESSIONS_STALE_AFTER": "179"}, r"stale_after \(179s\) is shorter than three heartbeats \(60s each\)"),
        ({"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "-1"}, "CLAUDE_SESSIONS_HEARTBEAT_EVERY: not a duration"),
        ({"CLAUDE_SESSIONS_HEARTBEAT_EVERY": "6m"}, "shorter than three heartbeats"),
        ({"CLAUDE_SESSIONS_DSN": "nonsense"}, "the DSN from CLAUDE_SESSIONS_DSN cannot be read"),
        ({"CLAUDE_SESSIONS_DSN": "host=\udcff"}, "the DSN from CLAUDE_SESSIONS_DSN cannot be read"),
        ({"CLAUDE_SESSIONS_CONFIG": "/dev/null/config"}, "CLAUDE_SESSIONS_CONFIG names a file that does not exist"),
        ({"CLAUDE_SESSIONS_CONFIG": "/"}, "cannot read /: Is a directory"),
    ],
    ids=lambda value: ascii(str(value))[1:60] if isinstance(value, dict) else "",
)
def test_wrong_environment_is_refused(refused: Refused, env: Env, message: str) -> None:
    refused("claim", "SD-1", code=2, message=message, env=env)


def _forget(account: object) -> NoReturn:
    raise KeyError(account)


@pytest.mark.parametrize(
    "argv",
    [
        *(["list"], ["claim", "SD-1", "--session", "a"], ["status"], ["doctor"], ["upkeep"], ["db", "status"]),
        *(["config", "path"], ["uninstall"], ["install", "claude"], ["install", "systemd", "--remove"]),
        ["--install-completion", "bash"],
    ],
    ids=" ".join,
)
def test_missing_home_is_refused(monkeypatch: pytest.MonkeyPatch, inside: Inside, argv: list[str]) -> None:
    monkeypatch.setattr(pwd, "getpwuid", _forget)
    done = inside(*argv, env={"HOME": None, "CLAUDE_SESSIONS_DATA_DIR": None})
    reported = done.stdout if argv[0] == "doctor" else done.stderr
    if os.geteuid() or argv[0] != "db":  # root's server has a place of its own
        assert done.returncode == 2
        message = f"no home directory: HOME is not set, and this machine has no account of uid {os.geteuid()}"
        assert message in reported and "set HOME; or CLAUDE_SESSIONS_CONFIG, " in reported


def test_timer_of_a_bare_number_is_refused(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setattr(pwd, "getpwuid", _forget)
    kind = "systemd" if sys.platform == "linux" else "launchd"
    for argv in (["install", "cron"], ["install", kind, "--dry-run"]):
        refused(*argv, code=2, message=f"nothing runs timers of uid {os.geteuid()}: .* no account of that number")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dsn = [", "config.toml is not TOML"),
        (b"stale_after = " + b"1" * 5000, "is not TOML|not a duration"),
        (b"dsn = " + b"[" * 5000, "is not TOML"),
        (b"dsn = '\xff'", "it is not UTF-8"),
        (b"dns = 'x'\nretries = 3", "unknown keys: dns, retries .did you mean dsn"),
        (b"[database]\ndsn = 'x'", "unknown keys: database"),
        (b'"k\\u001b[31m" = 1', "unknown keys: k"),
        (b"dsn = 5", "dsn in .* is not a text"),
        (b"dsn = ''", "dsn in .* is not a text"),
        (b"dsn = 'nonsense'", "the DSN from dsn in .*config.toml cannot be read"),
        (b'dsn = "host=a\\u0000b"', "the DSN from dsn in .*config.toml cannot be read"),
        (b"dsn = 'env:'", "reads the variable"),
        (b"dsn = 'env:DATABASE_URL'", "reads the variable DATABASE_URL, which is not set"),
        (b"stale_after = true", "stale_after in .* is not a duration"),
        (b"stale_after = nan", "stale_after in .*: not a duration"),
        (b"heartbeat_every = 1e300", "heartbeat_every in .*: not a duration"),
        (b"stale_after = 2024-01-01", "stale_after in .* is not a duration"),
    ],
    ids=lambda value: ascii(value.decode(errors="replace"))[1:40] if isinstance(value, bytes) else "",
)
def test_wrong_config_file_is_refused(refused: Refused, tmp_path: Path, content: bytes, message: str) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content)
    env = {"CLAUDE_SESSIONS_CONFIG": str(config)}
    if b"dsn" in content and b"[database]" not in content:
        env["CLAUDE_SESSIONS_DSN"] = ""
    refused("list", code=2, message=message, env=env)


def test_missing_config_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    env = {"CLAUDE_SESSIONS_CONFIG": str(tmp_path / "missing")}
    refused("claim", "SD-1", code=2, message="CLAUDE_SESSIONS_CONFIG names a file that does not exist", env=env)


def test_unreadable_config_file_is_refused(inside: Inside, dsn: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        config.write_text("stale_after = '1h'")
        config.chmod(0)
        env = {"CLAUDE_SESSIONS_CONFIG": str(config), "CLAUDE_SESSIONS_DSN": dsn}
        root = os.geteuid() == 0
        if root:
            # Root can read every file. Another user may be unable to start this Python, but can continue in it.
            inside("list", env={**env, "CLAUDE_SESSIONS_CONFIG": None})
            Path(directory).chmod(0o755)
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            done = inside("list", env=env)
        finally:
            if root:
                os.seteuid(0)
        failed(done, 2, "cannot read .*config.toml: Permission denied")


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory below a sticky one, which every account can reach."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "directory", "writer"),
    [
        ((65534, 0), 0o600, ((0, 0), 0o755), "account nobody"),
        ((0, 0), 0o666, ((0, 0), 0o755), "every account"),
        ((0, 0), 0o602, ((0, 0), 0o755), "every account"),
        ((0, 12), 0o664, ((0, 0), 0o755), "group 12"),
        ((0, 0), 0o644, ((65534, 0), 0o755), "account nobody"),
        ((0, 0), 0o644, ((0, 0), 0o777), "every account"),
        # umask 002, a sticky directory, a package's file.
        ((0, 0), 0o664, ((0, 0), 0o775), None),
        ((0, 0), 0o644, ((0, 0), 0o1777), None),
        ((0, 0), 0o444, ((0, 0), 0o555), None),
    ],
)
def test_config_file_that_others_may_write_is_refused(
    inside: Inside,
    dsn: str,
    place: Path,
    owner: tuple[int, int],
    mode: int,
    directory: tuple[tuple[int, int], int],
    writer: str | None,
) -> None:
    config = place / "config.toml"
    config.write_text("stale_after = '1h'")
    for path, ids, bits in ((config, owner, mode), (place, *directory)):
        os.chown(path, *ids)
        path.chmod(bits)
    # Through a link, as in Nix' profiles.
    with tempfile.TemporaryDirectory() as profile:
        link = Path(profile) / "config.toml"
        link.symlink_to(config)
        for path in (config, link):
            done = inside("list", env={"CLAUDE_SESSIONS_CONFIG": str(path), "CLAUDE_SESSIONS_DSN": dsn})
            if writer:
                failed(done, 2, f"config.toml is not read: {writer} may write it")
            else:
                assert done.returncode == 0, done.stderr
        if writer == "account nobody":
            env = {"CLAUDE_SESSIONS_CONFIG": str(config), "CLAUDE_SESSIONS_DSN": dsn, "SUDO_UID": "65534"}
            assert inside("list", env=env).returncode == 0


def test_pipe_as_config_file_never_hangs(cli: Cli, dsn: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    env = {"CLAUDE_SESSIONS_CONFIG": str(tmp_path / "config.toml"), "CLAUDE_SESSIONS_DSN": dsn}
    failed(cli("list", env=env), 2, r"cannot read .*config\.toml: not a regular file")
    # The shell's own pipe is read.
    script = 'CLAUDE_SESSIONS_CONFIG=<(echo \'stale_after = "x"\') exec "$0" -m claude_sessions_cli list'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "stale_after in /dev/fd/" in done.stderr) == (2, True), done.stderr
