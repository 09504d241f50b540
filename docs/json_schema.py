"""Write the JSON Schema of all answers, which `schema json` prints, from the tables of reference.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).with_name("reference.md")
SCHEMA = Path(__file__).parents[1] / "claude_sessions_cli" / "answers.schema.json"
TYPES = ("string", "integer", "number", "boolean", "object", "null")


def generate(reference: str) -> str:
    """Return the schema as text."""
    sections = _sections(reference)
    commands = {name: tables for name, text in sections.items() if (tables := _tables(text, "data"))}
    same = re.compile(r"^Data: as \[(.+)\]\(#", re.MULTILINE)
    for name, text in sections.items():
        if found := same.search(text):
            commands[name] = commands[found[1]]
    definitions = {
        name: _nested(tables[0]) if name == "Metadata" else _any([_object(table) for table in tables])
        for name, text in sections.items()
        if name != "JSON" and (tables := _tables(text, "field"))
    }
    [envelope] = _tables(sections["JSON"], "field")
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The answers of claude-sessions --json",
        **_object(envelope),
        "allOf": [
            {
                "if": {"properties": {"command": {"const": name}}},
                "then": {"properties": {"data": _any([*map(_object, tables), {"type": "null"}])}},
            }
            for name, tables in sorted(commands.items())
        ],
        "$defs": definitions,
    }
    return json.dumps(schema, indent=1) + "\n"


def _sections(reference: str) -> dict[str, str]:
    text = re.sub(r"^```.*?^```$", "", reference, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^#+ (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _tables(section: str, head: str) -> list[list[list[str]]]:
    """Return the rows of a section's tables whose first column is called `head`."""
    found = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    tables = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]
    return [table[2:] for table in tables if table[0][0] == head]


def _object(rows: list[list[str]]) -> dict[str, Any]:
    fields = {
        name: {**_type(kind), "description": _plain(meaning)}
        for names, kind, meaning in rows
        for name in re.findall("`([^`]+)`", names)
    }
    return {"type": "object", "properties": fields, "required": sorted(fields)}


def _nested(rows: list[list[str]]) -> dict[str, Any]:
    """Return an object whose fields may be missing; a dotted name is a field of a field."""
    top: dict[str, Any] = {"type": "object", "properties": {}}
    for names, kind, meaning in rows:
        for name in re.findall("`([^`]+)`", names):
            *parents, last = name.split(".")
            place = top
            for parent in parents:
                place = place["properties"].setdefault(parent, {"type": "object"})
                place.setdefault("properties", {})
            place["properties"][last] = {**_type(kind), "description": _plain(meaning)}
    return top


def _type(kind: str) -> dict[str, Any]:
    return _any([_alternative(one) for one in kind.split(" or ")] if kind != "any" else [{}])


def _alternative(kind: str) -> dict[str, Any]:
    if kind.startswith("array of "):
        return {"type": "array", "items": _alternative(kind.removeprefix("array of "))}
    if link := re.fullmatch(r"\[(.+)\]\(#.+\)", kind):
        return {"$ref": f"#/$defs/{link[1].replace(' ', '%20')}"}
    assert kind in TYPES, kind
    return {"type": kind}


def _any(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    unique = [schema for i, schema in enumerate(schemas) if schema not in schemas[:i]]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _plain(text: str) -> str:
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).replace("`", "")


if __name__ == "__main__":
    SCHEMA.write_text(generate(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
