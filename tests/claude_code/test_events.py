"""What the client writes to a hook, and what passes the guard."""

from __future__ import annotations

import json

import pytest

from claude_sessions_cli.claude_code.events import INPUT_LIMIT, BadInput, Input, parse_input, passes

GOOD = {"session_id": "8a1c66ff", "hook_event_name": "Stop"}


def _raw(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "stdin is empty"),
        (b" \n", "stdin is empty"),
        (b"{", "not JSON"),
        (b"secret", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (_raw(prompt="x" * INPUT_LIMIT), "larger than 1 MiB"),
        (_raw(hook_event_name="Foo"), "another event"),
        (_raw(hook_event_name=None), "another event"),
        (b'{"hook_event_name": "Stop"}', "names no session_id"),
        (_raw(session_id=7), "names no session_id"),
        (_raw(session_id="a secret"), "malformed"),
        (_raw(session_id="-a"), "malformed"),
        (_raw(session_id="00000000-0000-0000-0000-000000000000"), "malformed"),
        (_raw(session_id="x" * 129), "malformed"),
        (_raw(session_id="\ud800"), "malformed"),
    ],
)
def test_bad_input_is_named_and_not_quoted(raw: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as caught:
        parse_input(raw, "Stop")
    assert "secret" not in str(caught.value) and len(str(caught.value)) < 60


def test_input_of_unexpected_types_is_read() -> None:
    raw = _raw(agent_id=7, reason=["clear"], tool_name={}, tool_input="x")
    assert parse_input(raw, "Stop") == Input("8a1c66ff")
    raw = _raw(agent_id="helper", tool_name="Bash", tool_input={"command": "ls"})
    assert parse_input(raw, "Stop") == Input("8a1c66ff", "helper", None, "Bash", "ls")


def test_input_that_is_cut_short_names_its_session() -> None:
    # The client drops the rest of a long input when the hook has ended; the program may still be reading.
    raw = _raw(prompt="x" * 300_000)[:219_264]
    assert parse_input(raw, "Stop").session_id == "8a1c66ff"
    raw = raw.replace(b"Stop", b"SessionEnd")
    with pytest.raises(BadInput):
        parse_input(raw, "SessionEnd")


PLAIN = ["claude-sessions claim SD-1", " claude-sessions  release", "/opt/cs release 'SD 1'", "claude-sessions"]
NOT_PLAIN = [
    *(
        "",
        "ls",
        "claude-sessionsx",
        "./claude-sessions claim",
        "/tmp/claude-sessions claim",
        "A=1 claude-sessions claim",
    ),
    *("claude-sessions claim; ls", "claude-sessions claim & ls", "claude-sessions claim && ls", "claude-sessions | sh"),
    *("claude-sessions $(ls)", "claude-sessions `ls`", "claude-sessions >f", "claude-sessions <f", "claude-sessions '"),
    *("claude-sessions claim\nls", "claude-sessions claim\rls", "ls # claude-sessions", "(claude-sessions claim)"),
]


@pytest.mark.parametrize("command", PLAIN)
def test_one_plain_call_passes(command: str) -> None:
    assert passes(Input("a", tool="Bash", command=command), ["/opt/cs"])


@pytest.mark.parametrize("command", NOT_PLAIN)
def test_other_commands_do_not_pass(command: str) -> None:
    assert not passes(Input("a", tool="Bash", command=command), ["/opt/cs"])


@pytest.mark.parametrize(("tool", "passed"), [("Read", True), (None, True), ("Edit", False), ("Write", False)])
def test_tools_that_change_files_do_not_pass(tool: str | None, passed: bool) -> None:
    assert passes(Input("a", tool=tool, command="claude-sessions claim"), []) is passed
