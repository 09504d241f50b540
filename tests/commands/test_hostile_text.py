"""Text of other programs that a terminal would obey, or that would begin a line of its own: nothing prints it raw."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Cli, Table
from poll import until
from psycopg import sql

from claude_sessions_cli.liveness import this_host
from commands.answers import Inside, failed, failed_json

# All that Unicode calls a control, a format, a line or a paragraph separator, between letters that stay; NUL is in no
# text of Postgres, and surrogates in no UTF-8. The tags of U+E0000 stand for their kind.
RAW = [chr(code) for code in range(1, 0x11000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")]
RAW += ["\U000e0001", "\U000e0041", "\x1b[2J", "\x1b]0;x\x07", "\r\n2026-01-01T00:00:00Z released forged"]
EVIL = "x" + "e\u0301".join(RAW) + "z"
DEAD = {"pid": 4_000_000, "start": "1", "boot_id": this_host().boot_id, "pid_ns": this_host().pid_ns}


def raw_in(text: str) -> list[str]:
    """Return the characters of a text, beside the ends of its lines, that are not to be printed."""
    return [ascii(character) for character in text if character != "\n" and not character.isprintable()]


def _process(**more: Any) -> dict[str, Any]:
    return {**DEAD, "machine_id": EVIL, **more}


def _own(**more: Any) -> dict[str, Any]:
    """Return the tool's metadata with hostile text in each field."""
    names = ("id_from", "cwd", "branch", "user", "host_os", "cli", "release_reason", "continued_as", "note")
    tombstone = {"sd_id": EVIL, "reason": EVIL, "by": EVIL, "note": EVIL, "fence": 5, "track": EVIL, "at": EVIL}
    moved = {"process": _process(), "fence": 5, "at": "2026-01-01T00:00:00+00:00", "reason": EVIL}
    own = {**dict.fromkeys(names, EVIL), "tombstone": tombstone, "moved": moved, "process": _process(), EVIL: EVIL}
    return {"claude_sessions_cli": {**own, **more}, EVIL: EVIL}


@pytest.fixture
def hostile(full_table: Table) -> Iterator[Table]:
    """Return a table with hostile text in each column, in the metadata, in the history, and in names of the catalog."""
    columns = {"tty": EVIL, "hostname": EVIL, "codebase": EVIL}
    old, host = "2026-01-01", {"hostname": this_host().hostname}
    rows: dict[str, dict[str, Any]] = {
        "held": {"sd_id": "SD-HELD", "status": "active", "claimed_at": "now()", "heartbeat_at": "now()"},
        "held-evil": {"sd_id": EVIL, "status": "active", "claimed_at": "now()", "heartbeat_at": "now()"},
        "silent": {"sd_id": "SD-SILENT", "status": "active", "claimed_at": old, "heartbeat_at": old},
        "silent-evil": {"sd_id": EVIL + "2", "status": "active", "claimed_at": old, "heartbeat_at": old},
        "dead": {"sd_id": EVIL + "3", "status": "active", "pid": DEAD["pid"], **host, "heartbeat_at": "now()"},
        "refused": {"sd_id": EVIL + "4", "status": "active", "claimed_at": old, "heartbeat_at": old},
        "given": {"sd_id": EVIL + "5", "status": "active", "claimed_at": "now()", "heartbeat_at": "now()"},
        "over": {"sd_id": None, "status": "released", "heartbeat_at": old, "updated_at": old, "created_at": old},
    }
    for name, row in rows.items():
        own: dict[str, Any] = {} if name == "dead" else {"process": {}}
        full_table.insert(f"{name}-{EVIL}", metadata=json.dumps(_own(**own)), **{**columns, **row})
    lost = _own(process={}, term=None)
    full_table.insert("lost", status="idle", metadata=json.dumps(lost), **columns)
    mine = _own(process={}, tombstone=None, moved=None)
    full_table.insert(
        "mine", sd_id="SD-MINE", status="active", claimed_at="now()", metadata=json.dumps(mine), **columns
    )
    names = ("hostname", "tty", "codebase", "track", "reason", "note", "actor_host", "actor_program", "actor_role")
    for item, session, actor in (("SD-PAST", EVIL, EVIL), ("SD-PAST", "past", None), (EVIL, "past", EVIL)):
        for event in ("claimed", "unclaimed", "ended"):
            full_table.execute(
                "INSERT INTO public.claude_session_events"
                f" (event, session_id, sd_id, claimed_at, actor_session, {', '.join(names)})"
                f" VALUES (%s, %s, %s, '2026-01-01', %s, {', '.join(['%s'] * len(names))})",
                *(event, session, item, actor),
                *[EVIL] * len(names),
            )
    # A name in the catalog has at most 63 bytes.
    identifiers = [sql.Identifier("n" + "".join(RAW[start : start + 15])) for start in range(0, len(RAW), 15)]
    with psycopg.connect(full_table.dsn, autocommit=True) as connection:
        for identifier in identifiers:
            connection.execute(sql.SQL("ALTER TABLE public.claude_sessions ADD {} text").format(identifier))
            check = "ALTER TABLE public.claude_sessions ADD CONSTRAINT {} CHECK (session_id !~ '^refused') NOT VALID"
            connection.execute(sql.SQL(check).format(identifier))
            connection.execute(
                sql.SQL("CREATE TABLE {} (s text REFERENCES public.claude_sessions (session_id))").format(identifier)
            )
        connection.execute(
            sql.SQL("INSERT INTO {} SELECT session_id FROM public.claude_sessions WHERE status = 'released'").format(
                identifiers[0]
            )
        )
        yield full_table
        for identifier in identifiers:
            connection.execute(sql.SQL("DROP TABLE {}").format(identifier))
            connection.execute(sql.SQL("ALTER TABLE public.claude_sessions DROP COLUMN {}").format(identifier))
            connection.execute(sql.SQL("ALTER TABLE public.claude_sessions DROP CONSTRAINT {}").format(identifier))


