"""The command `status`: what this session holds, which database answers, and what is set up."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Table, make_caller
from terminal import CLI, Terminal
from wire import Wire, report

from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.timers import upkeep_log
from commands.answers import Inside, data_of
from commands.scenes import OWN

LINES = ("session", "holds", "database", "server", "shell hook", "agent hooks", "timer", "completion")


def _facts(text: str) -> dict[str, str]:
    """Return the facts by label, and check their form."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        assert len(line) <= 80
        name = line[:14].strip().removesuffix(":") or list(facts)[-1]
        facts[name] = f"{facts.get(name, '')} {line[14:]}".strip()
    return facts


def test_status_shows_claim_database_and_set_up(full_table: Table, inside: Inside, tmp_path: Path) -> None:
    held = claim(full_table.database, make_caller(OWN), "SD-1").session.session
    (tmp_path / ".bashrc").write_text('eval "$(claude-sessions completion bash)"\n')
    env = {
        "CLAUDE_SESSIONS_DSN": full_table.dsn,
        "CLAUDE_SESSIONS_SESSION_ID": OWN,
        "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path / "state"),
    }
    (tmp_path / "state").mkdir(mode=0o700)
    upkeep_log.record_run(tmp_path / "state", "no route")
    assert inside("install", "claude", env=env).returncode == 0
    done = inside("status", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    facts = _facts(done.stdout)
    assert tuple(facts) == LINES
    assert facts["session"].startswith(OWN)
    assert facts["holds"] == f"SD-1 for 0s, fence {held.fence}"
    assert facts["database"].startswith("cs_full at ") and facts["database"].endswith(", from CLAUDE_SESSIONS_DSN")
    assert facts["server"] == f"Postgres {full_table.database.server_version}"
    # A long path is broken.
    assert facts["agent hooks"].replace(" ", "") == f"in{tmp_path / '.claude' / 'settings.json'},notrunyet"
    assert facts["completion"] == "bash"
    data = data_of(inside("status", "--json", env=env), "status")
    assert (data["session_id"], data["session"]["fence"]) == (OWN, held.fence)
    assert data["server_version"] == full_table.database.server_version
    assert (data["timer_error"], data["completion"], data["shell_hook"]) == ("no route", ["bash"], False)


def test_parked_session_sees_how_long(full_table: Table, inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": full_table.dsn, "CLAUDE_SESSIONS_SESSION_ID": OWN}
    claim(full_table.database, make_caller(OWN), "SD-1")
    # People read whole seconds.
    parked = inside("park", "5m", env=env).stdout
    assert re.fullmatch(r"parked SD-1 until [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\n", parked)
    assert re.fullmatch(
        r"SD-1 for \d+s, fence \d+, parked for 4m more", _facts(inside("status", env=env).stdout)["holds"]
    )
    assert re.search(r"holds: +SD-1 for .*, parked for 4m more\n", inside("whoami", env=env).stdout)
    assert inside("unpark", env=env).returncode == 0
    assert "parked" not in inside("status", env=env).stdout


def test_status_costs_no_more_messages_than_list(full_table: Table, inside: Inside) -> None:
    claim(full_table.database, make_caller(OWN), "SD-1")
    with Wire(full_table.dsn) as wire:
        for session in (OWN, "unknown", None):
            env = {"CLAUDE_SESSIONS_DSN": wire.dsn, "CLAUDE_SESSIONS_SESSION_ID": session}
            counts = {}
            for command in ("list", "status"):
                wire.reset()
                assert inside(command, env=env).returncode == 0
                counts[command] = len(wire.messages)
            assert counts == {"list": 1, "status": 1}, report(wire)


def test_missing_database_leaves_the_rest(inside: Inside) -> None:
    env = {"CLAUDE_SESSIONS_DSN": "host=127.0.0.1 port=1", "CLAUDE_SESSIONS_SESSION_ID": OWN}
    done = inside("status", env=env)
    assert done.returncode == 6
    assert done.stderr.startswith("claude-sessions: cannot connect") and done.stderr.count("\n") == 1
    facts = _facts(done.stdout)
    assert tuple(facts) == tuple(name for name in LINES if name not in ("holds", "server"))
    assert facts["database"] == "no answer, from CLAUDE_SESSIONS_DSN"
    failed = data_of(inside("status", "--json", env=env), "status", 6)
    assert (failed["code"], failed["data"]["session_id"], failed["data"]["session"]) == ("unreachable", OWN, None)
    assert failed["data"]["database"]["error"] == failed["message"]
    assert inside("status", "--quiet", env=env).stdout == ""


def test_stopped_private_server_is_not_started(inside: Inside, tmp_path: Path) -> None:
    env = {"CLAUDE_SESSIONS_DATA_DIR": str(tmp_path / "data"), "CLAUDE_SESSIONS_SESSION_ID": OWN}
    done = inside("status", env=env)
    assert done.returncode == 6
    assert done.stderr.endswith(" is not running (start it: claude-sessions db start)\n")
    stopped = f"not asked: the private server in {tmp_path}/data is not running (chosen as none is configured)"
    assert _facts(done.stdout)["database"].replace(" ", "") == stopped.replace(" ", "")
    assert not (tmp_path / "data").exists()


def test_missing_table_exits_7(fresh_database: Callable[..., str], inside: Inside) -> None:
    done = inside("status", env={"CLAUDE_SESSIONS_DSN": fresh_database(), "CLAUDE_SESSIONS_SESSION_ID": OWN})
    assert done.returncode == 7
    assert _facts(done.stdout)["database"] == "not usable, from CLAUDE_SESSIONS_DSN"


def test_caller_without_session_sees_the_rest(full_table: Table, inside: Inside) -> None:
    done = inside("status", env={"CLAUDE_SESSIONS_DSN": full_table.dsn})
    facts = _facts(done.stdout)
    assert done.returncode == 0
    if not facts["session"].startswith("none"):
        pytest.skip("these tests run in a terminal or below an agent")
    assert tuple(facts) == tuple(name for name in LINES if name != "holds")


@pytest.mark.faults
def test_hook_of_the_shell_is_seen(dsn: str, stack: ExitStack, tmp_path: Path) -> None:
    window = Terminal(tmp_path, more={"CLAUDE_SESSIONS_DSN": dsn})
    stack.callback(window.close)
    assert _facts(window.run(f"{CLI} status").out)["shell hook"] == "off in this bash: it sends no heartbeats"
    window.type(f'eval "$({CLI} shell-init bash)"')
    facts = _facts(window.run(f"{CLI} status").out)
    assert facts["shell hook"] == "on in this shell"
    assert facts["session"].endswith(f" (bash, pid {window.pid})")
