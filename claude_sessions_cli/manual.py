"""The manual: examples, exit codes and relations of each command, and topics of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# As the help groups them.
SECTIONS = {
    "Claims": ("claim", "release", "list", "status", "history", "whoami", "park", "unpark"),
    "For scripts": ("run", "check", "heartbeat", "reap"),
    "Terminals, agents, timers": ("shell-init", "completion", "prompt", "install", "hook", "statusline"),
    "Set-up and help": ("doctor", "config", "schema", "db", "uninstall", "version", "help"),
}
COMMANDS = tuple(name for names in SECTIONS.values() for name in names)
TOPICS = Path(__file__).with_name("topics")
# Any command that asks the database may exit with these.
_DATABASE = (6, 7, 8)


@dataclass(frozen=True, slots=True)
class Page:
    """What the help of a command adds to its options: examples without the program's name, exit codes, relations."""

    examples: tuple[str, ...] = ()
    codes: tuple[int, ...] = (2,)
    see_also: tuple[str, ...] = ()


PAGES = {
    "claim": Page(
        (
            "claim SD-AUTH-001 --track A",
            "claim SD-1 SD-2 --any --wait 10m",
            "claim SD-1 --force --reason 'bob is away'",
        ),
        (2, 3, 4, 5, *_DATABASE),
        ("release", "run", "list"),
    ),
    "release": Page(
        ("release", "release SD-AUTH-001 --reason completed", "release --session 4f9c2a7e --reason 'host is gone'"),
        (2, 3, 4, 5, *_DATABASE),
        ("claim", "reap"),
    ),
    "list": Page(
        ("list", "list SD-AUTH-001", "list --here --sort -heartbeat", "list --all --limit 20", "list --watch"),
        (2, 5, *_DATABASE),
        ("history", "help states"),
    ),
    "status": Page(("status", "status --json"), (2, *_DATABASE), ("whoami", "doctor")),
    "history": Page(
        ("history SD-AUTH-001", "history --timeline --since 12h", "history --svg day.svg"),
        (2, 4, 5, *_DATABASE),
        ("list",),
    ),
    "whoami": Page(("whoami", "whoami --explain"), (2, 5), ("status", "help identity")),
    "park": Page(("park 20m",), (2, 3, 4, 5, *_DATABASE), ("unpark",)),
    "unpark": Page(("unpark",), (2, 3, 4, 5, *_DATABASE), ("park",)),
    "run": Page(
        ("run SD-AUTH-001 -- make release", "run nightly --wait 10m --timeout 2h -- ./build.sh"),
        (2, 3, 4, 5, *_DATABASE, 124, 126, 127),
        ("claim", "help exit-codes"),
    ),
    "check": Page(("check SD-AUTH-001", "check --fence 1795648454008252 --quiet"), (2, 4, 5, *_DATABASE), ("whoami",)),
    "heartbeat": Page(("heartbeat --register", "heartbeat --here"), (2, 3, 4, 5, *_DATABASE), ("install cron", "park")),
    "reap": Page(
        ("reap --dry-run --explain", "reap --max-age 1d", "reap --prune 30d"), (2, *_DATABASE), ("install cron",)
    ),
    "shell-init": Page(("shell-init bash",), (2,), ("prompt", "completion")),
    "completion": Page(("completion fish",), (2,), ("shell-init",)),
    "prompt": Page(("prompt",), (2,), ("shell-init",)),
    "install claude": Page(("install claude", "install claude --guard", "install claude --remove"), (2,), ("hook",)),
    "install cron": Page(
        ("install cron", "install cron --here", "install cron --remove"), (2, 6), ("reap", "heartbeat")
    ),
    "install systemd": Page(("install systemd",), (2, 6), ("install cron",)),
    "install launchd": Page(("install launchd",), (2, 6), ("install cron",)),
    "hook": Page((), (2,), ("install claude",)),
    "statusline": Page(("statusline",), (2,), ("install claude",)),
    "doctor": Page(("doctor", "doctor --json"), (2, *_DATABASE), ("schema check",)),
    "config get": Page(("config get", "config get dsn"), (2, 6), ("config set",)),
    "config set": Page(("config set stale_after 20m", "config set dsn service=work"), (2,), ("config unset",)),
    "config unset": Page(("config unset dsn",), (2,), ("config set",)),
    "config path": Page(("config path",), (), ("help files",)),
    "schema apply": Page(
        ("schema apply", "schema apply --grant worker"), (2, *_DATABASE), ("schema check", "schema print")
    ),
    "schema check": Page(("schema check",), (2, *_DATABASE), ("schema apply", "doctor")),
    "schema print": Page(("schema print",), (), ("schema apply",)),
    "schema describe": Page(("schema describe",), (2, *_DATABASE), ("schema check",)),
    "schema json": Page(("schema json",), (), ("help json",)),
    "db start": Page(("db start",), (6,), ("db stop",)),
    "db stop": Page(("db stop",), (6,), ("db start",)),
    "db status": Page(("db status",), (6,), ("doctor",)),
    "db dsn": Page(("db dsn",), (6,), ("db status",)),
    "db upgrade": Page(("db upgrade",), (6,), ("db status",)),
    "uninstall": Page(("uninstall --dry-run", "uninstall --data"), (6,), ("install claude",)),
    "version": Page(("version", "version --verbose"), (2,), ("doctor",)),
    "help": Page(("help", "help exit-codes", "help claim"), (2,), ()),
}


def topics() -> list[str]:
    """Return the names of the topics."""
    return sorted(path.stem for path in TOPICS.glob("*.txt"))


def topic(name: str) -> str:
    """Return the text of a topic."""
    return (TOPICS / f"{name}.txt").read_text(encoding="utf-8")


def epilog(command: str) -> str:
    """Return what the help of a command ends with; its paragraphs are not wrapped again."""
    if command not in PAGES:
        return ""
    page = PAGES[command]
    parts = []
    if page.examples:
        parts.append("\b\nExamples:\n" + "\n".join(f"  claude-sessions {example}" for example in page.examples))
    codes = ", ".join(map(str, sorted({0, 1, *page.codes})))
    parts.append(f"\b\nExit codes: {codes}\n  What they mean: claude-sessions help exit-codes")
    if page.see_also:
        parts.append("\b\nSee also: " + ", ".join(f"claude-sessions {other}" for other in page.see_also))
    return "\n\n".join(parts)
