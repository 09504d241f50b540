"""Command lines: options before the command, help, and every wrong value."""

from __future__ import annotations

import re

import pytest
from conftest import Cli, Sleeper, Table, make_caller

from claude_sessions_cli import options, process
from claude_sessions_cli.operations.claim import claim
from commands.answers import LONG, NIL, Inside, Refused, Run, data_of, failed, failed_json, rows


def test_options_are_accepted_before_command(run: Run, dsn: str) -> None:
    assert data_of(run("--json", "--session", "z", "claim", "SD-1"), "claim")["session"]["session_id"] == "z"
    assert run(f"--dsn={dsn}", "-q", "release", "--session", "z").stdout == ""
    assert data_of(run("--json", "schema", "check"), "schema check")["differences"] == []


@pytest.mark.faults
def test_version_and_help(run: Run) -> None:
    from claude_sessions_cli import __version__

    assert run("--version").stdout == f"claude-sessions {__version__}\n"
    for argv in (("--help",), ("claim", "-h"), ("schema", "--help"), ("db", "stop", "--help")):
        done = run(*argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: claude-sessions")
    assert run().returncode == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["claim"], "Missing argument"),
        (["claim", "SD-1", "SD-2"], "a session holds one work item at a time"),
        (["claim", ""], "not a work item: ''"),
        (["claim", LONG], r"not a work item: 'xxx.*\.\.\.'.*1 to 256"),
        (["claim", " SD-1"], "not a work item"),
        (["claim", "SD-1\n"], r"not a work item: 'SD-1\\n'"),
        (["claim", "SD\x1b[31m"], r"not a work item: 'SD\\x1b"),
        (["claim", "SD\u202e1"], r"not a work item: 'SD\\u202e1'"),
        (["claim", "SD\udcff"], "argument [23] is not UTF-8"),
        (["claim", "--", "SD\udcff"], "not a work item"),
        (["claim", "SD-1", "--session", ""], "--session is not a session id: ''"),
        (["claim", "SD-1", "--session", LONG], "--session is not a session id: 'xxx.*1 to 128"),
        (["claim", "SD-1", "--session", "a\x07"], r"not a session id: 'a\\x07'"),
        (["claim", "SD-1", "--session", "é"], "not a session id"),
        (["claim", "SD-1", "--session", NIL], "nil UUID"),
        (["claim", "SD-1", "--track", "D"], "--track is not one of A, B, C, STANDALONE: 'D'"),
        (["claim", "SD-1", "--track"], "requires an argument"),
        (["claim", "SD-OTHER", "--force"], "--force needs --reason"),
        (["claim", "SD-OTHER", "--force", "--reason", " "], "--force needs --reason"),
        (["claim", "SD-OTHER", "--reason", "x"], "--reason needs --force"),
        (["claim", "SD-OTHER", "--switch", "--reason", ""], "--reason needs --force"),
        (["claim", "SD-OTHER", "--switch", "--force", "--reason", "\udcff"], "is not UTF-8"),
        (["claim", "SD-1"], "already holds SD-MINE"),
        (["heartbeat", "SD-1"], "unexpected extra argument"),
        (["heartbeat", "--pid", "0"], "--pid"),
        (["heartbeat", "--pid", "x"], "--pid"),
        (["heartbeat", "--pid", "9" * 30], "no such process"),
        (["heartbeat", "--tty", "nowhere"], "--tty is not a terminal"),
        (["heartbeat", "--tty", "/dev/" + LONG], "--tty is not a terminal"),
        (["heartbeat", "--tty", "/dev/pts/1\n"], "--tty is not a terminal"),
        (["release", ""], "not a work item"),
        (["release", "--session", "%"], "--session is not a session id"),
        (["release", "--reason", "\udcff"], "is not UTF-8"),
        (["list", ""], "not a work item"),
        (["list", "--status", "dead"], "--status is not one of active, idle, stale, released: 'dead'"),
        (["list", "--track", "Z"], "--track is not one of"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--limit", "many"], "--limit"),
        (["list", "--limit", "3000000000"], "--limit"),
        (["history", "--limit", "9" * 30], "--limit"),
        (["list", "--host", "x", "--here"], "--host cannot be combined with --here"),
        (["list", "--interval", "5s"], "--interval needs --watch .*add --watch"),
        (["history", "--timeline", "--limit", "5"], "--limit cannot be combined with --timeline"),
        (["install", "claude", "--plugin", "--guard"], "--plugin cannot be combined with --guard"),
        (["install", "claude", "--plugin", "--project"], "--plugin cannot be combined with --project"),
        (["install", "claude", "--plugin", "--remove"], "--plugin cannot be combined with --remove"),
        (["install", "claude", "--remove", "--guard"], "--remove cannot be combined with --guard"),
        (["install", "cron", "--remove", "--here"], "--remove cannot be combined with --here"),
        (["list", "--codebase", "\udcff"], "is not UTF-8"),
        (["reap", "--max-age", "nan"], "--max-age.*not a duration"),
        (["reap", "--max-age", "24"], r"'--max-age': 24 has no unit \(write 24h, 24d, or 24s for seconds\)"),
        (["reap", "--max-age", " 0.5 "], r"0\.5 has no unit \(write 0\.5h"),
        (["reap", "--prune", "30"], r"'--prune': 30 has no unit \(write 30h, 30d"),
        (["reap", "--prune", "0d"], "not a duration"),
        (["reap", "--prune", "d"], "not a duration"),
        (["reap", "--max-age", "1s"], r"--max-age \(1s\) is shorter than stale_after \(900s\) .*--max-age 1d"),
        (["reap", "--max-age", "59m", "--stale-after", "1h"], r"--max-age \(3540s\) is shorter than stale_after"),
        (["reap", "--cascade"], "--cascade is for --prune .*--prune 30d --cascade"),
        (["schema"], "Missing command"),
        (["schema", "aply"], "No such command"),
        (["clami", "SD-1"], "No such command 'clami'"),
        (["\udcff"], "is not UTF-8"),
        (["list", "--alll"], "No such option"),
        (["list", "-x"], "No such option"),
        (["list", "--dsn", ""], "--dsn is empty"),
        (["list", "--dsn", "nonsense"], "the DSN from --dsn cannot be read"),
        (["list", "--dsn", "host=x nonsense=y"], "the DSN from --dsn cannot be read"),
        (["list", "--dsn", "\udcff"], "is not UTF-8"),
    ],
    ids=lambda value: ascii(" ".join(value))[1:40] if isinstance(value, list) else "",
)
def test_wrong_command_line_is_refused(refused: Refused, argv: list[str], message: str) -> None:
    refused(*argv, code=2, message=message, process="\udcff" in argv)


