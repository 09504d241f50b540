"""The caller: an identity with its settings, and its judgement of sessions."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from claude_sessions_cli.identity import Identity, require
from claude_sessions_cli.liveness import group_left, is_of_earlier_boot, liveness
from claude_sessions_cli.model import Actor, JudgedSession, Liveness, ProcessRecord, Session
from claude_sessions_cli.settings import Settings


class Standing(Enum):
    """How a caller stands to the row of its session id.

    OWN: the row is of the caller's process, or has ended. UNBOUND: one of the two processes is not known, so the id is
    the authority. MOVABLE: the row is of another process, which is dead, or unknown and silent for too long. TWIN: it
    is of another process that is not proven dead.
    """

    OWN = "own"
    UNBOUND = "unbound"
    MOVABLE = "movable"
    TWIN = "twin"


class Caller(NamedTuple):
    """An identity with its settings. `now` replaces the server's clock in tests."""

    identity: Identity
    settings: Settings
    now: datetime | None = None

    @property
    def session_id(self) -> str:
        """The caller's session id; raises NoIdentity without one."""
        return require(self.identity)

    @property
    def actor(self) -> Actor:
        """Whom the history names: the session, if there is one, and the host."""
        return Actor(self.identity.session_id or "", self.identity.host.hostname)

    @property
    def key(self) -> dict[str, Any]:
        """The parameters that name the caller's row."""
        return {"session_id": self.session_id, "now": self.now}

    @property
    def process(self) -> ProcessRecord | None:
        """The process of this caller, as far as it is known."""
        record = self.identity.known_process
        return ProcessRecord(**record) if record else None

    @property
    def terminal(self) -> dict[str, str]:
        """The parameters that tell this session's terminal from any other, on tables that have columns for it.

        One terminal has several sessions, as those of `run`, so the session itself names it.
        """
        host = self.identity.host
        return {"terminal_id": self.session_id, "machine_id": host.machine_id or host.boot_id or host.hostname}

    def as_session(self, session_id: str) -> Caller:
        """Return this caller under another session id of its process. The row of that id keeps its own `id_from`."""
        return self._replace(identity=self.identity._replace(session_id=session_id, id_from=None))

    def standing(self, session: Session) -> Standing:
        """Return how this caller stands to the row of its session id."""
        bound = self._standing_of_known(session)
        return bound if bound is not None else self._standing_by(session, liveness(session, self.identity.host))

    def _standing_of_known(self, session: Session) -> Standing | None:
        recorded, own = session.recorded_process, self.process
        if session.status == "released" or (recorded and recorded.is_same(own)):
            return Standing.OWN
        return Standing.UNBOUND if session.process is None or own is None else None

    def _standing_by(self, session: Session, known: Liveness) -> Standing:
        if session.has_lapsed(known, self.settings.stale_after) or is_of_earlier_boot(
            session.process, session, self.identity.host
        ):
            return Standing.MOVABLE
        return Standing.TWIN

    def judge(self, session: Session) -> JudgedSession:
        """Judge a session, with one look at its process."""
        known = liveness(session, self.identity.host)
        patience, every = self.settings.stale_after, self.settings.heartbeat_every
        mine = session.session_id == self.identity.session_id and (
            (self._standing_of_known(session) or self._standing_by(session, known)) is not Standing.TWIN
        )
        lapsed = session.has_lapsed(known, patience)
        return JudgedSession(
            session,
            known,
            lapsed,
            session.label(known, lapsed, every, mine),
            session.expires_in_s(patience),
            group_left(session, self.identity.host),
        )

    def columns(self, standing: Standing = Standing.OWN, **own: Any) -> dict[str, Any]:
        """Return the parameters that register or refresh a row; `own` adds to the tool's metadata.

        A row that is not bound to the caller's process keeps its own process and terminal.
        """
        binds = standing is not Standing.UNBOUND
        metadata, process = self.identity.own_metadata(), self.identity.known_process if binds else None
        metadata.pop("process", None)
        if process:
            metadata["process"] = process
        return {
            **self.key,
            "tty": self.identity.tty if binds else None,
            "pid": process["pid"] if process else None,
            "hostname": self.identity.host.hostname,
            "codebase": self.identity.codebase,
            # Not as ASCII: a database in another encoding accepts the character, but not its escape.
            "own": json.dumps({**metadata, "continued_as": None, **own}, ensure_ascii=False),
        }
