"""The rules of identity, on given values."""

from __future__ import annotations

import os
from typing import Any

import pytest
from conftest import Cli, Sleeper
from poll import until

from claude_sessions_cli import identity, process
from claude_sessions_cli.cli import run
from claude_sessions_cli.errors import NoIdentity, UsageError
from claude_sessions_cli.liveness import Host, this_host
from claude_sessions_cli.process import Process

NIL = "00000000-0000-0000-0000-000000000000"
MALFORMED_IDS = {
    "empty": [""],
    "nil UUID": [NIL, NIL.replace("-", "")],
    "leading punctuation": ["-a", ".a"],
    "forbidden character": ["a b", "a/b", "a\n", "a\nb", "a\0b", "\x1b[31mred"],
    "not ASCII": ["é", "ａ", "a٣", "a\udcff"],
    "too long": ["a" * 129, "a" * 10_000],
}
MALFORMED_TERMINALS = {
    "not a path below /dev": ["", "unknown", "not a tty", "pts/3", "/dev/"],
    "forbidden character": ["/dev/pts/3\n", "/dev/\x1b[31m"],
    "not ASCII": ["/dev/é", "/dev/\udcff"],
    "too long": ["/dev/" + "x" * 10_000],
}


def chain(*found: Process) -> list[Process]:
    """Return this command under the given processes, nearest first."""
    return [Process(9, 8, None, "9", False, "python"), *found]


# -- given values -----------------------------------------------------------------------------------------------------


def message_of(environ: dict[str, str], **options: str) -> str:
    """Return the message for a malformed value, which is one short line."""
    with pytest.raises(UsageError) as caught:
        identity.detect(environ, lineage=chain(), **options)  # type: ignore[arg-type]
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 120
    return caught.value.message


def test_id_of_allowed_characters_is_kept() -> None:
    for value in ("a", "A.b_c:d-e", "0", "a" * 128, "8a1c66ff-0000-4000-8000-000000000001"):
        assert identity.detect({}, session=value).session_id == value


@pytest.mark.parametrize("values", MALFORMED_IDS.values(), ids=list(MALFORMED_IDS))
def test_malformed_session_id_is_refused_in_one_short_line(values: list[str]) -> None:
    for value in values:
        assert message_of({}, session=value).startswith("--session is"), value


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
def test_malformed_id_in_environment_names_the_variable(name: str) -> None:
    assert message_of({name: "a\nb"}).startswith(f"{name} is")


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
def test_malformed_id_is_ignored_if_option_is_given(name: str) -> None:
    assert identity.detect({name: "not an id"}, session="given").session_id == "given"


@pytest.mark.parametrize("name", ["CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_CODE_SESSION_ID"])
def test_empty_variable_counts_as_unset(name: str) -> None:
    assert identity.detect({name: ""}, lineage=chain()).session_id is None


@pytest.mark.parametrize("values", MALFORMED_TERMINALS.values(), ids=list(MALFORMED_TERMINALS))
def test_malformed_terminal_is_refused(values: list[str]) -> None:
    for value in values:
        assert message_of({}, session="a", tty=value).startswith("--tty is not a terminal: "), value


def test_valid_terminal_is_kept() -> None:
    for tty in ("/dev/pts/3", "/dev/ttys003", "/dev/tty1", "/dev/console"):
        assert identity.detect({}, session="a", tty=tty).tty == tty


def test_missing_process_is_refused() -> None:
    for pid in (2**22 + 1, 2**63, 10**100):
        with pytest.raises(UsageError, match=r"^--pid \d+(\.\.\.\d)?: no such process$"):
            identity.detect({}, pid=pid)


def test_given_process_is_anchor_and_names_session() -> None:
    found = identity.detect({}, pid=os.getppid())
    assert found.pid == os.getppid()
    names = ("boot_id", "pid_ns", "machine_id")
    host = {name: getattr(this_host(), name) for name in names if getattr(this_host(), name)}
    assert found.process_record == {"pid": os.getppid(), "start": process.read(os.getppid()).start, **host}
    assert found.session_id is not None
    assert found.session_id.endswith(f"_{os.getppid()}")


