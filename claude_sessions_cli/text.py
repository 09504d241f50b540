"""Text that is safe to print, and fits its terminal."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence

# What stands before a secret in a DSN, as it is written or percent-encoded; in a URL, a port is no secret. A URL that
# was taken for a path has one slash.
_COLON = "(?::|%3A)"
_SCHEME = rf"(?:{_COLON}(?:/|%2F){{2}}|postgres(?:ql)?{_COLON}(?:/|%2F))"
_IN_URL = rf"{_SCHEME}(?:(?!{_COLON})[^\s/\[])*{_COLON}(?!\d{{1,5}}(?:[/?][^\s@]*)?(?:[\s'\"),;.]|$))"
_KEYWORD = r"(?:password|passwd|client_secret|scram_(?:client|server)_key)\s*(?:=|%3D)\s*"
# A quoted value may itself be quoted in an error, with backslashes; an unquoted one may escape blanks.
_VALUE = r"(?:\\*'(?:\\+.|[^'\\])*'?|\\*\"(?:\\+.|[^\"\\])*\"?|(?:\\+.|[^\s\\])+)"
_PASSWORD = rf"(?is)({_IN_URL})(?!\*\*\*)(?:.*(?=@)|[^'\"]+)|({_KEYWORD})(?!\*\*\*){_VALUE}"


def clean(text: str) -> str:
    """Return text as one line: blanks and line ends as spaces, without what a terminal obeys or does not show.

    >>> clean("a\\x1b[31mb\\nc\\u2028d\\u202ee")
    'a[31mb c de'
    """
    if text.isprintable():
        return text
    kept = (" " if character.isspace() else character for character in text)
    return "".join(character for character in kept if character.isprintable())


def mask_passwords(text: str) -> str:
    """Return text without the passwords of the DSNs in it.

    >>> mask_passwords("no such command 'postgresql://me:secret@host/db'")
    "no such command 'postgresql://me:***@host/db'"
    >>> mask_passwords("host=h password='my secret' dbname=d")
    'host=h password=*** dbname=d'
    >>> mask_passwords("no file: /home/me/postgresql:/me:secret@host/db"), mask_passwords("/bin:/usr/bin:/opt")
    ('no file: /home/me/postgresql:/me:***@host/db', '/bin:/usr/bin:/opt')
    """
    # Few texts need the pattern, which takes longer to compile than a command may take to print.
    return re.sub(_PASSWORD, r"\1\2***", text) if ":/" in text or "=" in text or "%3" in text else text


def presentable(text: str) -> str:
    """Return text as a line for a terminal or a log: clean, and without passwords."""
    return mask_passwords(clean(text))


def quote_name(name: str) -> str:
    """Return the name of an object of the database as SQL takes it.

    >>> quote_name('a "b" c')
    '"a ""b"" c"'
    """
    return '"' + name.replace('"', '""') + '"'


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


def wrap(line: str, columns: int, indent: str = "") -> list[str]:
    """Return a line in pieces that fit `columns` of a terminal, all but the first after `indent`; words stay whole.

    >>> wrap("SD-1 is held by bob", 12, "  ")
    ['SD-1 is held', '  by bob']
    """
    first, *words = line.split(" ")
    pieces = [first]
    for word in words:
        if width_of(f"{pieces[-1]} {word}") <= columns:
            pieces[-1] += f" {word}"
        else:
            pieces.append(indent + word)
    return pieces


def hang(line: str, columns: int) -> list[str]:
    """Wrap a line to `columns`; indent the continuation lines to the text after its label.

    >>> hang("mend:  claude-sessions install cron", 32)
    ['mend:  claude-sessions install', '       cron']
    """
    label = re.match(r" *\S.*?  +| *", line)
    indent = len(label[0]) if label else 0
    return wrap(line, columns, " " * (indent if 2 < indent <= columns // 2 else 2))


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


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are aligned as they will be printed."""
    return ["  ".join(row).rstrip() for row in pad(rows)]


def pad(rows: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> list[list[str]]:
    """Return the cells of rows as they will be printed, those of a column as wide as the widest, or of given widths."""
    cells = [[presentable(cell) for cell in row] for row in rows]
    widths = widths or [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    return [list(map(_pad, row, widths)) for row in cells]


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - width_of(cell))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like a wrong one, whatever the case; None if none is like it.

    >>> nearest("clami", ["claim", "list"]), nearest("b", ["A", "B"]), nearest("x", ["claim"])
    ('claim', 'B', None)
    """
    from difflib import get_close_matches  # late: few words are wrong

    names = {name.lower(): name for name in known}
    return next((names[name] for name in get_close_matches(word.lower(), names, 1)), None)


def command_line(verb: str, item: str, options: str = "") -> str:
    """Return the command line that does `verb` with an item, as a shell reads it.

    >>> command_line("claim", "SD-1", "--switch"), command_line("list", "my item"), command_line("list", "-x")
    ('claude-sessions claim SD-1 --switch', "claude-sessions list 'my item'", 'claude-sessions list -- -x')
    """
    # Between the quotes of a shell, a password would no longer be found.
    quoted = shlex.quote(mask_passwords(item))
    words = [verb, options, "--", quoted] if item.startswith("-") else [verb, quoted, options]
    return " ".join(["claude-sessions", *filter(None, words)])


def shorten(value: object, limit: int = 60) -> str:
    """Return a wrong value for a message: control characters escaped, the end cut."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def valid_utf8(name: str) -> str:
    """Return a file name as text that a database accepts: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def labelled(rows: Sequence[tuple[str, str]], columns: int) -> list[str]:
    """Return labels and texts as two columns; what is too long for `columns` goes on below, broken within long words.

    >>> labelled([("timer:", "cron, last ran 5s ago")], 24)
    ['timer:  cron, last ran', '        5s ago']
    """
    indent = max(width_of(label) for label, _ in rows) + 2
    columns = max(columns, 2 * indent)
    return [
        piece
        for label, text in rows
        for piece in wrap(_pad(label, indent) + _broken(presentable(text), columns - indent), columns, " " * indent)
    ]


def _broken(text: str, columns: int) -> str:
    """Return text with a blank wherever a word does not fit a line."""
    words = []
    for word in text.split(" "):
        while width_of(word) > columns:
            length = len(word)
            while width_of(word[:length]) > columns:
                length -= 1
            words.append(word[:length])
            word = word[length:]
        words.append(word)
    return " ".join(words)
