"""Bounded fuzz of the command line, the environment, the configuration, state files and metadata.

Whatever stands there: no traceback, no exit 1, no password of a DSN, and nothing that a terminal would obey.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands.answers import Inside, apply_schema
from commands.test_hostile_text import EVIL, raw_in
from conftest import Server
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some
from hypothesis.strategies import DrawFn
from typer.main import get_command

from claude_sessions_cli import cli, process
from claude_sessions_cli.claude_code import events
from claude_sessions_cli.liveness import this_host

pytestmark = pytest.mark.faults

SECRET = "hunter2secret"
# Nothing listens on port 1, and there is no such directory: each attempt to connect fails at once.
DSNS = [
    f"postgresql://user:{SECRET}@127.0.0.1:1/database",
    f"postgresql://user:p%40{SECRET}@127.0.0.1:1/database?sslmode=disable",
    f"postgresql://user:p@{SECRET}@127.0.0.1:1/database",
    f"postgresql://user:two {SECRET}@127.0.0.1:1/database",
    f"postgresql://user:1/{SECRET}@127.0.0.1:1/database",
    f"postgresql://127.0.0.1:1/database?password={SECRET}&sslpassword={SECRET}",
    f"postgresql+asyncpg://user:{SECRET}@127.0.0.1:1/database",
    f"DATABASE_URL=postgresql://user:{SECRET}@127.0.0.1:1/database",
    f"host=/nowhere user=user password={SECRET}",
    f"host=/nowhere user=user password='two {SECRET}' sslpassword={SECRET}",
    f"host=/nowhere password='open {SECRET}",
    f"host=/nowhere password={SECRET} nonsense=1",
]
WORDS = [
    "SD-1",
    "SD-2",
    "a",
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "9" * 30,
    "1e400",
    "nan",
    "0.01s",
    "1d",
    "%s",
    "{}",
    "~",
]
WORDS += [
    "../..",
    "/",
    "/dev/null",
    "/dev/full",
    "\udcff",
    "é" * 200,
    "x" * 5000,
    "[red]x[/red]",
    "😀",
    "env:HOME",
    EVIL,
]
LOCALE = "".join(map(chr, [0x202E, 0x2028, 0x85, 0x1B, 0x200B, 0x61C]))
anything = some.one_of(
    some.sampled_from([*WORDS, *DSNS]),
    some.text(max_size=30).filter(lambda text: "\0" not in text),
    some.text(alphabet=f"SD-1 '\"=:@/%\\{LOCALE}", max_size=30),
)
# They would replace this process, wait, end it, or change more than a table.
LEFT_OUT = {"statusline", "hook", "install cron", "install systemd", "install launchd", "db start", "db stop"}
UNUSED_OPTIONS = {"--watch", "--within", "--log", "--help", "--wait", "--timeout", "--install-completion"}
UNUSED_OPTIONS |= {"--show-completion", "--interval"}
VARIABLES = [
    *("CLAUDE_SESSIONS_SESSION_ID", "CLAUDE_SESSIONS_ANCHOR", "CLAUDE_SESSIONS_SHELL", "CLAUDE_SESSIONS_STALE_AFTER"),
    *("CLAUDE_SESSIONS_HEARTBEAT_EVERY", "CLAUDE_SESSIONS_SD", "CLAUDE_SESSIONS_FENCE", "CLAUDE_SESSIONS_CONFIG"),
    *("CLAUDE_SESSIONS_STATE_DIR", "CLAUDE_SESSIONS_DEBUG", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID", "CLAUDECODE"),
    *("PGAPPNAME", "PGCONNECT_TIMEOUT", "PGOPTIONS", "PGPASSWORD", "PGSSLMODE", "PGTZ", "PGCLIENTENCODING"),
    *("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "SUDO_UID", "COLUMNS", "TERM", "NO_COLOR", "TZ", "LANG"),
    *("TMUX", "STY", "CODEX_THREAD_ID", "TERM_SESSION_ID", "USER", "LOGNAME", "GIT_DIR"),
]
# Those that name a file or a directory.
PATHS = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "CLAUDE_SESSIONS_CONFIG", "CLAUDE_SESSIONS_STATE_DIR")


def _commands() -> dict[str, Any]:
    root = get_command(cli.app)
    found = {name: root.get_command(None, name) for name in cli.COMMANDS}  # type: ignore[attr-defined]
    for group in cli.GROUPS:
        members = found.pop(group)
        found |= {f"{group} {name}": members.get_command(None, name) for name in members.list_commands(None)}
    return {name: command for name, command in found.items() if name not in LEFT_OUT}


COMMANDS = _commands()


@some.composite
def command_lines(draw: DrawFn) -> list[str]:
    """Draw a command with some of its options, and values that may be anything."""
    name = draw(some.sampled_from(sorted(COMMANDS)))
    words: list[str] = []
    for parameter in COMMANDS[name].params:
        options = [option for option in parameter.opts if option not in UNUSED_OPTIONS]
        if parameter.param_type_name == "argument":
            words += draw(some.lists(anything, min_size=0, max_size=2)) if draw(some.integers(0, 3)) else ["SD-1"]
        elif options and draw(some.integers(0, 3)) == 0:
            words += [options[0]] if parameter.is_flag else [options[0], draw(anything)]
    if draw(some.integers(0, 9)) == 0:
        words.insert(draw(some.integers(0, len(words))), draw(anything))
    if name == "run":
        return [
            "run",
            *(word for word in words if word != "--"),
            "--",
            draw(some.sampled_from(["/nowhere/x", *DSNS, EVIL])),
        ]
    # A plan changes no file of this machine.
    return [*name.split(), *words, *(["--dry-run"] if name.startswith("install") else [])]


environments = some.dictionaries(some.sampled_from(VARIABLES), anything, max_size=3)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what commands write below the test's directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[str]:
    """Return the DSN of a database of this module, with the whole schema."""
    dsn = apply_schema(server.create("cs_fuzz"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO public.claude_sessions (session_id, sd_id, claimed_at) VALUES ('b', 'SD-2', now())"
        )
    yield dsn
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute('DROP DATABASE "cs_fuzz" WITH (FORCE)')


def _below(value: str) -> str:
    """Return a path that is as odd as `value`, and leads nowhere else than below the test's directory."""
    return value if Path(value).is_relative_to(Path.cwd()) else f"{Path.cwd()}/x/{value.replace('..', '.')}"


