"""Claude Code's settings file, which its user and the client write too."""

from __future__ import annotations

import json
import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claude_sessions_cli.claude_code import entries, settings_file
from claude_sessions_cli.claude_code.entries import EVENTS, LATER_EVENTS, Choice, NotSettingsError, merge
from claude_sessions_cli.errors import SessionsError

WORDS = ("/opt/it's here/claude-sessions",)
CHOICE = Choice(WORDS, (*EVENTS, *LATER_EVENTS))
REAL = {
    "permissions": {"allow": ["Bash(git diff:*)"], "defaultMode": "default"},
    "model": "opus",
    "hooks": {
        "PostToolUse": [
            {"matcher": "Edit|Write", "hooks": [{"type": "command", "command": "prettier --write", "timeout": 30}]}
        ],
        "Stop": [{"hooks": [{"type": "command", "command": "notify-send done", "async": True}]}],
    },
    "statusLine": {"type": "command", "command": "jq -r '.model.display_name'; date", "padding": 0},
    "enabledPlugins": {"other@somewhere": True},
    "unknown": {"ключ": ["😀", None, 1.5, -0.0, 10**30]},
}
words = st.sampled_from(["SessionStart", "PostToolUse", "Stop", "PreToolUse", "Foo", "hooks", "type", "command"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | words
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(), inner), max_leaves=12
)
commands = st.fixed_dictionaries({"type": st.just("command"), "command": st.text()}, optional={"timeout": values})
groups = (
    st.fixed_dictionaries({"hooks": st.lists(commands | values, max_size=3)}, optional={"matcher": values}) | values
)
odd_hooks = st.dictionaries(words, st.lists(groups, max_size=3) | values, max_size=4) | values
lines = st.fixed_dictionaries(
    {"type": st.just("command"), "command": st.text()}, optional={"refreshInterval": values, "padding": values}
)
odd_settings = st.dictionaries(st.text(max_size=5), values, max_size=3).flatmap(
    lambda base: st.fixed_dictionaries({}, optional={"hooks": odd_hooks, "statusLine": lines | values}).map(
        lambda ours: {**base, **ours}
    )
)


def _without_empty(found: dict[str, Any]) -> dict[str, Any]:
    """Return settings without hooks that name nothing: an empty list or object stays empty, or goes."""
    kept = deepcopy(found)
    if isinstance(kept.get("hooks"), dict):
        kept["hooks"] = {event: groups for event, groups in kept["hooks"].items() if groups != []}
        if not kept["hooks"]:
            del kept["hooks"]
    return kept


