"""The query files: each used, each named, each with its header, and safe from planted names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import predicates

from claude_sessions_cli import queries

PACKAGE = Path(queries.__file__).parent
TEXTS = {path.stem: path.read_text() for path in (queries.directory() / "queries").glob("*.sql")}
SOURCE = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
CALLS = r'(?:Statement|queries\.get)\(\s*"(\w+)"'


def _header(name: str) -> str:
    return " ".join(line.removeprefix("--").strip() for line in TEXTS[name].splitlines() if line.startswith("--"))


def test_every_query_file_is_used() -> None:
    assert [name for name in TEXTS if f'"{name}"' not in SOURCE] == []


def test_every_named_query_has_a_file() -> None:
    named = set(re.findall(CALLS, SOURCE))
    assert named
    assert named - set(TEXTS) == set()


def test_every_header_states_parameters_and_returns() -> None:
    assert [name for name in TEXTS if "Parameters: " not in _header(name)] == []
    assert [name for name in TEXTS if name not in queries.FRAGMENTS and "Returns: " not in _header(name)] == []


def test_every_header_names_the_parameters_of_its_query() -> None:
    used = {(name, parameter) for name, text in TEXTS.items() for parameter in re.findall(r"%\((\w+)\)s", text)}
    assert used
    assert [pair for pair in sorted(used) if not re.search(rf"\b{pair[1]}\b", _header(pair[0]))] == []


def test_no_fragment_is_left_in_a_query() -> None:
    assert [name for name in TEXTS if re.search(r"\{[a-z_]+\}", queries.get(name))] == []


# Names that no planted function, operator or table can answer to. The bodies of functions have a fixed search_path.


def _read(path: Path) -> predicates.Source:
    source = predicates.Source(path)
    bodies = [found.span() for found in re.finditer(r"\$function\$.*?\$function\$", source.text, re.DOTALL)]
    kept = [i for i, (at, _) in enumerate(source.places) if not any(start < at < end for start, end in bodies)]
    source.tokens = [source.tokens[i] for i in kept]
    return source


FILES = [*(queries.directory() / "queries").glob("*.sql"), *(queries.directory() / "ddl").rglob("*.sql")]
SOURCES = {path.stem: _read(path).tokens for path in sorted(FILES)}
SCHEMAS = ("pg_catalog", "information_schema", "public")
# What may stand before a parenthesis and is no function.
GRAMMAR = {
    *("ALL", "AND", "ANY", "ARRAY", "AS", "BTREE", "BY", "CASE", "CAST", "CHECK", "COALESCE", "CONFLICT", "ELSE"),
    *("EXCEPT", "EXISTS", "EXTRACT", "FILTER", "FROM", "GREATEST", "HAVING", "IF", "IN", "KEY", "LATERAL", "LEAST"),
    *(
        "NOT",
        "NULLIF",
        "ON",
        "OR",
        "OVER",
        "ROW",
        "SELECT",
        "SET",
        "TABLE",
        "THEN",
        "UNION",
        "UNIQUE",
        "USING",
        "VALUES",
        "WHEN",
    ),
    *("WHERE", "WITH"),
}
# All of them have candidates of other types, or none for the types that an untyped literal would take.
OPERATORS = {"->", "->>", "#>", "#>>", "||", "?", "+", "-", "*", "/", "@"}


def _expect_none(is_one: Callable[[list[str], int], bool]) -> None:
    """Fail with each place that breaks a rule, and the words around it."""
    places = ((name, tokens, i) for name, tokens in SOURCES.items() for i in range(len(tokens)))
    found = [f"{name}: {' '.join(words[max(0, i - 4) : i + 5])}" for name, words, i in places if is_one(words, i)]
    assert not found, "\n".join(found)


def _is_unqualified_call(tokens: list[str], i: int) -> bool:
    if not re.match(r'[A-Za-z_"]', tokens[i]) or tokens[i + 1 : i + 2] != ["("] or tokens[i].upper() in GRAMMAR:
        return False
    before = [""] * 2 + tokens[:i]
    # Column names follow the alias of a row.
    return before[-1] != "AS" and (before[-1] != "." or before[-2] not in SCHEMAS)


def _is_unqualified_table(tokens: list[str], i: int) -> bool:
    word, before = tokens[i], tokens[i - 1] if i else ""
    if word == "FROM":
        is_of_grammar = before in ("DISTINCT", "ROWS") or tokens[i - 3 : i - 1] == ["EXTRACT", "("]
        names_table = not is_of_grammar and "REVOKE" not in _statement(tokens, i)
    elif word == "UPDATE":
        names_table = before not in ("FOR", "DO", "AFTER", "BEFORE", "OR", ",")
    elif word == "ON":
        names_table = bool({"CREATE", "ALTER", "REVOKE", "GRANT"} & set(_statement(tokens, i)))
    else:
        names_table = word in ("JOIN", "TABLE") or (word, before) == ("INTO", "INSERT")
    after = [word for word in tokens[i + 1 : i + 7] if word not in ("IF", "NOT", "EXISTS", "ONLY", "FUNCTION")]
    ctes = {tokens[j] for j in range(len(tokens)) if tokens[j + 1 : j + 4] == ["AS", "(", "SELECT"]}
    ctes |= {"locked", "written"}  # of the fragments that queries provide them to
    return names_table and after[0] not in ("(", "LATERAL", "ROWS", *SCHEMAS, *ctes)


def _statement(tokens: list[str], i: int) -> list[str]:
    """Return the words of a statement up to a place."""
    starts = [j + 1 for j in range(i) if tokens[j] in (";", "BEGIN", "THEN", "LOOP")]
    return tokens[max(starts, default=0) : i]


def _is_untyped_parameter(tokens: list[str], i: int) -> bool:
    # SET takes a value alone.
    return tokens[i].startswith("%(") and tokens[i + 1] != "::" and _statement(tokens, i)[:2] != ["SET", "LOCAL"]


def _is_untyped_literal(tokens: list[str], i: int) -> bool:
    beside = {*tokens[max(0, i - 1) : i], *tokens[i + 1 : i + 2]}
    return tokens[i].startswith("'") and tokens[i + 1 : i + 2] != ["::"] and bool(beside & OPERATORS)


def test_each_function_is_called_with_its_schema() -> None:
    _expect_none(_is_unqualified_call)


def test_each_table_is_named_with_its_schema() -> None:
    _expect_none(_is_unqualified_table)


def test_each_parameter_has_a_type() -> None:
    _expect_none(_is_untyped_parameter)


def test_each_literal_beside_an_operator_has_a_type() -> None:
    _expect_none(_is_untyped_literal)
