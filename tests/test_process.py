"""Facts of real processes on this host, from /proc and from ps."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from subprocess import Popen

import pytest
from poll import until
from requirements import needs_proc, use_missing_ps
from terminal import Terminal

from claude_sessions_cli import process
from claude_sessions_cli.process import Process


def end(child: Popen[bytes]) -> None:
    child.kill()
    child.wait()


def test_reading_missing_pid_raises_lookup_error() -> None:
    for pid in (0, -1, 2**22 + 1, 2**31 - 1, 10**100):
        with pytest.raises(ProcessLookupError):
            process.read(pid)


def test_lineage_leads_from_this_process_to_pid_1() -> None:
    lineage = process.lineage(os.getpid())
    assert [found.pid for found in lineage[:2]] == [os.getpid(), os.getppid()]
    assert lineage[-1].ppid == 0
    assert [child.ppid for child in lineage[:-1]] == [parent.pid for parent in lineage[1:]]


@pytest.mark.parametrize("name", ["plain", "two words", "a) S 1 (b", "line\nbreak", "dash - "])
@needs_proc
def test_process_with_odd_name_is_read(tmp_path: Path, name: str) -> None:
    sleep = tmp_path / name
    sleep.write_bytes(Path("/bin/sleep").read_bytes())
    sleep.chmod(0o755)
    child = Popen([sleep, "600"])
    try:
        # A program that has just begun shows no arguments for a moment.
        until(lambda: process.read(child.pid).argv, "its arguments")
        found = process.read(child.pid)
        assert (found.name, found.ppid, found.zombie) == (name, os.getpid(), False)
        assert found.argv == (str(sleep), "600")
    finally:
        end(child)


def test_program_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "claude-sessions"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert process.this_program("bin/claude-sessions") == [str(script)]
    [found] = process.this_program("/somewhere/__main__.py")[:1]
    assert Path(found).is_absolute()


# -- ps, which stands in for a missing /proc --------------------------------------------------------------------------


@pytest.fixture
def through_ps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read processes as systems without /proc do."""
    if process._read_ps(os.getpid()) == {}:
        pytest.skip("there is no ps on this system")
    monkeypatch.setattr("claude_sessions_cli.process.source", lambda: process.Source.PS)
    yield


def begun(start: str) -> datetime:
    """Return the time of a start as ps prints it."""
    return datetime.strptime(start, "%a_%b_%d_%H:%M:%S_%Y")


@needs_proc
def test_ps_and_proc_agree_on_process_with_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        proc = process.read(terminal.pid)
        ps = process._read_ps(terminal.pid).get(terminal.pid)
        if ps is None:
            pytest.skip("there is no ps on this system")
        columns = ("pid", "ppid", "tty", "zombie", "name", "argv", "program", "is_interactive_shell")
        assert [getattr(ps, name) for name in columns] == [getattr(proc, name) for name in columns]
        assert ps.tty == terminal.tty
    finally:
        terminal.close()


def test_ps_reports_missing_terminal_and_zombies(through_ps: None) -> None:
    child = Popen(["sleep", "600"], start_new_session=True)
    assert process.read(child.pid).tty is None
    assert not process.read(child.pid).zombie
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    assert process.read(child.pid).name.strip("()") == "sleep"
    child.wait()
    with pytest.raises(ProcessLookupError):
        process.read(child.pid)


def test_start_from_ps_ignores_time_zone_and_locale(through_ps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = process.read(os.getpid()).start
    for zone, locale in [("Asia/Tokyo", "de_DE.UTF-8"), ("America/St_Johns", "C.UTF-8"), ("nonsense", "nonsense")]:
        for name, value in [("TZ", zone), ("LC_ALL", locale), ("LC_TIME", locale), ("COLUMNS", "20")]:
            monkeypatch.setenv(name, value)
        again = process.read(os.getpid()).start
        # Linux's ps computes it anew each time, and may round a second up or down.
        assert abs((begun(again) - begun(plain)).total_seconds()) <= 1


def test_lineage_takes_one_ps_call_with_separate_columns(
    through_ps: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    ps = tmp_path / "ps"
    ps.write_text(f'#!/bin/sh\necho "$*" >>{noted}\nexec ps "$@"\n')
    ps.chmod(0o755)
    monkeypatch.setattr("claude_sessions_cli.process.PS", str(ps))
    lineage = process.lineage(os.getpid())
    assert [found.pid for found in lineage[:2]] == [os.getpid(), os.getppid()]
    [call] = noted.read_text().splitlines()
    # In one argument, the BSDs would take what follows the first = for the header of that column.
    # Without -ww they would cut each line at 79 columns, away from a terminal.
    assert "-ww" in call.split()
    assert "-o pid= -o ppid= -o pgid= -o tty= -o stat= -o lstart= -o ucomm= -o command=" in call


def test_ps_does_not_cut_long_commands(through_ps: None) -> None:
    words = ["x" * 70] * 10
    child = Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])
    try:
        until(lambda: process.read(child.pid).argv[-1:] == (words[-1],), "the whole command")
    finally:
        end(child)


