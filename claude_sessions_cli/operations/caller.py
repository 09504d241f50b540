"""The caller: an identity with its settings, and its judgement of sessions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from claude_sessions_cli.identity import Identity, require
from claude_sessions_cli.liveness import liveness
from claude_sessions_cli.model import Actor, JudgedSession, Session
from claude_sessions_cli.settings import Settings


@dataclass(frozen=True, slots=True)
class Caller:
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

    def judge(self, session: Session) -> JudgedSession:
        """Judge a session, with one look at its process."""
        known = liveness(session, self.identity.host)
        patience, every = self.settings.stale_after, self.settings.heartbeat_every
        mine = session.session_id == self.identity.session_id
        lapsed = session.has_lapsed(known, patience)
        return JudgedSession(
            session, known, lapsed, session.label(known, lapsed, every, mine), session.expires_in_s(patience)
        )

    def columns(self, **own: Any) -> dict[str, Any]:
        """Return the parameters that register or refresh a row; `own` adds to the tool's metadata."""
        return {
            **self.key,
            "tty": self.identity.tty,
            "pid": self.identity.pid,
            "hostname": self.identity.host.hostname,
            "codebase": self.identity.codebase,
            # Not as ASCII: a database in another encoding accepts the character, but not its escape.
            "own": json.dumps({**self.identity.own_metadata(), **own}, ensure_ascii=False),
        }
