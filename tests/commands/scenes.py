"""The table as a command finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from conftest import Cli, Sleeper, Table, make_caller

from claude_sessions_cli import process
from claude_sessions_cli.operations import reap
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.park import park

REAP_PAGE = 2
LIVING = 3
OWN = "a-session"
OTHER = "other-session"


@dataclass
class Scene:
    """The table before a command, and what prepares it directly."""

    table: Table
    cli: Cli
    sleeper: Sleeper

    def run(self, *argv: str, session: str = OWN) -> None:
        """Run a command that must succeed."""
        done = self.cli(*argv, env={"CLAUDE_SESSIONS_DSN": self.table.dsn, "CLAUDE_SESSIONS_SESSION_ID": session})
        assert done.returncode == 0, done.stderr

    def claim(self, session: str, sd_id: str = "SD-1", force: bool = False) -> None:
        """Claim an item."""
        claim(self.table.database, make_caller(session), sd_id, force_reason="urgent" if force else None)

    def silence(self, *sessions: str) -> None:
        """Set the last heartbeat of sessions an hour back."""
        back = "UPDATE public.claude_sessions SET heartbeat_at = heartbeat_at - interval '1 hour'"
        self.table.execute(f"{back} WHERE session_id = ANY(%s)", list(sessions))

    def live(self, session: str) -> None:
        """Register a session of a process that lives."""
        caller = make_caller(session, anchor=process.read(self.sleeper().pid))
        heartbeat(self.table.database, caller, register=True)


Prepare = Callable[[Scene], object]


def nothing(scene: Scene) -> None:
    """Leave the table empty."""


def holding(scene: Scene) -> None:
    """Give the item to the session of the command."""
    scene.claim(OWN)


def recorded(scene: Scene) -> None:
    """Give the item to the session of the command by a command, which records its process, if it is seen."""
    scene.run("claim", "SD-1")


def held(scene: Scene) -> None:
    """Give the item to another session, which lives."""
    scene.claim(OTHER)


def lapsed(scene: Scene) -> None:
    """Give the item to another session, which is silent."""
    scene.claim(OTHER)
    scene.silence(OTHER)


def reaped(scene: Scene) -> None:
    """Take the item from the session of the command by its silence."""
    scene.claim(OWN)
    scene.silence(OWN)
    reap.reap(scene.table.database, make_caller("reaper"))


def robbed(scene: Scene) -> None:
    """Take the item from the session of the command by force."""
    scene.claim(OWN)
    scene.claim(OTHER, force=True)


def parked(scene: Scene) -> None:
    """Park the session of the command."""
    scene.claim(OWN)
    park(scene.table.database, make_caller(OWN), 60)


def living(scene: Scene) -> None:
    """Register sessions of live processes."""
    for number in range(LIVING):
        scene.live(f"live-{number}")


def silent(scene: Scene) -> None:
    """Give items to more silent sessions than a small page has."""
    sessions = [f"silent-{number}" for number in range(REAP_PAGE + 1)]
    for number, session in enumerate(sessions):
        scene.claim(session, f"SD-{number}")
    scene.silence(*sessions)


def fresh(scene: Scene) -> None:
    """Give items to more live sessions than a small page has."""
    for number in range(REAP_PAGE + 1):
        scene.claim(f"fresh-{number}", f"SD-{number}")


def ended(scene: Scene) -> None:
    """Insert a session that ended a week ago."""
    week_ago = datetime.now(timezone.utc) - timedelta(days=7)
    times = dict.fromkeys(("heartbeat_at", "created_at", "updated_at"), week_ago)
    scene.table.insert(OTHER, status="released", **times)