# Each command line, and the exit codes that show it has come to the hostile text. Those that change rows come last.
COMMANDS: dict[str, int] = {
    "list": 0,
    "list --all": 0,
    "list SD-HELD": 0,
    "claim SD-HELD": 3,
    "claim --any SD-HELD": 3,
    "claim SD-HELD --wait 1s": 3,
    "run SD-HELD -- true": 3,
    "claim SD-1 --session mine": 2,
    "release --session held": 2,
    "release --session he": 2,
    "release SD-HELD": 4,
    "check SD-HELD": 4,
    "check --session lost": 4,
    "check --session mine": 0,
    "heartbeat --session lost": 4,
    "heartbeat --session mine": 0,
    "park 5m --session lost": 4,
    "park 5m --session mine": 0,
    "whoami --session lost": 0,
    "whoami --session mine --explain": 0,
    "history SD-PAST": 0,
    "history past": 0,
    "history mine": 0,
    "schema check": 0,
    "reap --dry-run --explain": 0,
    "reap --prune 1d --cascade --dry-run": 0,
    "claim SD-SILENT --session other": 0,
    "release --session lost": 0,
    "claim SD-1 --session lost": 0,
    "release --session give --reason test": 0,
    "heartbeat --here": 0,
    "reap --prune 1d": 7,
}


def _env(table: Table) -> dict[str, str]:
    return {"CLAUDE_SESSIONS_DSN": table.dsn, "CLAUDE_SESSIONS_SESSION_ID": "a"}


@pytest.mark.faults
def test_commands_print_nothing_raw(hostile: Table, inside: Inside) -> None:
    for words, code in COMMANDS.items():
        done = inside(*words.split(), env=_env(hostile))
        assert done.returncode == code, (words, done.stdout, done.stderr)
        printed = done.stdout + done.stderr
        assert printed and raw_in(printed) == [], words
        assert not re.search(r"^2026-\S+ released forged", printed, re.MULTILINE), words


@pytest.mark.faults
def test_json_of_commands_is_ascii(hostile: Table, inside: Inside) -> None:
    for words, code in COMMANDS.items():
        before, dashes, command = words.partition(" -- ")
        done = inside(*before.split(), "--json", *(dashes + command).split(), env=_env(hostile))
        assert (done.returncode, done.stderr) == (code, ""), (words, done.stdout, done.stderr)
        assert done.stdout.isascii() and raw_in(done.stdout) == [] and done.stdout.count("\n") == 1, words
        assert json.loads(done.stdout)


