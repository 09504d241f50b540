"""Values of the database that Python's own types do not hold: far times, any text, deep JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.types.json import set_json_loads

from claude_sessions_cli.errors import SchemaMismatch

SEE_WHAT_DIFFERS = "see what differs: claude-sessions schema check"
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
    """Make a connection to a SQL_ASCII database read text that is not UTF-8."""
    for name in ("text", "name", "varchar"):
        connection.adapters.register_loader(name, _AnyText)


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


class _AnyText(Loader):
    """Load text of a SQL_ASCII database, which stores any bytes: bytes that are not UTF-8 are replaced."""

    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "replace")


def _load_json(data: str | bytes) -> Any:
    """Return JSON that Python cannot parse, because of its depth or a number's digits, as text."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