def test_wrong_word_suggests_nearest(inside: Inside) -> None:
    nearest = {
        "clami SD-1": "claim",
        "schema aply": "apply",
        "install crom": "cron",
        "list --alll": "--all",
        "list --trak A": "--track",
        "--versoin": "--version",
        "list --sort hots": "host",
        "list --columns sd,claimd": "claimed",
        "list --track standalon": "STANDALONE",
        "list --status aktive": "active",
        "help exitcodes": "exit-codes",
        "help clami": "claim",
        "completion bsh": "bash",
        "shell-init zhs": "zsh",
        "config get dns": "dsn",
        "config set stale-after 1h": "stale_after",
        "config unset heartbeat": "heartbeat_every",
    }
    for line, word in nearest.items():
        failed(inside(*line.split()), 2, rf"\(did you mean {re.escape(word)}\?\)$")


def test_command_line_without_near_match_names_help(inside: Inside) -> None:
    helps = {
        "": "claude-sessions",
        "xyz": "claude-sessions",
        "--xyz": "claude-sessions",
        "schema": "claude-sessions schema",
        "config xyz": "claude-sessions config",
        "claim": "claude-sessions claim",
        "config set dsn": "claude-sessions config set",
        "release --reason": "claude-sessions release",
        "unpark SD-1": "claude-sessions unpark",
        "list --all=3": "claude-sessions list",
        "list --limit 0": "claude-sessions list",
        "check --fence x": "claude-sessions check",
    }
    for line, command in helps.items():
        error = failed_json(inside("--json", *line.split()), 2, "")
        assert error["hint"].endswith(f": {command} --help"), line
        if line:
            failed(inside(*line.split()), 2, f"{command} --help")


