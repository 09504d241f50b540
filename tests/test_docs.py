"""The documents are an interface: what they name exists, and what exists is in the reference."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands.answers import SCHEMA
from conftest import Cli
from jsonschema import ValidationError
from typer.main import get_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from claude_sessions_cli import cli as program
from claude_sessions_cli import errors, manual, removal, settings
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.model import Label

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "claude_sessions_cli"
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted(CHECKOUT.glob("docs/*.md"))]
URLS: dict[str, str] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
TIME = re.compile(r"\d{4,}-\d\d-\d\dT\d\d:\d\d")
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "null": type(None),
    "array of string": list,
}
SHARED = re.compile(r"^Shared options: .*$", re.MULTILINE)
Table = list[list[str]]


def _read(path: Path) -> str:
    """Return a document without its code blocks: there, `#` and `|` have another meaning."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _sections(path: Path) -> dict[str, str]:
    """Return a document's text by heading."""
    parts = re.split(r"^#+ (.+)\n", _read(path), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


REFERENCE = _sections(CHECKOUT / "docs" / "reference.md")


def _tables(section: str, head: str) -> list[Table]:
    """Return the rows of a section's tables whose first column is called `head`."""
    tables = re.findall(r"(?:^\|.*\n)+", REFERENCE[section], re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in tables]
    return [table[2:] for table in rows if table[0][0] == head]


def _names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _walk(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from _walk(command, f"{path}{name} ")
        elif not command.hidden:
            yield f"{path}{name}", command


# Commands whose `data` is that of another command.
SAME_DATA = {
    name: found[1]
    for name, text in REFERENCE.items()
    if (found := re.search(r"^Data: as \[(.+)\]\(#", text, re.MULTILINE))
}
ROOT: Any = get_command(program.app)
COMMANDS = dict(_walk(ROOT))


def _options(command: Any) -> dict[str, str | None]:
    """Return a command's options, hidden ones left out, with their help."""
    return {
        name: option.help
        for option in command.params
        if option.param_type_name == "option" and not option.hidden
        for name in (*option.opts, *option.secondary_opts)
    }


def test_reference_lists_each_option_of_each_command() -> None:
    def documented(name: str) -> list[str]:
        own = [option for table in _tables(name, "option") for row in table for option in _names(row[0])]
        return sorted(own + _names("".join(SHARED.findall(REFERENCE[name]))))

    every = {"claude-sessions": ROOT, **COMMANDS}
    assert {name: documented(name) for name in every} == {name: sorted(_options(every[name])) for name in every}


def test_reference_shows_each_argument_of_each_command() -> None:
    for name, command in COMMANDS.items():
        [usage] = re.findall(rf"^`claude-sessions {name}(.*)`$", REFERENCE[name], re.MULTILINE)
        arguments = [argument.metavar for argument in command.params if argument.param_type_name == "argument"]
        assert usage.split() == " ".join(arguments).split(), name


def test_each_command_and_option_has_help() -> None:
    for name, command in COMMANDS.items():
        assert command.help, name
        assert all(_options(command).values()), name


def test_help_shows_each_name_and_code_of_the_reference() -> None:
    shared = [row for table in _tables("Shared options", "option") for row in table]
    variables = {option: _names(row[2]) for row in shared for option in _names(row[0])}
    for name, command in COMMANDS.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            shown = command.get_help(context) + manual.epilog(name)
        used = _names("".join(SHARED.findall(REFERENCE[name])))
        named = [*_options(command), *(variable for option in used for variable in variables[option])]
        assert [word for word in named if not re.search(rf"(?<![\w-]){word}(?![\w-])", shown)] == [], name
        codes = {int(code) for code in re.findall(r"\b[Ee]xits? (\d+)\b", REFERENCE[name])}
        assert codes <= {0, 1, *manual.PAGES[name].codes}, name


def test_reference_explains_each_shared_option() -> None:
    explained = {option for table in _tables("Shared options", "option") for row in table for option in _names(row[0])}
    used = SHARED.findall("\n".join(REFERENCE.values()))
    assert explained == {option for line in used for option in _names(line)}


def test_reference_names_each_environment_variable() -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".bash", ".zsh", ".fish", ".sh")]
    # Not the variable with a leading underscore, by which a shell asks for completions.
    found = {
        name for path in sources for name in re.findall(r"(?<![A-Z_])CLAUDE_(?:[A-Z]+_)*[A-Z]+\b", path.read_text())
    }
    sections = ("Settings", "Identity", "Exported for programs")
    documented = [row[0].strip("`") for section in sections for table in _tables(section, "variable") for row in table]
    assert sorted(documented) == sorted(found)
    assert set(settings.LIBPQ_VARIABLES) <= set(_names(REFERENCE["Other programs' variables"]))


