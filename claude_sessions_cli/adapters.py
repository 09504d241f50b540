"""Values of the database that Python's own types do not hold: far times, any text, deep JSON."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.types.json import set_json_loads

from claude_sessions_cli.errors import SchemaMismatch

SEE_WHAT_DIFFERS = "see what differs: claude-sessions schema check"
# Beginnings of names of encodings, which Python spells in another way.
_CODECS = {"WIN": "cp", "KOI8": "koi8_"}
ZONELESS = {psycopg.postgres.types[name].oid for name in ("timestamp", "date")}


def register(connection: psycopg.Connection[Any]) -> None:
    """Make a connection read the times and JSON of any program."""
    connection.adapters.register_loader("timestamptz", _AnyTimestamp)
    connection.adapters.register_dumper(_FarTime, _FarTimeDumper)
    set_json_loads(_load_json, connection)


def require_zones(columns: Sequence[psycopg.Column]) -> None:
    """Raise SchemaMismatch if a column has times without a zone, whether or not a row has one."""
    if any(column.type_code in ZONELESS for column in columns):
        raise SchemaMismatch("the table has a time without time zone", SEE_WHAT_DIFFERS)


def accept_any_text(connection: psycopg.Connection[Any]) -> None:
    """Make a connection to a SQL_ASCII database read any bytes as text, and write the same bytes back."""
    for name in ("text", "name", "varchar"):
        connection.adapters.register_loader(name, _AnyText)
    for kind in (str, _OddText):
        connection.adapters.register_dumper(kind, _AnyTextDumper)


def fit(text: str, connection: psycopg.Connection[Any]) -> str:
    """Return text with a question mark for each character that the database's encoding lacks."""
    encoding = (connection.info.parameter_status("server_encoding") or "UTF8").upper()
    if text.isascii() or encoding in ("UTF8", "SQL_ASCII"):
        return text
    try:
        codec = codecs.lookup(re.sub("^WIN", "cp", encoding).replace("KOI8", "KOI8_")).name
    except LookupError:  # EUC_TW
        codec = "ascii"
    return text.encode(codec, "replace").decode(codec)


def is_storable(text: str, encoding: str | None) -> bool:
    """Whether a database of this encoding, by its name in Postgres, can hold a text; SQL_ASCII holds any.

    >>> is_storable("caf\\u00e9", "LATIN1"), is_storable("cafe\\u0301", "LATIN1")
    (True, False)
    """
    if encoding in ("UTF8", "SQL_ASCII") or text.isascii():
        return True
    try:
        text.encode(re.sub(r"^(WIN|KOI8)(?=\w)", lambda found: _CODECS[found[1]], encoding or ""))
    except (LookupError, UnicodeEncodeError):
        return False
    return True


class _FarTime(datetime):
    """A time outside Python's datetime, such as infinity: the nearest datetime, and the original text."""

    text: bytes


class _AnyTimestamp(Loader):
    """Load a time as transactions read it: in ISO style and in UTC.

    psycopg's own loader goes by the style and zone of the connection, which are the database's again after a COMMIT in
    the same message.
    """

    def load(self, data: Any) -> datetime:
        text = bytes(data)
        moment, _, fraction = text.decode("ascii").removesuffix("+00").partition(".")
        try:
            whole = datetime.fromisoformat(moment)
            return whole.replace(microsecond=int(fraction.ljust(6, "0")), tzinfo=timezone.utc)
        except ValueError:
            end = datetime.min if text.startswith(b"-") or text.endswith(b"BC") else datetime.max
            far = _FarTime.combine(end.date(), end.time(), timezone.utc)
            far.text = text
            return far


class _FarTimeDumper(Dumper):
    """Write the original text, so that a row is found by its time again."""

    oid = psycopg.postgres.types["timestamptz"].oid

    def dump(self, obj: _FarTime) -> bytes:
        return obj.text


class _OddText(str):
    """Text whose bytes are not UTF-8: with replacement characters, and the original bytes."""

    __slots__ = ("data",)
    data: bytes


class _AnyText(Loader):
    """Load text of a SQL_ASCII database, which stores any bytes."""

    def load(self, data: Any) -> str:
        original = bytes(data)
        try:
            return original.decode()
        except UnicodeDecodeError:
            text = _OddText(original.decode(errors="replace"))
            text.data = original
            return text


class _AnyTextDumper(Dumper):
    """Write the original bytes, so that a row is found by its text again."""

    def dump(self, obj: str) -> bytes:
        if "\0" in obj:
            raise psycopg.DataError("a text of Postgres holds no NUL")
        return obj.data if isinstance(obj, _OddText) else obj.encode()


def _load_json(data: str | bytes) -> Any:
    """Return JSON that Python cannot parse, because of its depth or a number's digits, as text."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
