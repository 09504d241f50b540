"""The events of Claude Code: what the client writes to a hook, and what a hook answers to the model."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from claude_sessions_cli.claude_code.stamp import LOST, TWIN
from claude_sessions_cli.errors import HeldByAnother, SessionsError, UsageError
from claude_sessions_cli.model import JudgedSession, Session, Tombstone
from claude_sessions_cli.names import SESSION_ID, check_session_id
from claude_sessions_cli.operations.start import Started
from claude_sessions_cli.operations.tombstones import describe, place_of
from claude_sessions_cli.operations.whoami import Standings
from claude_sessions_cli.text import presentable
from claude_sessions_cli.times import format_age, to_second

# In the order of a conversation; GUARDED are the tools of PreToolUse.
START, END, GUARD = "SessionStart", "SessionEnd", "PreToolUse"
TOLD_AT = ("UserPromptSubmit", "PostToolUse")
BEATS = (*TOLD_AT, "PostToolUseFailure", "Stop", "SubagentStop", "CwdChanged")
# A question waits for its user.
QUESTION = "Notification"
STATUS_LINE = "statusLine"
GUARDED = ("Edit", "Write", "NotebookEdit", "Bash")
# The process goes on under another id.
GOES_ON = ("clear", "resume")
INPUT_LIMIT = 1 << 20
# Of the whole answer, in bytes; of a single text from the database, in characters.
ANSWER_LIMIT = 1024
TEXT_LIMIT = 80
# The client drops what a hook has not read when the hook ends, so a program in the background may get a part only.
CUT_INPUT = re.compile(rb'\{"session_id":"([^"\\]{1,128})",')
# Characters by which one line of a shell does more than run one program.
NOT_PLAIN = re.compile(r"[;&|$`<>()\n\r\0]")
PROGRAM = "claude-sessions"


class BadInput(Exception):
    """The input of a hook is not what the client writes; the text does not quote it."""


@dataclass(frozen=True, slots=True)
class Input:
    """What the hooks use of the client's input. `agent_id` names a sub-agent, which shares the session."""

    session_id: str
    agent_id: str | None = None
    reason: str | None = None
    tool: str | None = None
    command: str | None = None


def read_input(event: str) -> Input:
    """Read standard input, at most 1 MiB of it. Raises BadInput."""
    try:
        if os.isatty(0):
            raise BadInput("stdin is a terminal")
        raw = b""
        while len(raw) <= INPUT_LIMIT and (data := os.read(0, 1 << 16)):
            raw += data
    except OSError as error:
        raise BadInput(f"stdin cannot be read: {error.strerror}") from None
    return parse_input(raw, event)


def parse_input(raw: bytes, event: str) -> Input:
    """Return the input of an event. Raises BadInput if it is malformed, or of another event."""
    if not raw.strip():
        raise BadInput("stdin is empty")
    if len(raw) > INPUT_LIMIT:
        raise BadInput("stdin is larger than 1 MiB")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        cut = CUT_INPUT.match(raw)
        if cut is None or event not in (*BEATS, QUESTION):
            raise BadInput("stdin is not JSON") from None
        found = {"session_id": cut[1].decode(errors="replace"), "hook_event_name": event}
    if not isinstance(found, dict):
        raise BadInput("stdin is not a JSON object")
    if found.get("hook_event_name") != event:
        raise BadInput("stdin is of another event")
    session = found.get("session_id")
    if not isinstance(session, str):
        raise BadInput("stdin names no session_id")
    try:
        check_session_id(session, "session_id")
    except UsageError:
        raise BadInput("the session_id in stdin is malformed") from None
    tool_input = found.get("tool_input")
    command = tool_input.get("command") if isinstance(tool_input, dict) else None
    agent_id, reason, tool = (_word(found.get(name)) for name in ("agent_id", "reason", "tool_name"))
    return Input(session, agent_id, reason, tool, _word(command))


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


# -- what a session should know of itself -----------------------------------------------------------------------------