def test_reference_lists_each_exit_code() -> None:
    [table] = _tables("Exit codes", "exit")
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    of_run = {errors.EXIT_TIMED_OUT, errors.EXIT_NOT_EXECUTABLE, errors.EXIT_NOT_FOUND}
    assert {int(row[0]) for row in table} == {0, *known} - of_run
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SessionsError)]
    assert {(row[0], row[1]) for row in table if row[1]} == {(str(kind.exit_code), f"`{kind.code}`") for kind in kinds}
    [own] = _tables("run", "exit")
    assert set(map(str, of_run)) <= {row[0] for row in own}


def test_reference_lists_config_keys_and_defaults() -> None:
    [table] = _tables("config.toml", "key")
    assert [row[0].strip("`") for row in table] == list(settings.KEYS)
    assert [row[1].strip("`") for row in table[1:]] == [settings.DEFAULT_STALE_AFTER, settings.DEFAULT_HEARTBEAT_EVERY]


def test_reference_lists_the_files_that_uninstall_deletes() -> None:
    for head, patterns in (
        ("file in the state directory", removal.STATE),
        ("file in the data directory", removal.DATA),
    ):
        [table] = _tables("Files", head)
        names = [re.sub("<[^>]+>", "16", name).split("/")[0] for row in table for name in _names(row[0])]
        assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
        assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)] == []


def test_reference_lists_states_in_order() -> None:
    [table] = _tables("list", "state")
    assert [row[0].strip("`") for row in table] == [label.value for label in Label]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return the values in an object that are no objects, by dotted names."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part, path)
    else:
        yield path, value


class Checker:
    """Compares JSON with the reference's tables; notes which of them, and which fields of metadata, it has seen."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.used: set[str] = set()
        self.fields: set[str] = set()

    def check(self, value: object, tables: list[Table], where: str) -> None:
        """Compare an object's fields with the table that fits best."""
        assert isinstance(value, dict), where
        documented = [{name: row[1] for row in table for name in _names(row[0])} for table in tables]
        fields = min(documented, key=lambda fields: len(fields.keys() ^ value.keys()))
        self.problems += [f"{where}.{name}" for name in fields.keys() ^ value.keys()]
        for name in fields.keys() & value.keys():
            self._check_type(value[name], fields[name], f"{where}.{name}")

    def _check_type(self, value: object, kind: str, where: str) -> None:
        kinds = kind.split(" or ")
        links = [found for found in (re.search(r"\[(.+)\]\(#", alternative) for alternative in kinds) if found]
        if value is not None and links:
            self.used.add(links[0][1])
            if links[0][1] == "Session":
                self._check_metadata(value if isinstance(value, list) else [value], where)
            items = value if kind.startswith("array of ") and isinstance(value, list) else [value]
            for item in items:
                self.check(item, _tables(links[0][1], "field"), where)
        elif kind != "any" and not any(self._is_a(value, alternative) for alternative in kinds):
            self.problems.append(f"{where} is not {kind}: {value!r}")

    def _check_metadata(self, sessions: list[Any], where: str) -> None:
        [table] = _tables("Metadata", "field")
        kinds = {name: row[1] for row in table for name in _names(row[0])}
        [tombstone] = _tables("Tombstone", "field")
        kinds |= {f"tombstone.{name}": row[1] for row in tombstone for name in _names(row[0])}
        processes = {name: kind for name, kind in kinds.items() if name.startswith("process.")}
        for place in ("run", "moved.process"):
            kinds |= {name.replace("process", place, 1): kind for name, kind in processes.items()}
        for session in sessions:
            for name, value in _leaves((session["metadata"] or {}).get("claude_sessions_cli", {})):
                self.fields.add(name)
                if name not in kinds or not any(self._is_a(value, kind) for kind in kinds[name].split(" or ")):
                    self.problems.append(f"{where}.metadata.{name}: {value!r}")

    def _is_a(self, value: object, kind: str) -> bool:
        return isinstance(value, TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))