def test_missing_ps_is_a_permission_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_missing_ps(monkeypatch, tmp_path)
    with pytest.raises(PermissionError):
        process.read(os.getpid())
    assert process.lineage(os.getpid()) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  501   500   501 ttys003  Ss   Tue Nov  3 09:05:01 2026     zsh              -zsh",
            Process(501, 500, "/dev/ttys003", "Tue_Nov_3_09:05:01_2026", False, "zsh", ("-zsh",), 501),
        ),
        (
            "    1     0     1 ??       Ss   Mon Nov  2 08:00:00 2026     launchd          /sbin/launchd",
            Process(1, 0, None, "Mon_Nov_2_08:00:00_2026", False, "launchd", ("/sbin/launchd",), 1),
        ),
        (
            "  700   501   700 ttys003  Z+   Tue Nov 24 11:41:11 2026     (sleep)",
            Process(700, 501, "/dev/ttys003", "Tue_Nov_24_11:41:11_2026", True, "(sleep)", (), 700),
        ),
        (
            "  701   501   701 -        I    Tue Nov 24 11:41:11 2026     claude           /A B/claude -c",
            Process(
                701,
                501,
                None,
                "Tue_Nov_24_11:41:11_2026",
                False,
                "claude",
                ("/A", "B/claude", "-c"),
                701,
            ),
        ),
        ("", None),
        ("ps: illegal option -- x", None),
        ("usage: ps [-AaCcEefhjlMmrSTvwXx] [-O fmt | -o fmt] [-G gid[,gid...]]", None),
        ("501 500 ttys003 Ss Tue Nov", None),
    ],
)
def test_ps_lines_of_other_systems_are_parsed(line: str, expected: Process | None) -> None:
    assert process._parse_ps(line) == expected


# -- kinds of programs ------------------------------------------------------------------------------------------------


def program(*argv: str, name: str = "x") -> Process:
    return Process(1, 0, None, "1", False, name, argv)


INTERACTIVE = """
bash
-bash
/bin/zsh -i
-zsh -o vi
bash --rcfile /etc/rc -i
bash --init-file /x/shellIntegration-bash.sh
bash -O extglob
bash +O extglob
bash -C
fish --init-command 'source /x/integration.fish'
fish '--init-command=source x' -i
fish -C 'echo hello'
fish -l -f qmark-noglob
sh -l
sh -s
-ksh93 -o vi
/usr/bin/lksh
yash -i
busybox sh
/bin/busybox ash -l
-csh
bsd-csh
bash-5.2 -i
zsh5-static
python3 /usr/bin/xonsh
/usr/bin/python3.11 -W ignore -u /usr/bin/xonsh --no-rc
python -m xonsh --shell-type prompt_toolkit
"""
NOT_INTERACTIVE = """
ksh93 -c x
yash script
busybox sh -c x
busybox sh script
busybox vi
bsd-csh -c x
python3 /usr/bin/xonsh -c x
python3 -m xonsh script.xsh
python3 -m claude_sessions_cli heartbeat
python3 -c x /usr/bin/xonsh
python3
script -q
tmux
screen
ssh host
sh -c x
bash -lc x
bash -ic x
bash -i -c x
bash script.sh
bash -x script.sh
bash -O extglob script.sh
bash --rcfile /etc/rc script.sh
bash -- script.sh
zsh -f script.zsh
fish --command=x
fish --command x
fish -C 'echo hello' script.fish
python -i
sudo bash
claude
"""