@pytest.mark.parametrize("option", [[], ["--log"]], ids=["printed", "in its log"])
def test_upkeep_logs_nothing_raw(hostile: Table, cli: Cli, option: list[str], tmp_path: Path) -> None:
    done = cli("upkeep", *option, env={**_env(hostile), "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path)})
    log = (tmp_path / "upkeep.log").read_text() if option else done.stdout + done.stderr
    assert done.returncode == 7 and raw_in(log) == []
    lines = [line.partition("Z ")[2].split(" ")[:2] for line in log.splitlines()]
    assert sorted(word for word, _ in lines) == ["refused", *["released"], *["stale"] * 2], log
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in log.splitlines())
    stamp = (tmp_path / "upkeep.json").read_text()
    assert stamp.isascii() and raw_in(stamp) == []


def test_table_on_a_terminal_shows_nothing_raw(hostile: Table, tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    env = {**os.environ, **_env(hostile), "COLUMNS": "5000", "TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "claude_sessions_cli", "list", "--all"],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        start_new_session=True,
    ) as child:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # Linux ends a terminal's output with an error
            while read := os.read(reader, 1 << 16):
                shown += read
        os.close(reader)
    assert child.returncode == 0
    text = shown.decode().replace("\r\n", "\n")
    assert "SD-HELD" in text and raw_in(text) == []


def test_error_of_a_trigger_is_one_clean_line(full_table: Table, inside: Inside) -> None:
    body = sql.SQL("BEGIN RAISE {} USING HINT = {}; END").format(sql.Literal(EVIL.replace("%", "")), sql.Literal(EVIL))
    full_table.execute(
        sql.SQL("CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql AS {}")
        .format(sql.Literal(body.as_string(full_table.connection)))
        .as_string(full_table.connection)
    )
    full_table.execute(
        "CREATE TRIGGER evil BEFORE INSERT ON public.claude_sessions FOR EACH ROW EXECUTE FUNCTION public.evil()"
    )
    try:
        failed(inside("claim", "SD-1", env=_env(full_table)), 8, "a trigger of the table refused it: x")
        error = failed_json(inside("claim", "SD-1", "--json", env=_env(full_table)), 8, "refused it: x")
    finally:
        full_table.execute("DROP FUNCTION public.evil CASCADE")
    assert raw_in(error["message"]), "JSON has it whole, escaped"


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["claim", EVIL], {}),
        (["claim", "SD-1", "--session", EVIL], {}),
        (["claim", "SD-1", "--tty", EVIL], {}),
        (["claim", "SD-1", "--wait", EVIL], {}),
        (["claim", "SD-1", "--track", EVIL], {}),
        (["list", "--status", EVIL], {}),
        (["list", "--limit", EVIL], {}),
        (["list", f"--{EVIL}"], {}),
        (["run", "SD-1", "--", EVIL], {}),
        (["history", EVIL], {}),
        (["shell-init", EVIL], {}),
        (["schema", EVIL], {}),
        ([EVIL], {}),
        (["schema", "apply", "--grant", EVIL], {}),
        (["schema", "apply", "--optional", EVIL], {}),
        (["claim", "SD-1"], {"CLAUDE_SESSIONS_SESSION_ID": EVIL}),
        (["claim", "SD-1"], {"CLAUDE_SESSIONS_STALE_AFTER": EVIL}),
        (["list"], {"CLAUDE_SESSIONS_CONFIG": f"/nowhere/{EVIL}"}),
        (["list"], {"CLAUDE_SESSIONS_DSN": f"host='/nowhere/{EVIL[:40]}'"}),
        (["list"], {"CLAUDE_SESSIONS_DSN": EVIL}),
        (["whoami", "--explain"], {"CLAUDE_SESSIONS_SHELL": EVIL, "CLAUDE_SESSIONS_ANCHOR": EVIL, "CLAUDE_PID": EVIL}),
    ],
    ids=lambda value: " ".join(value).replace(EVIL, "EVIL").encode("ascii", "replace").decode()[:40],
)
def test_bad_word_or_variable_is_printed_clean(
    full_table: Table, inside: Inside, argv: list[str], env: dict[str, str]
) -> None:
    done = inside(*argv, env={**_env(full_table), **env})
    printed = done.stdout + done.stderr
    assert done.returncode not in (0, 1) or argv[0] == "whoami", done
    assert printed and raw_in(printed) == []


def test_hook_answers_and_logs_nothing_raw(full_table: Table, cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "code\u202e\nbase"
    place.mkdir()
    for name in ("one", "two"):
        full_table.insert(
            name + EVIL[:60], sd_id=EVIL[:60] + name, status="active", claimed_at="now()", heartbeat_at="now()",
            codebase=place.name, metadata=json.dumps(_own(process={})),
        )  # fmt: skip
    lost = "3b41b9a2-0000-4000-8000-000000000001"
    full_table.insert(lost, status="idle", metadata=json.dumps(_own(process={}, term=None, moved=None)))
    given = json.dumps({"session_id": lost, "hook_event_name": "SessionStart"})
    env = {**_env(full_table), "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path), "CLAUDE_PID": str(os.getpid())}
    env["CLAUDE_SESSIONS_SESSION_ID"] = lost

    def answer() -> subprocess.CompletedProcess[str] | None:
        done = cli("hook", "SessionStart", input=given, env=env, cwd=place, stdin=None)
        assert (done.returncode, done.stderr) == (0, "")
        # On a busy machine it gives up.
        return done if done.stdout else None

    done = until(answer, "an answer")
    assert raw_in(done.stdout) == []
    context = json.loads(done.stdout)["hookSpecificOutput"]["additionalContext"]
    assert "It lost x" in context and "Held by others" in context and raw_in(context) == []
    nowhere = {**env, "CLAUDE_SESSIONS_DSN": f"host='/nowhere/{EVIL[:40]}'"}
    assert cli("hook", "SessionStart", input=given, env=nowhere, stdin=None).stdout == ""
    log = [line for line in (tmp_path / "hook.log").read_text().splitlines() if "no answer within" not in line]
    assert len(log) == 1 and "cannot connect" in log[0] and raw_in(log[0]) == []


def test_completion_offers_nothing_raw(hostile: Table, cli: Cli) -> None:
    words = {"COMP_WORDS": "claude-sessions history ", "COMP_CWORD": "2", "_CLAUDE_SESSIONS_COMPLETE": "complete_bash"}
    done = cli(env={**_env(hostile), **words, "CLAUDE_SESSIONS_COMPLETION_TIME": "30s"})
    assert {"SD-HELD", "SD-PAST", "mine", "lost"} <= set(done.stdout.split())
    assert raw_in(done.stdout + done.stderr) == []
