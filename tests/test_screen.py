"""The screen of `list --watch`: marks, keys, the filter, and rows beyond the terminal's height."""

from __future__ import annotations

from rich.text import Text

from claude_sessions_cli.screen import CHANGED_STYLE, Screen
from claude_sessions_cli.table import Layout, Table

HEADS = ("STATE", "SD", "SESSION", "HEARTBEAT")


def _screen(*rows: tuple[str, ...]) -> Screen:
    screen = Screen(Layout(), "list")
    screen.show(_table(*rows), "2 LIVE")
    return screen


def _table(*rows: tuple[str, ...]) -> Table:
    return [HEADS, *rows]


def _marked(drawn: Text) -> list[str]:
    return [drawn.plain[span.start : span.end].strip() for span in drawn.spans if span.style == CHANGED_STYLE]


def test_changed_cells_are_marked_once_and_ages_never() -> None:
    screen = _screen(("LIVE", "SD-1", "a", "1s"), ("LIVE", "-", "b", "2s"))
    assert _marked(screen.draw(80, 24)) == []
    screen.show(_table(("LIVE", "SD-1", "a", "3s"), ("LIVE", "SD-2", "b", "4s"), ("LIVE", "-", "c", "0s")), "3 LIVE")
    assert _marked(screen.draw(80, 24)) == ["SD-2", "LIVE", "-", "c"]
    screen.show(screen.rows, "3 LIVE")
    assert _marked(screen.draw(80, 24)) == []


def test_filter_is_typed_kept_and_cleared() -> None:
    screen = _screen(("LIVE", "SD-1", "a", "1s"), ("LIVE", "SD-QUEUE", "b", "2s"))
    assert not screen.press("/quf\x7feue")  # q is a letter of the filter here
    assert "SD-QUEUE" in (shown := screen.draw(80, 24).plain) and "SD-1" not in shown
    screen.press("\r")
    assert "SD-1" not in screen.draw(80, 24).plain
    screen.press("/\x1b[A")
    screen.press("/")
    screen.press("\x1b")
    assert "SD-1" in screen.draw(80, 24).plain
    assert screen.press("q")


def test_rows_beyond_the_height_are_counted() -> None:
    screen = _screen(*(("LIVE", f"SD-{number}", "a", "1s") for number in range(30)))
    lines = screen.draw(80, 10).plain.splitlines()
    assert len(lines) <= 10
    assert "24 more below; 2 LIVE" in lines


def test_what_is_cut_beside_the_table_ends_in_an_ellipsis() -> None:
    screen = _screen(*(("LIVE", f"SD-{number}", "a", "1s") for number in range(30)))
    first, *_, last = screen.draw(20, 10).plain.splitlines()
    assert first.endswith("…") and last == "24 more below; 2 LI…"


def test_problem_stands_below_the_last_table() -> None:
    screen = _screen(("LIVE", "SD-1", "a", "1s"))
    screen.problem = "gone\x1b[31m"
    assert screen.draw(80, 24).plain.splitlines()[-1] == "gone[31m"
    assert "SD-1" in screen.draw(80, 24).plain
