"""Text fit for a terminal: without what the database may have put there, and no wider than there is room."""

from __future__ import annotations

from collections.abc import Sequence


def clean(text: str) -> str:
    """Return text as one line without control characters.

    >>> clean("a\\x1b[31mb\\nc")
    'a[31mb c'
    """
    return "".join(character for character in text.replace("\n", " ") if character.isprintable())


def clean_lines(text: str) -> str:
    """Return text without control characters other than the ends of its lines."""
    return "".join(clean(line) + "\n" for line in text.splitlines())


def cut(line: str, columns: int) -> str:
    """Return as much of a line as fits into so many columns of a terminal.

    >>> cut("SD-AUTH-001", 8), cut("SD-1", 8), cut("漢字", 3)
    ('SD-AUTH…', 'SD-1', '漢…')
    """
    import unicodedata  # for few commands

    def width(character: str) -> int:
        if unicodedata.combining(character):
            return 0
        return 2 if unicodedata.east_asian_width(character) in "WF" else 1

    widths = [width(character) for character in line]
    if sum(widths) <= columns:
        return line
    kept = 0
    while kept < len(line) and sum(widths[: kept + 1]) < columns:
        kept += 1
    return line[:kept] + "…"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines whose columns stand below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