@given(odd_settings)
@settings(max_examples=150, deadline=None)
def test_odd_settings_keep_everything_of_others(before: dict[str, Any]) -> None:
    original = deepcopy(before)
    try:
        merged = merge(before, CHOICE)
    except NotSettingsError:
        assert before == original
        return
    assert before == original
    # Comparable as text too: True is not 1, and an order is an order.
    assert json.dumps(merge(merged, CHOICE)) == json.dumps(merged)
    without = merge(merged, None)
    assert json.dumps(_without_empty(without)) == json.dumps(_without_empty(original))
    assert set(entries.installed_events(merged)) == {*EVENTS, *LATER_EVENTS}


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | values.map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_file_is_refused_and_kept(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(raw)
    backup = path.with_name("settings.json.before-claude-sessions")
    backup.unlink(missing_ok=True)
    try:
        settings_file.install(path, CHOICE)
    except NotSettingsError as error:
        assert error.message.isprintable() and len(error.message) < 300
        assert path.read_bytes() == raw and not backup.exists()
    else:
        assert isinstance(json.loads(raw), dict) and backup.read_bytes() == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"// comment\n{}",
        b"{,}",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        "{}".encode("utf-16"),
        b"{}\n{}",
        b'{"hooks": []}',
        b'{"hooks": {"Stop": {}}}',
        b"[]",
    ],
)
def test_malformed_file_is_refused_in_one_line(cli: Cli, tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(raw)
    with pytest.raises(NotSettingsError) as caught:
        settings_file.install(path, CHOICE)
    assert caught.value.message.isprintable()
    assert [found.name for found in tmp_path.iterdir()] == ["settings.json"] and path.read_bytes() == raw


def test_backup_stays_the_file_from_before(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(REAL))
    first = settings_file.install(path, CHOICE).backup
    assert settings_file.install(path, Choice(WORDS, EVENTS, guard=True)).backup == first
    # A status line alone is a part of ours too.
    path.write_text(json.dumps({"statusLine": json.loads(path.read_text())["statusLine"]}))
    settings_file.install(path, CHOICE)
    assert settings_file.remove(path).backup == first
    assert json.loads(Path(first or "").read_text()) == REAL
    # The next installation is another one.
    path.write_text("{}")
    settings_file.install(path, CHOICE)
    assert Path(first or "").read_text() == "{}"
    settings_file.remove(path)
    Path(first or "").unlink()
    assert settings_file.install(path, CHOICE).backup is None


def test_real_settings_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    assert settings_file.remove(path).outcome == "not_installed" and not path.parent.exists()
    path.parent.mkdir()
    path.write_text(json.dumps(REAL))
    path.chmod(0o640)
    assert settings_file.install(path, CHOICE, dry_run=True).outcome == "installed"
    assert json.loads(path.read_text()) == REAL
    done = settings_file.install(path, Choice(WORDS, EVENTS, guard=True))
    assert (done.outcome, done.status_line) == ("installed", True)
    assert {*EVENTS, "PreToolUse"} == set(done.events)
    assert json.loads(Path(done.backup or "").read_text()) == REAL
    # As the client rewrites it.
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "theme": "dark"}, indent=2))
    assert settings_file.install(path, Choice(WORDS, EVENTS, guard=True)).outcome == "already_installed"
    assert settings_file.install(path, Choice(("/new/claude-sessions",), EVENTS)).outcome == "installed"
    text = path.read_text()
    assert "PreToolUse" not in text and "it's here" not in text and text.count("hook.sh") == 2 * len(EVENTS)
    assert settings_file.remove(path).outcome == "removed"
    assert json.dumps(json.loads(path.read_text())) == json.dumps({**REAL, "theme": "dark"})
    assert path.stat().st_mode & 0o777 == 0o640
    assert settings_file.remove(path).outcome == "not_installed"


def test_older_entry_is_replaced_in_its_place() -> None:
    old = entries.hook_command("Stop", ["/old"], Path("/old/lib/claude_sessions_cli/claude_code/hook.sh"))
    foreign = {"type": "command", "command": "mine"}
    before = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": old}, foreign]}, {"hooks": [foreign]}]}}
    groups = merge(before, Choice(WORDS, ("Stop",), status_line=False))["hooks"]["Stop"]
    assert [len(group["hooks"]) for group in groups] == [1, 1, 1]
    assert groups[0]["hooks"] == groups[2]["hooks"] == [foreign] and "/old" not in json.dumps(groups)


def test_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    target, link = tmp_path / "dotfiles" / "claude.json", tmp_path / "settings.json"
    link.symlink_to("dotfiles/claude.json")
    for _ in range(2):
        settings_file.install(link, CHOICE)
        assert link.is_symlink() and json.loads(target.read_text())["hooks"]
    assert settings_file.remove(link).outcome == "removed"
    assert json.loads(target.read_text()) == {} and link.is_symlink()


def test_change_by_the_client_in_between_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{}")
    left = [1, 2]

    def read_slowly(found: Path) -> Any:
        answer = read(found)
        if left:
            path.write_text(json.dumps({"theme": f"dark {left.pop()}"}))
        return answer

    read = settings_file._read
    monkeypatch.setattr(settings_file, "_read", read_slowly)
    assert settings_file.install(path, CHOICE).outcome == "installed"
    found = json.loads(path.read_text())
    assert found["theme"] == "dark 1" and found["hooks"]
    left[:] = range(20)
    with pytest.raises(SessionsError, match="changes all the time"):
        settings_file.install(path, Choice(WORDS, guard=True))


