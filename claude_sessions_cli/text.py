"""Text that is safe to print, and fits its terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_PASSWORD = re.compile(r"(://[^\s/:@]*:|password\s*=\s*)('[^']*'|\S+(?=@)|\S+)", re.IGNORECASE)


def clean(text: str) -> str:
    """Return text as one line without control characters.

    >>> clean("a\\x1b[31mb\\nc")
    'a[31mb c'
    """
    return "".join(character for character in text.replace("\n", " ") if character.isprintable())


def clean_lines(text: str) -> str:
    """Return lines without control characters."""
    return "".join(clean(line) + "\n" for line in text.splitlines())


def mask_passwords(text: str) -> str:
    """Return text without the passwords of the DSNs in it.

    >>> mask_passwords("no such command 'postgresql://me:secret@host/db'")
    "no such command 'postgresql://me:***@host/db'"
    """
    return _PASSWORD.sub(r"\1***", text)


def cut(line: str, columns: int) -> str:
    """Return a line cut to fit `columns` of a terminal.

    >>> cut("SD-AUTH-001", 8), cut("SD-1", 8), cut("漢字", 3)
    ('SD-AUTH…', 'SD-1', '漢…')
    """
    if width_of(line) <= columns:
        return line
    kept = line
    while kept and width_of(kept) >= columns:
        kept = kept[:-1]
    return kept + "…"


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    >>> width_of("SD-1"), width_of("漢字"), width_of("e\u0301")
    (4, 4, 1)
    """
    if text.isascii():
        return len(text)
    import unicodedata  # late: few texts need it

    def width(character: str) -> int:
        if unicodedata.combining(character):
            return 0
        return 2 if unicodedata.east_asian_width(character) in "WF" else 1

    return sum(map(width, text))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines whose columns are aligned."""
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join("  ".join(map(_pad, row, widths)).rstrip() + "\n" for row in rows)


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - width_of(cell))


def shorten(value: object, limit: int = 60) -> str:
    """Return a wrong value for a message: control characters escaped, the end cut."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def valid_utf8(name: str) -> str:
    """Return a file name as text that a database accepts: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")