def started(found: Started, session_id: str, codebase: str | None) -> str:
    """Return the answer to SessionStart: facts for the model, in at most 1 kB, and the title of the window."""
    held = _holding(found)
    title = {"sessionTitle": _short(held.sd_id)} if held and held.sd_id else {}
    first = [_about(found, session_id, held)]
    if found.standings.lost:
        first.append(f"It {_short(describe(found.standings.lost), 3 * TEXT_LIMIT)}.")
    first += [
        f"The same process holds {_short(other.session.sd_id)} as session {other.session.session_id}, which"
        f" claude-sessions release --session {other.session.session_id} gives back."
        for other in found.standings.others[:2]
        if (held is None or other.session.session_id != held.session_id)
        and SESSION_ID.fullmatch(other.session.session_id)
    ]
    usage = (
        "Commands: claude-sessions claim SD (before work on an item), release (after it), check SD (still mine?),"
        " run SD -- COMMAND (hold it for a command), list."
    )
    for number in range(len(found.neighbours), -1, -1):
        lines = [*first, *_neighbour_lines(found.neighbours, number, codebase), usage]
        answer = answer_with("SessionStart", lines, **title)
        if len(answer.encode()) <= ANSWER_LIMIT:
            return answer
    return answer_with("SessionStart", [first[0][: ANSWER_LIMIT // 4], usage])


def _holding(found: Started) -> Session | None:
    """Return the session whose claim the caller acts under."""
    return found.acting.session if found.acting and found.acting.session.holds else None


def _about(found: Started, session_id: str, held: Session | None) -> str:
    if isinstance(found.refusal, HeldByAnother):
        where = place_of(found.refusal.holder.session) if found.refusal.holder else ""
        holds = found.standings.session
        item = f", which holds {_short(holds.session.sd_id)}" if holds and holds.session.holds else ""
        return (
            f"claude-sessions: conversation {session_id} is open in another process{_short(where, 2 * TEXT_LIMIT)}"
            f"{item}. Here it holds nothing, and its claims are refused."
        )
    if found.refusal:
        return f"claude-sessions: {_short(found.refusal.message, 3 * TEXT_LIMIT)}"
    about = f"claude-sessions: this is session {held.session_id if held else session_id}."
    if held is None:
        return f"{about} It holds no work item."
    track = f" (track {held.track})" if held.track else ""
    since = f" since {to_second(held.claimed_at)}" if held.claimed_at else ""
    note = f", note: {_short(held.note)}" if held.note else ""
    return f"{about} It holds {_short(held.sd_id)}{track}{since}{note}."


def _neighbour_lines(found: Sequence[JudgedSession], number: int, codebase: str | None) -> list[str]:
    if codebase is None:
        return []
    if not found:
        return [f"Nobody else holds a work item in {_short(codebase)}."]
    shown = [_neighbour(seen.session) for seen in found[:number]]
    more = [f"{len(found) - number} more"] if number < len(found) else []
    return [f"Held by others in {_short(codebase)}: {'; '.join([*shown, *more])}."]


def _neighbour(session: Session) -> str:
    note = f": {_short(session.note)}" if session.note else ""
    return f"{_short(session.sd_id)} ({_short(session.session_id)}, {format_age(session.claim_age_s)}{note})"


def _short(text: str | None, limit: int = TEXT_LIMIT) -> str:
    cleaned = presentable(text or "-")
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


# -- losses -----------------------------------------------------------------------------------------------------------


def key_of(lost: Tombstone) -> str:
    """Return the name by which a stamp remembers that the model has been told of a loss."""
    return str(lost.fence) if lost.fence is not None else f"-{lost.sd_id.encode().hex()[:32]}"


def loss_text(lost: Tombstone) -> str:
    """Return what the model is told of a loss."""
    return (
        f"claude-sessions: this session {_short(describe(lost), 4 * TEXT_LIMIT)}. Another session may be working on"
        f" that item. Claim it again (claude-sessions claim {_short(lost.sd_id)}),"
        " or acknowledge the loss (claude-sessions release), before going on."
    )


def refusal_text(error: SessionsError) -> str:
    """Return what the model is told if its session is open in another process, or was moved to one."""
    message, hint = _short(error.message, 4 * TEXT_LIMIT), _short(error.hint, 3 * TEXT_LIMIT)
    return f"claude-sessions: {message}. Claims are refused here ({hint})."


def context(event: str, text: str) -> str:
    """Return the answer that adds a text to what the model sees."""
    return answer_with(event, [text])


def answer_with(event: str, lines: Sequence[str], **more: str) -> str:
    """Return one JSON object with lines for the model."""
    return _answer(hookEventName=event, additionalContext="\n".join(map(presentable, lines)), **more)


def _answer(**output: str) -> str:
    return json.dumps({"hookSpecificOutput": output}, ensure_ascii=False, separators=(",", ":"))


# -- the guard --------------------------------------------------------------------------------------------------------


def standing_of(found: Standings) -> tuple[str | None, str]:
    """Return why the session's work is not protected, and what the model can do; None if nothing keeps it from work."""
    if found.is_twin and found.session:
        where = _short(place_of(found.session.session), 2 * TEXT_LIMIT)
        return TWIN, (
            f"claude-sessions: this conversation is open in another process{where}, so nothing is claimed here. Move"
            " the session here: claude-sessions claim SD --force --reason WHY; or stop, and go on there."
        )
    if found.lost and not found.lost.told:
        return LOST, (
            f"claude-sessions: this session {_short(describe(found.lost), 3 * TEXT_LIMIT)}. Claim it again:"
            f" claude-sessions claim {_short(found.lost.sd_id)}; or acknowledge the loss: claude-sessions release; or"
            " stop this work. Run that command alone, without other commands in the same call."
        )
    return None, ""


def denial(reason: str) -> str:
    """Return the answer that keeps the client from a tool call."""
    return _answer(hookEventName=GUARD, permissionDecision="deny", permissionDecisionReason=presentable(reason))


def passes(call: Input, programs: Iterable[str]) -> bool:
    """Whether a tool call passes even if the claim is lost: another tool, or one plain call of this program."""
    if call.tool not in GUARDED:
        return True
    if call.tool != "Bash" or call.command is None or NOT_PLAIN.search(call.command):
        return False
    try:
        words = shlex.split(call.command)
    except ValueError:
        return False
    return bool(words) and words[0] in (PROGRAM, *programs)