@pytest.mark.parametrize("interval", [None, 5, 300, "often"])
def test_own_status_line_is_chained_and_comes_back(interval: Any) -> None:
    line = {"type": "command", "command": "echo 'a; b' \"$(cat)\"\n\techo c", "padding": 2}
    before = {"statusLine": {**line, **({} if interval is None else {"refreshInterval": interval})}}
    merged = merge(before, CHOICE)
    assert merged["statusLine"]["refreshInterval"] == (5 if interval == 5 else 30)
    assert merged["statusLine"]["padding"] == 2
    assert merge(merge(merged, CHOICE), None) == before
    assert merge(merged, Choice(WORDS, CHOICE.events, status_line=False))["statusLine"] == before["statusLine"]


@pytest.mark.parametrize("line", [None, [], "text", {"type": "static", "text": "x"}, {"type": "command"}])
def test_unknown_status_line_is_left_alone(tmp_path: Path, line: Any) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"statusLine": line, "disableAllHooks": False}))
    done = settings_file.install(path, CHOICE)
    if line is None:
        assert done.status_line
    else:
        assert done.note == f"statusLine in {path} is not a command, so it is left as it is"
        assert json.loads(path.read_text())["statusLine"] == line


@pytest.mark.parametrize(
    ("hooks", "fault"), [([], "`hooks` is not an object"), ({"Stop": {}}, "`hooks.Stop` is not a list")]
)
def test_malformed_hooks_are_refused_with_their_file(tmp_path: Path, hooks: Any, fault: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"hooks": hooks}))
    with pytest.raises(SessionsError) as refused:
        settings_file.install(path, CHOICE)
    assert refused.value.message == f"{fault} in {path}"
    assert json.loads(path.read_text()) == {"hooks": hooks}


def test_events_are_those_that_the_client_names(tmp_path: Path) -> None:
    client = tmp_path / "claude"
    assert settings_file.known_events({"PATH": str(tmp_path)}) == EVENTS
    client.write_bytes(b"\0SessionStart CwdChanged\0")
    client.chmod(0o755)
    assert settings_file.known_events({"PATH": str(tmp_path)}) == (*EVENTS, "CwdChanged")
    client.write_bytes(b"")
    assert settings_file.known_events({"PATH": str(tmp_path)}) == EVENTS


def test_command_installs_and_removes(cli: Cli, tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path / "other")}
    path = tmp_path / "other" / "settings.json"
    shown = cli("install", "claude", "--dry-run", env=env)
    assert "SessionEnd: trap" in shown.stdout and not path.exists()
    done = cli("install", "claude", "--guard", env=env)
    assert (done.stdout, done.stderr) == (f"claude: installed in {path}\n", "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert cli("install", "claude", "--guard", env=env).stdout == f"claude: already installed in {path}\n"
    # There was no file before, and no directory.
    assert cli("install", "claude", "--remove", env=env).stdout == f"claude: removed from {path}\n"
    assert not path.parent.exists()
    for option, name in (("--project", "settings.json"), ("--local", "settings.local.json")):
        assert cli("install", "claude", option, env=env).returncode == 0
        assert (tmp_path / ".claude" / name).exists()
    both = cli("install", "claude", "--user", "--local", env=env)
    assert both.returncode == 2 and "exclude each other" in both.stderr
    path.parent.mkdir()
    path.write_text("{")
    broken = cli("install", "claude", env=env)
    assert broken.returncode == 2 and broken.stderr.count("\n") == 1 and "is not JSON" in broken.stderr
    assert path.read_text() == "{"
    path.unlink()
    os.mkfifo(path)
    pipe = cli("install", "claude", env=env)
    assert pipe.returncode == 2 and "not a regular file" in pipe.stderr


def test_installed_commands_are_shell_that_succeeds(tmp_path: Path) -> None:
    merged = merge({"statusLine": {"type": "command", "command": "cat; echo; exit 3"}}, Choice(WORDS, guard=True))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for event in (*EVENTS, "PreToolUse"):
        [group] = merged["hooks"][event]
        done = subprocess.run(
            group["hooks"][0]["command"], shell=True, input=b"{}", env=env, capture_output=True, timeout=10
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    shown = subprocess.run(merged["statusLine"]["command"], shell=True, input=b"{1}", env=env, capture_output=True)
    assert (shown.returncode, shown.stdout, shown.stderr) == (3, b"{1}\n", b"")
