"""Mend: what makes an object of the schema as shipped, as a statement for the table's owner or as `schema apply`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from claude_sessions_cli.text import quote_name

APPLY = "claude-sessions schema apply"
SESSIONS, EVENTS = "claude_sessions", "claude_session_events"
COLUMN = re.compile(
    r"(?P<type>.*?)(?P<required> NOT NULL)?(?: DEFAULT (?P<default>.*?))?(?P<identity> GENERATED ALWAYS AS IDENTITY)?"
)

# Objects by kind and name, in the catalog's words.
Catalog = Mapping[tuple[str, str], str]


def mend(kind: str, name: str, expected: str, live: Catalog, shipped: Catalog) -> str:
    """Return what mends an object that is missing in `live`, or differs there from `shipped`.

    `schema apply` adds objects, and replaces functions and privileges. It changes no column, constraint, index, policy
    or trigger that is there, and adds no column or constraint to a table that is there.
    """
    found = live.get((kind, name))
    table = EVENTS if name.startswith(EVENTS) else SESSIONS
    if table == EVENTS and not any(place[1].startswith(f"{EVENTS}.") for place in live):
        return APPLY
    alter, plain = f"ALTER TABLE public.{table}", name.removeprefix(f"{EVENTS}.")
    if kind == "column":
        return _mend_column(alter, plain, expected, found, live, shipped)
    if ("constraint", name) in shipped:
        drop = f" DROP CONSTRAINT {name}," if found else ""
        return f"{alter}{drop} ADD CONSTRAINT {name} {shipped['constraint', name]}"
    if kind == "policy":
        return _mend_policy(name, expected, found, live)
    if found and kind == "index":
        return f"DROP INDEX public.{name}; then {APPLY}"
    if found and kind == "trigger":
        enable = f"{alter} ENABLE TRIGGER {name}"
        return enable if found == f"{expected} DISABLED" else f"DROP TRIGGER {name} ON public.{table}; then {APPLY}"
    return APPLY


def hint(mends: Iterable[str | None]) -> str:
    """Return the next step for somebody who sees these mends."""
    if all(text == APPLY for text in mends):
        return f"mend it: {APPLY}"
    return "as the table's owner, run each mend; schema apply changes no column, constraint or index that is there"


def _mend_column(alter: str, name: str, expected: str, found: str | None, live: Catalog, shipped: Catalog) -> str:
    if found is None:
        add = f"{alter} ADD COLUMN {name} {expected}"
        old = _former_name(name, expected, live, shipped)
        return f"{alter} RENAME COLUMN {quote_name(old)} TO {name}; or, if that is another one: {add}" if old else add
    asked, given = COLUMN.fullmatch(expected), COLUMN.fullmatch(found)
    if asked is None or given is None:  # the pattern fits any line
        return APPLY
    steps = {
        "type": f"TYPE {asked['type']} USING {name}::{asked['type']}",
        "required": "SET NOT NULL" if asked["required"] else "DROP NOT NULL",
        "default": f"SET DEFAULT {asked['default']}" if asked["default"] else "DROP DEFAULT",
        "identity": "ADD GENERATED ALWAYS AS IDENTITY" if asked["identity"] else "DROP IDENTITY",
    }
    return f"{alter} " + ", ".join(
        f"ALTER COLUMN {name} {step}" for part, step in steps.items() if asked[part] != given[part]
    )


def _former_name(name: str, definition: str, live: Catalog, shipped: Catalog) -> str | None:
    """Return the column that seems to be `name`, renamed: its index says so, or its own name is alike."""
    others = [
        other
        for kind, other in live
        if kind == "column" and (kind, other) not in shipped and live[kind, other] == definition
    ]
    for place, text in shipped.items():
        for other in others:
            if place in live and live[place] != text and live[place] == re.sub(rf"\b{name}\b", other, text):
                return other
    return next(iter(get_close_matches(name, others, 1)), None)


def _mend_policy(name: str, expected: str, found: str | None, live: Catalog) -> str:
    policy = f"{quote_name(name)} ON public.{SESSIONS}"
    drop = f"DROP POLICY {policy}; then " if found else ""
    # 001 creates its two only on a table without any, and those of optional files have no blanks.
    if " " not in name or not any(kind == "policy" for kind, _ in live):
        return f"{drop}{APPLY}"
    permissive, command, rest = expected.split(" ", 2)
    # It admits everybody without a login.
    instead = f"; or, to do without it: {APPLY} --optional least_privilege" if "anon" in name else ""
    return f"{drop}CREATE POLICY {policy} AS {permissive} FOR {command} {rest}{instead}"
