"""Draw `demo.svg`, the README's moving picture: what `make demo` prints, line by line, in a terminal that scrolls."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from html import escape
from pathlib import Path

from rich.cells import cell_len

DIRECTORY = Path(__file__).parent
COLUMNS, LINES = 96, 24
# Pixels.
CELL, LINE, MARGIN = 8.4, 19, 16
# Seconds that a line stays before the next: a command is read, its answer looked at.
COMMAND_S, ANSWER_S, LAST_S = 1.4, 0.5, 6.0
GROUND = "#1e222a"


def main() -> None:
    """Play the demo in a terminal, and write the picture."""
    lines = [line for text in _play().splitlines() for line in _wrap(text)]
    (DIRECTORY / "demo.svg").write_text(_draw(lines), encoding="utf-8")


def _play() -> str:
    """Return what the demo prints on a terminal, without colours."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "dumb"}
    with tempfile.TemporaryDirectory() as directory:
        codebase = Path(directory, "shop")
        codebase.mkdir()
        player = subprocess.Popen(
            ["sh", str(DIRECTORY / "demo.sh")],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=codebase,
        )
        os.close(theirs)
        printed = b""
        # Linux reports the end of a terminal as an error.
        with suppress(OSError):
            while read := os.read(ours, 1 << 16):
                printed += read
        os.close(ours)
        if player.wait():
            raise SystemExit("the demo failed")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode())


def _wrap(text: str) -> list[str]:
    """Return a line as a terminal breaks it."""
    text = text.rstrip()
    pieces = [""]
    for character in text:
        if cell_len(pieces[-1] + character) > COLUMNS:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _draw(lines: list[str]) -> str:
    times, moment = [], COMMAND_S
    for line in lines:
        times.append(moment)
        moment += COMMAND_S if _is_command(line) else ANSWER_S if line else COMMAND_S
    period = moment + LAST_S
    width, height = 2 * MARGIN + CELL * COLUMNS, 2 * MARGIN + LINE * LINES

    def animate(values: str, at: list[float], more: str, kind: str = "animate") -> str:
        moments = ";".join(f"{moment / period:.4f}" for moment in at)
        loop = f'dur="{period:.1f}s" calcMode="discrete" repeatCount="indefinite"'
        return f'<{kind} {more} values="{values}" keyTimes="{moments}" {loop}/>'

    texts = [
        f'<text y="{LINE * (number + 1) - 5}" fill="{_colour(line)}" xml:space="preserve">{escape(line)}'
        + animate("0;1", [0, at], 'attributeName="opacity"')
        + "</text>"
        for number, (line, at) in enumerate(zip(lines, times, strict=True))
        if line
    ]
    # Once the screen is full, each line moves the others up.
    moves = [(at, number) for number, at in enumerate(times[LINES:], 1)]
    scroll = animate(
        ";".join(f"0 -{LINE * up}" for up in (0, *(up for _, up in moves))),
        [0, *(at for at, _ in moves)],
        'attributeName="transform" type="translate"',
        "animateTransform",
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" role="img"'
            ' font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14">',
            "<title>make demo: two sessions want the same work item</title>",
            f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>',
            f'<svg x="{MARGIN}" y="{MARGIN}" width="{CELL * COLUMNS:.0f}" height="{LINE * LINES}"><g>{scroll}',
            *texts,
            "</g></svg>",
            "</svg>\n",
        ]
    )


def _is_command(line: str) -> bool:
    return re.match(r"\w*\$ ", line) is not None


def _colour(line: str) -> str:
    if _is_command(line):
        return "#88c0d0"
    if line.startswith(("claude-sessions: SD-", "(exit")):
        return "#ebcb8b"
    return "#8f9aae" if line.startswith(("#", "claude-sessions: ")) else "#d8dee9"


if __name__ == "__main__":
    main()