@pytest.mark.parametrize(("lines", "expected"), [(INTERACTIVE, True), (NOT_INTERACTIVE, False)], ids=["yes", "no"])
def test_interactive_shells_are_recognized_by_their_arguments(lines: str, expected: bool) -> None:
    found = {line: program(*shlex.split(line)).is_interactive_shell for line in lines.strip().splitlines()}
    assert found == dict.fromkeys(found, expected)


def test_listed_login_shell_is_interactive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "shells"
    listed.write_text("# /bin/noted\n/opt/bin/shell-of-tomorrow\n/usr/bin/tmux\n/usr/bin/screen\n/usr/bin/sudo\n")
    monkeypatch.setattr("claude_sessions_cli.process.ETC_SHELLS", listed)
    process._listed_shells.cache_clear()
    try:
        for line in ("shell-of-tomorrow", "-shell-of-tomorrow -l"):
            assert program(*line.split()).is_interactive_shell, line
        for line in ("shell-of-tomorrow -c x", "noted", "tmux", "screen", "sudo"):
            assert not program(*line.split(), name=line.split()[0]).is_interactive_shell, line
    finally:
        process._listed_shells.cache_clear()


def test_missing_list_of_login_shells_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("claude_sessions_cli.process.ETC_SHELLS", tmp_path / "missing")
    process._listed_shells.cache_clear()
    try:
        assert [program(name).is_interactive_shell for name in ("bash", "shell-of-tomorrow")] == [True, False]
    finally:
        process._listed_shells.cache_clear()


RELAYS = """
sudo -i
/usr/bin/script -q
expect -f login.exp
tclsh8.6 /usr/bin/unbuffer make
asciinema rec
python3 /usr/bin/asciinema rec
/opt/venv/bin/python /home/a/.local/bin/poetry shell
python -m pipenv shell
python3.12 -Im hatch shell
"""
NOT_RELAYS = """
python3 /x/sudo
python3 terminal.py poetry
python3 -c x poetry
tclsh terminal.tcl
bash /usr/bin/poetry
tmux
ssh host
xterm
"""


@pytest.mark.parametrize(("lines", "expected"), [(RELAYS, True), (NOT_RELAYS, False)], ids=["yes", "no"])
def test_relays_are_recognized_by_their_arguments(lines: str, expected: bool) -> None:
    found = {line: program(*line.split()).relays("/dev/pts/1") for line in lines.strip().splitlines()}
    assert found == dict.fromkeys(found, expected)


def test_login_shell_of_any_name_is_interactive() -> None:
    assert program("-su", name="bash").is_interactive_shell


def test_claude_is_recognized_by_name_or_script() -> None:
    assert program("node", name="claude").is_claude
    lines = [
        "claude",
        "claude.exe -p",
        "/home/a/.local/bin/claude --resume",
        "/home/a/.local/share/claude/versions/2.1.3 --resume",
        "node /usr/lib/node_modules/@anthropic-ai/claude-code/cli.js",
        "node --no-warnings --enable-source-maps /x/@anthropic-ai/claude-code/cli.js -p",
        "/usr/bin/node /usr/local/bin/claude",
        "bun /x/node_modules/@anthropic-ai/claude-agent-sdk/cli.js",
    ]
    assert [line for line in lines if not program(*line.split()).is_claude] == []


def test_program_that_only_mentions_claude_is_not_claude() -> None:
    lines = [
        "claude-sessions claim SD-1",
        "vim claude",
        "python /usr/local/bin/claude",
        "node /home/a/claude-code/server.js",
        "node server.js /usr/local/bin/claude",
        "sh -c claude",
    ]
    found = [program(*line.split(), name=line.split()[0]) for line in lines]
    assert [each.argv for each in found if each.is_claude] == []


@needs_proc
def test_renamed_process_is_read(tmp_path: Path) -> None:
    # It overwrites its arguments with a shorter text, as node does.
    code = "process.title = 'claude'; setInterval(() => {}, 1000)"
    node = subprocess.run(["sh", "-c", "command -v node"], capture_output=True, text=True).stdout.strip()
    if not node:
        pytest.skip("node is not installed")
    child = Popen([node, "-e", code], cwd=tmp_path)
    try:
        until(lambda: process.read(child.pid).program == "claude", "the new name")
        assert process.read(child.pid).is_claude
    finally:
        end(child)
