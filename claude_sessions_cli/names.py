"""The names of work items and sessions."""

from __future__ import annotations

import re
from typing import Literal

from claude_sessions_cli.errors import UsageError
from claude_sessions_cli.text import shorten

SD_ID_LIMIT = 256
NOTE_LIMIT = 200
SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
# A random id is known by its beginning: a UUID by 8 digits, a derived id by its hash.
RANDOM_ID = re.compile(r"[0-9a-f]{8}(?=-[0-9a-f]{4}-)|session_[0-9a-f]{8}(?=_)", re.IGNORECASE)
_WHOLE_ID = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|session_[0-9a-f]{8}_[a-z0-9]+_[0-9]+", re.IGNORECASE
)
_SHORT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f-]{0,26})?|session_[0-9a-f]{8}(?:_[a-z0-9]*)?", re.IGNORECASE)
NIL_UUID = "00000000-0000-0000-0000-000000000000"


def check_work_item(value: str) -> str:
    """Return a well-formed work item as it was typed, or raise UsageError."""
    if not _is_printable(nfc(value)) or value != value.strip():
        raise UsageError(
            f"not a work item: {shorten(value)}",
            f"write 1 to {SD_ID_LIMIT} printable characters without blanks around them, such as SD-AUTH-001",
        )
    return value


def check_session_id(value: str, source: str) -> str:
    """Return a well-formed session id, or raise UsageError that names the source."""
    if value.replace("-", "") == NIL_UUID.replace("-", ""):
        raise UsageError(f"{source} is the nil UUID, not a session id", "name the session by an id of its own")
    if not SESSION_ID.fullmatch(value):
        raise UsageError(
            f"{source} is not a session id: {shorten(value)}",
            "write 1 to 128 of A-Z a-z 0-9 . _ : - and begin with a letter or digit",
        )
    return value


def is_random(value: str) -> bool:
    """Whether a session id is random: a UUID, or one derived from the anchor.

    >>> is_random("session_1a2b3c4d_pts3_4711"), is_random("20261126-1417-2"), is_random("worker-1")
    (True, False, False)
    """
    return _WHOLE_ID.fullmatch(value) is not None


def is_short(value: str) -> bool:
    """Whether a session id looks like the beginning of a random one, as `list` shows it.

    >>> is_short("4f9c2a7e"), is_short("session_1a2b3c4d"), is_short("worker-1")
    (True, True, False)
    """
    return _SHORT_ID.fullmatch(value) is not None


def check_name(value: str) -> str:
    """Return a well-formed name of an item, or of a session of any program, or raise UsageError."""
    if not _is_printable(value):
        raise UsageError(
            f"not the name of a work item or a session: {shorten(value)}",
            f"write 1 to {SD_ID_LIMIT} printable characters",
        )
    return value


def check_note(value: str) -> str:
    """Return a well-formed note on a claim, or raise UsageError."""
    if not value.strip() or len(value) > NOTE_LIMIT or not value.isprintable():
        raise UsageError(f"not a note: {shorten(value)}", f"write one line of 1 to {NOTE_LIMIT} printable characters")
    return value.strip()


def nfc(item: str) -> str:
    """Return the form in which an item is stored and locked.

    >>> nfc("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return _normalize("NFC", item)


def forms(item: str) -> list[str]:
    """Return the forms in which rows may name an item: as it was typed, NFC and NFD.

    >>> forms("SD-1")
    ['SD-1']
    """
    return list(dict.fromkeys((item, nfc(item), _normalize("NFD", item))))


def _normalize(form: Literal["NFC", "NFD"], item: str) -> str:
    if item.isascii():
        return item
    import unicodedata  # late: few names need it

    return unicodedata.normalize(form, item)


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two names are forms of one item; None is equal to None alone.

    >>> is_same("caf\\u00e9", "cafe\\u0301"), is_same("SD-1", "sd-1"), is_same("SD-1", None)
    (True, False, False)
    """
    if one is None or other is None:
        return one is other
    return one == other or nfc(one) == nfc(other)


def _is_printable(value: str) -> bool:
    return 0 < len(value) <= SD_ID_LIMIT and value.isprintable()