@pytest.mark.faults
@pytest.mark.parametrize(
    "argv",
    [
        ["--session", "\x1b[31mred\r\n"],
        ["--session", b"\xff\xfe"],
        ["--pid", "0"],
        ["--pid", "\x1b[31m"],
        ["--pid", "9" * 100],
        ["--tty", "/dev/" + "x" * 10_000],
    ],
    ids=["session", "session not UTF-8", "pid out of range", "pid not a number", "pid missing", "tty"],
)
def test_malformed_option_is_refused_in_one_line(cli: Cli, argv: list[Any]) -> None:
    done = cli("whoami", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("claude-sessions: ")
    assert done.stderr.removesuffix("\n").isprintable()
    assert len(done.stderr) < 300
    assert cli("whoami", "--json", *argv).returncode == 2


def test_every_malformed_pid_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("", "-1", "abc", "1.5", "4194305", "9" * 100):
        assert run(["whoami", "--pid", value]) == 2, value
        assert capsys.readouterr().err.count("\n") == 1, value


# -- detection --------------------------------------------------------------------------------------------------------


def test_derived_id_depends_on_pid_start_boot_and_namespace() -> None:
    shell = Process(100, 1, "/dev/pts/3", "5000", False, "bash", ("bash",))
    host = Host("h", "boot", "pid:[1]")
    first = identity.derive_session_id(shell, host)
    assert first == identity.derive_session_id(shell, Host("renamed", "boot", "pid:[1]"))
    others = [
        identity.derive_session_id(Process(100, 1, "/dev/pts/3", "5001", False, "bash"), host),
        identity.derive_session_id(Process(101, 1, "/dev/pts/3", "5000", False, "bash"), host),
        identity.derive_session_id(shell, Host("h", "next boot", "pid:[1]")),
        identity.derive_session_id(shell, Host("h", "boot", "pid:[2]")),
    ]
    digests = {session_id.split("_")[1] for session_id in [first, *others]}
    assert len(digests) == 5
    assert first.split("_")[2:] == ["pts3", "100"]


def test_record_names_the_machine_if_it_is_known() -> None:
    anchor = Process(100, 1, None, "5000", False, "bash")
    record = {"pid": 100, "start": "5000", "boot_id": "boot", "pid_ns": "pid:[1]"}
    for machine, expected in (("", record), ("57e36840", {**record, "machine_id": "57e36840"})):
        host = Host("h", "boot", "pid:[1]", machine)
        assert identity.Identity("a", anchor, None, None, None, None, host).process_record == expected


AGENT = Process(8, 7, None, "8", False, "claude")
ELSEWHERE = "pid:[1] 17 12345"


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [
        ({"session": "a"}, {"CLAUDE_SESSIONS_SESSION_ID": "b", "CLAUDE_SESSIONS_ANCHOR": ELSEWHERE}, "option"),
        ({}, {"CLAUDE_SESSIONS_SESSION_ID": "b", "CLAUDE_SESSIONS_ANCHOR": ELSEWHERE}, "exported"),
        ({}, {"CLAUDE_SESSIONS_SESSION_ID": "b", "CLAUDE_CODE_SESSION_ID": "c"}, "environment"),
        ({}, {"CLAUDE_CODE_SESSION_ID": "c"}, "claude_code"),
        ({}, {"CLAUDE_CODE_SESSION_ID": "c", "CLAUDE_SESSIONS_ANCHOR": ELSEWHERE}, "claude_code"),
        ({}, {}, "derived"),
    ],
    ids=["option", "exported", "environment", "claude_code", "no id beside the anchor", "derived"],
)
def test_row_names_the_rule_that_gave_the_id(options: dict[str, str], environ: dict[str, str], expected: str) -> None:
    found = identity.detect(environ, lineage=chain(AGENT), **options)  # type: ignore[arg-type]
    assert found.id_from == expected
    # A row keeps the rule by which its session began: an exported id has one already.
    assert found.own_metadata().get("id_from") == (None if expected == "exported" else expected)


CODEX = Process(6, 5, None, "6", False, "codex", ("/opt/codex/codex", "exec"))
NODE_CODEX = Process(5, 4, None, "5", False, "node", ("node", "/usr/bin/codex"))
OPENCODE = Process(4, 3, None, "4", False, "bun", ("/usr/bin/opencode",))
SHELL = Process(3, 2, "/dev/pts/3", "3", False, "bash", ("bash",))


