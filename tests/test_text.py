"""Text made safe: passwords masked in every form of a DSN, and lines that stay lines."""

from __future__ import annotations

import doctest
import unicodedata

import pytest

from claude_sessions_cli import text
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.text import align, clean, mask_passwords, presentable, shorten

SECRET = "hunter2secret"
FORMS = [
    f"postgresql://user:{SECRET}@host/database",
    f"postgresql://user:{SECRET}@[::1]:5432/database",
    f"postgresql://user@tenant:{SECRET}@host:5432/database?sslmode=require",
    f"postgresql://:{SECRET}@host",
    f"postgresql://user:{SECRET}",
    f"postgresql://user:p%40{SECRET}%2Fx@host/database",
    f"postgresql://user:two words {SECRET}@host/database",
    f"postgresql://user:12345/{SECRET}@host/database",
    f"postgresql://user:quote'{SECRET}@host/database",
    f"postgresql://one:{SECRET}@a/x postgresql://two:{SECRET}@b/x",
    f"postgresql+asyncpg://user:{SECRET}@host/database",
    f"postgresql%3A%2F%2Fuser%3A{SECRET}%40host%2Fdatabase",
    f"postgresql://host/database?user=u&password={SECRET}&sslpassword={SECRET}",
    f"jdbc:postgresql://host:5432/database?user=u&password={SECRET}",
    f"password={SECRET}",
    f"host=x PASSWORD = {SECRET} dbname=y",
    f"host=x password='{SECRET}' dbname=y",
    f"host=x password='it\\'s {SECRET}' dbname=y",
    f"host=x password='open {SECRET}",
    f'host=x password="two {SECRET}" dbname=y',
    f"host=x password=two\\ {SECRET} dbname=y",
    f"host=x sslpassword={SECRET}",
    f"host=x sslpassword='two {SECRET}'",
    f"host=x oauth_client_secret={SECRET} scram_client_key={SECRET}",
    f"PGPASSWORD={SECRET} psql",
]
WITHOUT = [
    "postgresql://user@host:5432/database",
    "cannot connect to postgresql://host:5432/database: no such host",
    "postgresql://a:5432,b:5433/database",
    "https://example.com:8080/x",
    'password authentication failed for user "me"',
    "a password in ~/.pgpass",
]


def test_examples_of_the_module_hold() -> None:
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("dsn", FORMS)
def test_password_is_masked_in_each_form(dsn: str) -> None:
    for quoting in (str, repr, ascii, shorten, lambda dsn: f"no such command {dsn!r}", lambda dsn: f"{dsn[:40]!r}"):
        masked = mask_passwords(quoting(dsn))
        assert SECRET not in masked and SECRET[:5] not in masked, masked
        assert mask_passwords(masked) == masked


@pytest.mark.parametrize("line", WITHOUT)
def test_text_without_password_stays(line: str) -> None:
    assert mask_passwords(line) == line


@pytest.mark.parametrize("dsn", FORMS)
def test_error_never_holds_a_password(dsn: str) -> None:
    error = SessionsError(f"unforeseen: {dsn}", f"try {dsn}")
    assert SECRET not in f"{error} {error!r} {error.message} {error.hint} {error.args}"


def test_password_split_by_a_control_character_is_masked() -> None:
    assert presentable(f"pass\u200bword={SECRET} ok") == "password=*** ok"


def test_clean_keeps_letters_marks_and_symbols() -> None:
    kept = "SD-1 задача-7 漢字 cafe\u0301 שלום مرحبا 👍🏽 ∑"
    assert clean(kept) == kept
    assert clean("👩\u200d💻") == "👩💻"


def test_clean_removes_what_a_terminal_obeys_or_hides() -> None:
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    raw = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in kinds]
    assert clean("".join(raw)).strip() == ""
    assert clean("a\nb\r\x85c\u2028d\u00a0e") == "a b  c d e"


def test_cells_are_aligned_as_printed() -> None:
    assert align([("A", "B"), ("x\x1b[2J\u200by", "1"), ("z\n", "2")]) == ["A      B", "x[2Jy  1", "z      2"]