def _run(inside: Inside, place: str, argv: list[str], env: dict[str, str]) -> None:
    """Run a command line, and check what no input may cause."""
    usable = {name: _below(value) if name in PATHS else value for name, value in env.items() if "\0" not in value}
    done = inside(*argv, env={"CLAUDE_SESSIONS_DSN": place, "CLAUDE_SESSIONS_SESSION_ID": "a", **usable})
    about = (argv, usable, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert done.returncode in (0, 2, 3, 4, 5, 6, 7, 8, 126, 127), about
    assert "Traceback" not in done.stderr, about
    printed = done.stdout + done.stderr
    # A result as JSON holds what somebody stored; an error holds no password in either form.
    if "--json" in argv and done.stdout.startswith("{"):
        assert printed.isascii(), about
        printed = json.dumps({**json.loads(done.stdout)["error"], "holder": None} if done.returncode else "")
    assert SECRET not in printed and raw_in(printed) == [], about


def bounded(number: int) -> settings:
    """Return the settings of a test that runs the same `number` of examples each time."""
    return settings(
        max_examples=number, derandomize=True, database=None, deadline=None, print_blob=False,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip


@bounded(1000)
@example(argv=["history", "SD-1", "--limit", "9" * 30], env={})
@example(argv=["upkeep"], env={"CLAUDE_SESSIONS_STATE_DIR": f"file/password={SECRET}"})
@given(argv=command_lines(), env=some.just({}) | environments)
def test_command_line_and_environment(inside: Inside, place: str, argv: list[str], env: dict[str, str]) -> None:
    _run(inside, place, argv, env)


@bounded(150)
@given(words=some.lists(anything, max_size=4))
def test_fuzzed_words_never_crash_the_command_line(inside: Inside, place: str, words: list[str]) -> None:
    if words[:1] not in (["--"], [""]):
        _run(inside, place, words, {})


toml_values = some.one_of(
    anything.map(json.dumps), some.integers().map(str), some.booleans().map(lambda value: str(value).lower()),
    some.sampled_from(["[]", "{}", "nan", "1979-05-27", "'''x", '"' , *[json.dumps(dsn) for dsn in DSNS]]),
)  # fmt: skip
toml_lines = some.builds(
    lambda key, value: f"{key} = {value}",
    some.sampled_from(["dsn", "stale_after", "heartbeat_every", "[table]\nx", "nonsense", '"\\u202e"']),
    toml_values,
)
configurations = some.one_of(
    some.lists(toml_lines, max_size=4).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass")),
    some.binary(max_size=60),
)


@bounded(150)
@given(content=configurations, argv=some.sampled_from([["list"], ["claim", "SD-1", "--json"], ["whoami"], ["upkeep"]]))
def test_fuzzed_configuration_never_crashes_a_command(
    inside: Inside, place: str, tmp_path: Path, content: bytes, argv: list[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content)
    _run(inside, place, argv, {"CLAUDE_SESSIONS_CONFIG": str(config)})


STATE = ["held", "lost", "idle", "-", "0", "1700000000", "SD-1", "a", "x:y", "9" * 25, "\udcff", EVIL]
contents = some.one_of(
    some.binary(max_size=80),
    some.lists(some.sampled_from(STATE), max_size=9).map(lambda words: " ".join(words).encode(errors="surrogatepass")),
)


@bounded(150)
@given(content=contents, stamp=contents, argv=some.sampled_from(["prompt", "whoami", "heartbeat", "list", "upkeep"]))
def test_fuzzed_state_files_never_crash_a_command(
    inside: Inside, place: str, tmp_path: Path, content: bytes, stamp: bytes, argv: str
) -> None:
    own = process.read(os.getpid())
    for directory in (tmp_path / "terminals", tmp_path / "agents"):
        directory.mkdir(mode=0o700, exist_ok=True)
    for name in (f"terminals/{own.pid}-{own.start}", f"agents/{own.pid}.-", "upkeep.json", "upkeep.lock"):
        (tmp_path / name).write_bytes(content if name.startswith("terminals") else stamp)
    pid = ["--pid", str(own.pid)] if argv in ("prompt", "heartbeat", "whoami") else []
    env = {"CLAUDE_SESSIONS_STATE_DIR": str(tmp_path), "CLAUDE_PID": str(own.pid)}
    _run(inside, place, [argv, *pid], env)


scalars = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False, allow_infinity=False),
    some.sampled_from(["SD-1", "a", "2026-01-01T00:00:00+00:00", "infinity", "released", EVIL, *DSNS]),
    some.text(max_size=20).filter(lambda text: "\0" not in text and text.isprintable()),
)  # fmt: skip
values = some.recursive(
    scalars,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "process": ("pid", "start", "boot_id", "pid_ns", "machine_id"),
    "run": ("pid", "start", "guardian"),
    "tombstone": ("sd_id", "fence", "at", "reason", "by", "note", "new_fence", "told", "track"),
    "term": ("sd_id", "fence"),
    "moved": ("process", "fence", "at", "reason"),
}
own_metadata = some.fixed_dictionaries(
    {},
    optional={
        **{name: some.dictionaries(some.sampled_from(keys), values) | values for name, keys in FIELDS.items()},
        **dict.fromkeys(("note", "stale_after", "parked_until", "continued_as", "cwd", "branch", "id_from"), values),
    },
)
texts = some.one_of(
    some.none(), some.sampled_from(["", EVIL, *DSNS, this_host().hostname]), some.text("a\x1b\u202e\n", max_size=6)
)
rows = some.fixed_dictionaries(
    {
        "status": some.sampled_from(["active", "idle", "stale", "released", None]),
        "sd_id": some.sampled_from(["SD-1", EVIL, None]),
    },
    optional={
        "track": some.sampled_from(["A", None]),
        "tty": texts,
        "hostname": texts,
        "codebase": texts,
        "pid": some.sampled_from([None, os.getpid(), 1, -1, 2**31 - 1]),
        "claimed_at": some.sampled_from(["now", "infinity", "-infinity", "2026-01-01", "0044-03-15 12:00 BC", None]),
        "heartbeat_at": some.sampled_from(["now", "infinity", "2026-01-01", "200000-01-01", None]),
    },
)
ON_ROWS = [
    *(["list", "--all"], ["claim", "SD-1"], ["check", "SD-1"], ["heartbeat", "--session", "row"], ["upkeep"]),
    *(["whoami", "--session", "row"], ["park", "5m", "--session", "row"], ["reap", "--explain"], ["history", "row"]),
    *(
        ["release", "--session", "row", "--reason", "x"],
        ["claim", "SD-1", "--force", "--reason", "x", "--session", "row"],
    ),
    *(["heartbeat", "--here"], ["list", "--json"]),
]


@bounded(120)
@given(row=rows, own=own_metadata | values, argvs=some.lists(some.sampled_from(ON_ROWS), min_size=2, max_size=4))
def test_fuzzed_rows_never_crash_a_command(
    inside: Inside, place: str, row: dict[str, Any], own: Any, argvs: list[list[str]]
) -> None:
    columns = {"session_id": "row", **row, "metadata": json.dumps({"claude_sessions_cli": own, EVIL: own})}
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("DELETE FROM public.claude_sessions WHERE session_id IN ('row', 'a')")
        try:
            insert = f"INSERT INTO public.claude_sessions ({names}) VALUES ({marks})"
            connection.execute(insert, [*columns.values()])
        except (psycopg.errors.UniqueViolation, psycopg.errors.InvalidTextRepresentation):
            return  # another row holds the item, or a number is beyond Postgres'
    for argv in argvs:
        _run(inside, place, argv, {})


@bounded(400)
@given(
    raw=some.one_of(
        some.binary(max_size=80),
        some.dictionaries(
            some.sampled_from(["session_id", "hook_event_name", "agent_id", "reason", "tool_name", "tool_input"]),
            some.one_of(values, some.sampled_from([*events.BEATS, events.START, events.GUARD])),
        ).map(lambda found: json.dumps(found).encode()),
    ),
    event=some.sampled_from([*events.BEATS, events.START, events.END, events.GUARD, events.QUESTION]),
)
def test_input_of_hooks(raw: bytes, event: str) -> None:
    try:
        found = events.parse_input(raw, event)
        events.passes(found, [])
    except events.BadInput as error:
        assert SECRET not in str(error) and raw_in(str(error)) == []