@pytest.mark.parametrize(
    ("environ", "lineage", "expected"),
    [
        ({"CODEX_THREAD_ID": "t"}, [CODEX, NODE_CODEX], ("t", "codex", CODEX)),
        ({"CODEX_THREAD_ID": "t"}, [NODE_CODEX], ("t", "codex", NODE_CODEX)),
        ({"CODEX_THREAD_ID": "t"}, [], ("t", "codex", None)),
        ({"OPENCODE_RUN_ID": "r"}, [OPENCODE], ("r", "opencode", OPENCODE)),
        ({"OPENCODE_RUN_ID": "r", "OPENCODE_PID": "3"}, [OPENCODE, SHELL], ("r", "opencode", SHELL)),
        ({"PI_SESSION_ID": "p"}, [Process(7, 6, None, "7", False, "pi")], ("p", "pi", 7)),
        # The nearer of two, whichever variable is inherited.
        ({"CODEX_THREAD_ID": "t", "CLAUDE_CODE_SESSION_ID": "c"}, [CODEX, AGENT], ("t", "codex", CODEX)),
        ({"CODEX_THREAD_ID": "t", "CLAUDE_CODE_SESSION_ID": "c"}, [AGENT, CODEX], ("c", "claude_code", AGENT)),
        ({"CODEX_THREAD_ID": "t", "CLAUDE_CODE_SESSION_ID": "c"}, [], ("c", "claude_code", None)),
        ({"CODEX_THREAD_ID": "t", "CLAUDE_SESSIONS_SESSION_ID": "a"}, [CODEX], ("a", "environment", CODEX)),
    ],
)
def test_other_agents_name_their_session(environ: dict[str, str], lineage: list[Process], expected: Any) -> None:
    found = identity.detect(environ, lineage=chain(*lineage))
    anchor = expected[2].pid if isinstance(expected[2], Process) else expected[2]
    assert (found.session_id, found.id_from, found.pid) == (*expected[:2], anchor)


def test_id_of_another_agent_needs_its_process_in_a_terminal() -> None:
    itself = Process(9, 3, "/dev/pts/3", "9", False, "python")
    found = identity.detect({"CODEX_THREAD_ID": "t"}, lineage=[itself, SHELL])
    assert (found.id_from, found.anchor) == ("derived", SHELL)
    why = {rule.rule: rule.why for rule in found.rules}
    assert why["session: CODEX_THREAD_ID"] == "does not count in /dev/pts/3, which is not below a codex process"
    found = identity.detect({"CODEX_THREAD_ID": "t"}, lineage=[itself, CODEX, SHELL])
    assert (found.session_id, found.anchor) == ("t", CODEX)


def test_input_of_a_hook_comes_before_the_agents_variable() -> None:
    environ = {"CLAUDE_CODE_SESSION_ID": "c"}
    found = identity.detect(environ, lineage=chain(AGENT), hook_input="h")
    assert (found.session_id, found.id_from, found.anchor) == ("h", "hook", AGENT)
    assert identity.detect({**environ, "CLAUDE_SESSIONS_SESSION_ID": "a"}, hook_input="h").session_id == "a"
    assert "session: hook input" not in {rule.rule for rule in identity.detect(environ, lineage=chain(AGENT)).rules}


def test_missing_id_has_no_rule() -> None:
    assert identity.detect({}, lineage=chain()).id_from is None


def test_agent_that_is_not_above_is_only_compared(sleeper: Sleeper) -> None:
    pid = sleeper().pid
    found = identity.detect({"CLAUDE_PID": str(pid), "CLAUDE_CODE_SESSION_ID": "c"}, lineage=chain())
    assert found.known_process == identity.detect({}, pid=pid).process_record
    assert (found.anchor, found.pid, found.process_record) == (None, None, None)
    assert "process" not in found.own_metadata()


def test_anchor_is_the_process_to_compare(sleeper: Sleeper) -> None:
    found = identity.detect({"CLAUDE_PID": str(sleeper().pid)}, lineage=chain(AGENT))
    assert found.known_process == found.process_record
    assert found.pid == AGENT.pid


def test_agent_that_ended_or_cannot_be_seen_is_unknown(sleeper: Sleeper) -> None:
    child = sleeper()
    foreign = {"CLAUDE_SESSIONS_SESSION_ID": "a", "CLAUDE_SESSIONS_ANCHOR": ELSEWHERE}
    assert identity.detect({**foreign, "CLAUDE_PID": str(child.pid)}, lineage=chain()).known_process is None
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    for value in (str(child.pid), "0", "-1", "x", "²", "9" * 10_000, "4194305"):
        assert identity.detect({"CLAUDE_PID": value}, lineage=chain()).known_process is None, value[:20]


def test_session_id_counts_without_readable_processes() -> None:
    with pytest.raises(NoIdentity):
        identity.require(identity.detect({}, lineage=[]))
    assert identity.detect({"CLAUDE_SESSIONS_SESSION_ID": "a"}, lineage=[]).session_id == "a"


def test_unknown_facts_are_left_out_of_metadata() -> None:
    unknown = identity.Identity("a", None, None, None, None, None, this_host())
    assert unknown.own_metadata().keys() == {"host_os", "cli"}