def test_unknown_shell_has_no_completion(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in ("tcsh", None):
        monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)  # noqa: B023
        for option in ("--install-completion", "--show-completion"):
            message = f"no completion for this shell: {shell or 'unknown'} .*claude-sessions completion bash"
            failed(inside(option), 2, message)


def test_completion_option_takes_one_known_shell(inside: Inside) -> None:
    for option in ("--install-completion", "--show-completion"):
        failed(inside(option, "zhs"), 2, rf"^claude-sessions: {option} is not one of bash, zsh, fish: 'zhs' .*zsh\?")
        failed(inside(f"{option}=tcsh"), 2, "not one of bash, zsh, fish: 'tcsh'")
        failed(inside(option, "zsh", "fish"), 2, f"takes one shell .*claude-sessions {option} zsh")


@pytest.mark.parametrize("value", ["-5m", "0", "nan", "1e3", "", "soon", "9" * 20 + "d"])
def test_wrong_duration_is_refused(refused: Refused, value: str) -> None:
    refused("claim", "SD-1", "--stale-after", value, code=2, message="--stale-after.*not a duration")


def test_empty_reason_never_forces_claim(cli: Cli, dsn: str) -> None:
    env = {"CLAUDE_SESSIONS_DSN": dsn}
    cli("claim", "SD-1", "--session", "holder", env=env)
    before = rows(dsn)
    failed(cli("claim", "SD-1", "--session", "b", "--reason", "", env=env), 2, "--reason needs --force")
    assert rows(dsn) == before


@pytest.mark.parametrize(
    ("hint", "argv", "repeated"),
    [
        ("claim it: claude-sessions claim SD", [], "claim it: claude-sessions claim SD"),
        ("a: claude-sessions claim SD; b: claude-sessions list SD", ["--session", "x"],
         "a: claude-sessions claim --session x SD; b: claude-sessions list SD"),
        ("a: claude-sessions release --session y --reason WHY", ["--session=x"],
         "a: claude-sessions release --session y --reason WHY"),
        ("(claude-sessions release)", ["--session", "x"], "(claude-sessions release --session x)"),
        ("create it: claude-sessions schema apply", ["--dsn", "postgresql://u:s3cret@h/d"],
         "create it: claude-sessions schema apply --dsn DSN"),
        ("a: claude-sessions claim SD", ["--dsn=host=x", "--session", "x"],
         "a: claude-sessions claim --session x --dsn DSN SD"),
        ("a: claude-sessions help files", ["--dsn", "host=x"], "a: claude-sessions help files"),
        ("a: claude-sessions claim SD", ["--session", "postgresql://u:s3cret@h/d"], "a: claude-sessions claim SD"),
        ("a: claude-sessions claim SD", ["--session"], "a: claude-sessions claim SD"),
    ],
)  # fmt: skip
def test_hint_repeats_session_and_database(hint: str, argv: list[str], repeated: str) -> None:
    assert options.repeat_in(hint, ["claim", *argv]) == repeated


def test_hint_of_a_named_session_moves_that_session(table: Table, cli: Cli, sleeper: Sleeper) -> None:
    there = make_caller("alice", anchor=process.read(sleeper().pid))
    claim(table.database, there, "SD-1")
    here = ["--session", "alice", "--pid", str(sleeper().pid)]
    refused = cli("heartbeat", *here, env={"CLAUDE_SESSIONS_DSN": table.dsn})
    [line] = re.findall(r"move it here: claude-sessions (.*)\)", refused.stderr)
    assert line == "claim --session alice SD-1 --force --reason WHY"
    moved = cli(*line.split(), "--pid", here[-1], env={"CLAUDE_SESSIONS_DSN": table.dsn})
    assert moved.returncode == 0
    assert table.execute("SELECT session_id, sd_id FROM public.claude_sessions") == [
        {"session_id": "alice", "sd_id": "SD-1"}
    ]
