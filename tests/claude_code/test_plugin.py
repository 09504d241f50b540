"""The plugin: the same hooks, for a client whose settings have none."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import Table
from run_bench import only_linux

from claude_code.conftest import Start
from claude_code.fake import install
from claude_sessions_cli import __version__
from claude_sessions_cli.claude_code import entries, settings_file
from claude_sessions_cli.claude_code.entries import EVENTS, HERE
from claude_sessions_cli.cli import COMMANDS

PLUGIN = settings_file.plugin_directory()


def _json(name: str) -> dict[str, object]:
    found = json.loads((PLUGIN / name).read_text())
    assert isinstance(found, dict)
    return found


def test_plugin_has_the_hooks_of_the_settings() -> None:
    assert (PLUGIN / "hooks" / "hook.sh").read_bytes() == (HERE / "hook.sh").read_bytes()
    own = json.dumps(_json("hooks/hooks.json")["hooks"])
    place = '\\"${CLAUDE_PLUGIN_ROOT}/hooks/hook.sh\\"'
    merged = entries.merge({}, entries.Choice([], EVENTS, status_line=False))
    assert own == json.dumps(merged["hooks"]).replace(str(HERE / "hook.sh"), place)


def test_plugin_names_its_version_and_real_commands() -> None:
    assert _json(".claude-plugin/plugin.json")["version"] == __version__
    for path in [*PLUGIN.glob("commands/*.md"), *PLUGIN.glob("skills/*/SKILL.md")]:
        text = path.read_text()
        assert text.startswith("---\n"), path
        assert set(re.findall(r"claude-sessions ([a-z]+)", text)) - {"message"} <= set(COMMANDS), path
    assert {path.stem for path in PLUGIN.glob("commands/*.md")} == {"claim", "release", "who"}


@only_linux
def test_plugin_beside_the_settings_prints_nothing_twice(full_table: Table, processes: Start, tmp_path: Path) -> None:
    agent = processes()
    hooks = _json("hooks/hooks.json")["hooks"]
    path = tmp_path / ".claude/settings.json"
    agent.env["CLAUDE_PLUGIN_ROOT"] = str(PLUGIN)
    kept = json.loads(path.read_text())
    # As the client runs both: those of the plugin are not in the file.
    assert isinstance(hooks, dict)
    agent.plugin = hooks
    printed = [answer.out for answer in agent.hooks("SessionStart", source="startup")]
    assert [bool(out) for out in printed] == [True, False]
    del kept["hooks"]
    path.write_text(json.dumps({**kept, "hooks": {}}))
    assert [bool(answer.out) for answer in agent.hooks("SessionStart", source="resume")] == [True]
    install(tmp_path)