def test_json_has_the_fields_of_the_reference(
    cli: Cli,
    inside: Cli,
    dsn: str,
    seed_dsn: str,
    fresh_database: Callable[..., str],
    sleeper: Callable[[], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    checker, called = Checker(), set[str]()
    config = tmp_path / "config.toml"
    config.touch()

    def call(command: str, *argv: str, on: str | None = dsn) -> dict[str, Any]:
        env = {"CLAUDE_SESSIONS_DSN": on, "CLAUDE_SESSIONS_DATA_DIR": str(tmp_path / "data")}
        if command.startswith("config"):
            env["CLAUDE_SESSIONS_CONFIG"] = str(config)
        if command == "uninstall":
            env["HOME"] = str(tmp_path)
        # What may start a server or another command is a process of its own.
        how = cli if on is None or command == "run" else inside
        answer = json.loads(how(*command.split(), "--json", *argv, env=env).stdout)
        assert isinstance(answer, dict)
        SCHEMA.validate(answer)
        described = SAME_DATA.get(command, command)
        called.add(described)
        where = " ".join([command, *argv])
        checker.check(answer, _tables("JSON", "field"), where)
        checker.problems += [
            f"{where}.{name} has no Z: {value}"
            for name, value in _leaves(answer)
            if isinstance(value, str) and TIME.match(value) and not value.endswith("Z")
        ]
        if answer["data"] is not None:
            checker.check(answer["data"], _tables(described, "data"), where)
        return answer

    def run_as_another_program(*statements: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    # Before the account has used another database.
    call("install systemd", "--dry-run", on=None)
    dead = sleeper()
    call("claim", "SD-1", "--session", "alice", "--track", "A")
    assert call("claim", "SD-1", "--session", "bob")["error"]["holder"]["session_id"] == "alice"
    call("claim", "SD-1", "--session", "bob", "--force", "--reason", "urgent")
    assert call("heartbeat", "--session", "alice")["data"]["outcome"] == "lost"
    call("claim", "SD-2", "--session", "alice")
    call("park", "20m", "--session", "alice")
    call("unpark", "--session", "alice")
    call("check", "--session", "alice")
    assert call("check", "SD-1", "--session", "alice")["data"]["holder"]["session_id"] == "bob"
    assert call("claim", "SD-9", "--session", "alice")["error"]["code"] == "holds_another"
    call("claim", "SD-3", "--session", "carol", "--pid", str(dead.pid))
    dead.kill()
    dead.wait()
    assert call("reap", "--dry-run")["data"]["changed"]
    assert call("heartbeat", "--here")["data"]["released"]
    run_as_another_program(
        "CREATE TABLE public.notes (session uuid REFERENCES public.claude_sessions)",
        "INSERT INTO public.claude_sessions (session_id, sd_id, heartbeat_at) VALUES ('bad', 'SD-9', '2026-01-01Z')",
        "ALTER TABLE public.claude_sessions ADD CONSTRAINT good CHECK (session_id <> 'bad') NOT VALID",
    )
    refusing = call("reap", "--prune", "1d")["data"]
    assert refusing["refused"] and refusing["references"]
    run_as_another_program("DROP TABLE public.notes", "ALTER TABLE public.claude_sessions DROP CONSTRAINT good")
    # An earlier version wrote times in another form.
    lost = {"sd_id": "SD-0", "at": "2026-01-01T00:00:00+00:00", "reason": "silent"}
    own = {"parked_until": "2026-01-01T02:00:00+02:00", "tombstone": lost}
    run_as_another_program(
        "INSERT INTO public.claude_sessions (session_id, status, metadata) VALUES ('older', 'idle',"
        f" '{json.dumps({'claude_sessions_cli': own})}')"
    )
    sessions = {session["session_id"]: session for session in call("list")["data"]["sessions"]}
    assert sessions["older"]["metadata"]["claude_sessions_cli"]["parked_until"] == "2026-01-01T00:00:00Z"
    call("run", "SD-4", "--", "true")
    call("release", "--session", "bob")
    call("history", "SD-1")
    call("history", "alice")
    assert call("history", "--timeline")["data"]["items"]
    call("whoami", "--session", "alice", "--pid", str(sleeper().pid))
    assert call("schema apply", on=fresh_database())["data"]["files"][0]["created"]
    assert call("schema check", on=seed_dsn)["data"]["differences"]
    run_as_another_program("GRANT TRIGGER ON public.claude_sessions TO anon")
    assert call("schema check")["data"]["writers"]
    run_as_another_program("REVOKE TRIGGER ON public.claude_sessions FROM anon")
    call("schema describe")
    call("status", "--session", "alice")
    call("doctor")
    call("config get")
    call("config set", "stale_after", "15m")
    call("config path")
    call("install claude", "--dry-run", on=None)
    call("install claude", "--plugin", on=None)
    (tmp_path / ".bashrc").write_text("claude-sessions shell-init\n")
    call("uninstall", "--dry-run", on=None)
    call("version")
    call("db status", on=None)
    call("db stop", on=None)
    call("db dsn", on=None)
    # Without a cluster; embedded/test_upgrade.py compares the data.
    call("db upgrade", on=None)

    call("prompt")
    call("shell-init", "bash")
    call("completion", "zsh")
    call("schema print")
    call("schema json")
    assert call("help", "claim")["data"]["text"].startswith("Usage: claude-sessions claim")

    assert checker.problems == []
    assert {"process.pid", "run.guardian.pid", "term.fence", "tombstone.at", "parked_until"} <= checker.fields
    # Nothing of the reference is left unseen.
    assert checker.used == {section for section in REFERENCE if _tables(section, "field")} - {"JSON", "Metadata"}
    with_json = {name for name, command in COMMANDS.items() if "--json" in _options(command)}
    assert called == {SAME_DATA.get(name, name) for name in with_json}
    # These have the output that Claude Code expects.
    assert COMMANDS.keys() - with_json == {"hook", "statusline"}


def test_json_schema_is_that_of_the_reference(cli: Cli) -> None:
    generate = runpy.run_path(str(CHECKOUT / "docs" / "json_schema.py"))["generate"]
    shown = cli("schema", "json").stdout
    assert shown == generate((CHECKOUT / "docs" / "reference.md").read_text(encoding="utf-8")), "make generated"
    SCHEMA.check_schema(SCHEMA.schema)
    wrong = {"schema_version": 1, "command": "db stop", "ok": True, "data": {"stopped": "yes"}, "error": None}
    with pytest.raises(ValidationError):
        SCHEMA.validate(wrong)


def _slugs(path: Path) -> set[str]:
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _sections(path)}


def _target(document: Path, link: str) -> tuple[Path, str] | None:
    """Return the file and the heading that a link means; None for one that leads out of the project."""
    path, _, anchor = link.partition("#")
    in_repository = re.fullmatch(re.escape(URLS["Repository"]) + "/(?:blob|raw)/main/(.+)", path)
    if in_repository:
        return CHECKOUT / in_repository[1], anchor
    if re.match("https?://", link):
        return None
    return document.parent / path if path else document, anchor


def test_each_link_into_the_project_leads_somewhere() -> None:
    links = [(document, link) for document in DOCUMENTS for link in re.findall(r"\]\(([^)]+)\)", _read(document))]
    urls = [(CHECKOUT / "pyproject.toml", url) for url in URLS.values()]
    for document, link in (*links, *urls):
        if found := _target(document, link):
            target, anchor = found
            assert target.exists(), link
            assert not anchor or anchor in _slugs(target), link


def test_readme_has_absolute_links_for_the_package_index() -> None:
    links = re.findall(r"\]\(([^)]+)\)", _read(CHECKOUT / "README.md"))
    assert [link for link in links if not link.startswith("https://")] == []
    assert sum(link.startswith(URLS["Repository"]) for link in links) > 8


def test_each_promise_names_an_existing_test() -> None:
    text = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
    written = "".join(path.read_text(encoding="utf-8") for path in CHECKOUT.glob("tests/**/test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 30
    assert [name for name in named if not re.search(rf"^def {name}\(", written, re.MULTILINE)] == []
    promises = [
        line for line in text.splitlines() if line.count("|") == 4 and not line.startswith(("| against", "|---"))
    ]
    assert [line for line in promises if "`test_" not in line and "not yet" not in line] == []
    assert len(text.splitlines()) <= 150


def test_readme_is_short_and_shows_how_to_start() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert {"make demo\n", "make test\n"} <= set(blocks)


def test_no_document_installs_the_foreign_package() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"\binstall (?:-\S+ )*'?claude-sessions(?!-cli)\b", text), document.name
