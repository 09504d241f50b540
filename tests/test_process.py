"""Processes and their liveness, with real processes on this host; other hosts are rows that say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from probe import row_of, session, session_of
from terminal import Terminal
from waiting import until

from claude_sessions_cli import process
from claude_sessions_cli.model import METADATA_KEY, Liveness
from claude_sessions_cli.process import Host, Process

Sleeper = Callable[[], "Popen[bytes]"]
on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc on this system")


def judge(row: dict[str, Any], host: Host | None = None) -> Liveness:
    return process.liveness(session_of(row), host or process.this_host())


def ended(child: Popen[bytes]) -> None:
    child.kill()
    child.wait()


def test_running_process_is_alive(sleeper: Sleeper) -> None:
    assert judge(row_of(sleeper().pid)) is Liveness.ALIVE


def test_stopped_process_is_alive(sleeper: Sleeper) -> None:
    child = sleeper()
    row = row_of(child.pid)
    child.send_signal(signal.SIGSTOP)
    assert judge(row) is Liveness.ALIVE


def test_ended_process_is_dead(sleeper: Sleeper) -> None:
    child = sleeper()
    row = row_of(child.pid)
    ended(child)
    assert judge(row) is Liveness.DEAD


def test_reused_pid_is_dead(sleeper: Sleeper) -> None:
    earlier, later = sleeper(), sleeper()
    start = until(lambda: other_start(earlier.pid, later.pid), "two starts that differ")
    assert judge(row_of(later.pid, start=start)) is Liveness.DEAD


def other_start(earlier: int, later: int) -> str | None:
    """Return a start that is not that of `later`: pid 1's, where both began in one tick."""
    starts = [process.read(pid).start for pid in (earlier, 1)]
    return next((start for start in starts if start != process.read(later).start), None)


def test_zombie_is_dead(sleeper: Sleeper) -> None:
    child = sleeper()
    row = row_of(child.pid)
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    assert process.read(child.pid).start == row["start"]
    assert judge(row) is Liveness.DEAD
    child.wait()


@on_linux
def test_process_whose_first_thread_ended_is_alive() -> None:
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"
    child = Popen([sys.executable, "-c", f"{code}; ctypes.CDLL(None).pthread_exit(None)"])
    try:
        stat = Path(f"/proc/{child.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "the first thread to end")
        assert judge(row_of(child.pid)) is Liveness.ALIVE
    finally:
        ended(child)


@pytest.mark.parametrize("other", [{"boot_id": "another"}, {"pid_ns": "pid:[1]"}], ids=["boot", "pid namespace"])
def test_other_boot_or_namespace_is_unknown(sleeper: Sleeper, other: dict[str, str]) -> None:
    child = sleeper()
    row = row_of(child.pid, **other)
    assert judge(row) is Liveness.UNKNOWN
    ended(child)
    assert judge(row) is Liveness.UNKNOWN


def test_renamed_host_proves_life_but_not_death(sleeper: Sleeper) -> None:
    child = sleeper()
    row = row_of(child.pid, hostname="as-it-was-called-before")
    assert judge(row) is Liveness.ALIVE
    assert judge({**row, "start": process.read(1).start}) is Liveness.UNKNOWN
    child.kill()
    until(lambda: process.read(child.pid).zombie, "the process to become a zombie")
    assert judge(row) is Liveness.UNKNOWN
    child.wait()
    assert judge(row) is Liveness.UNKNOWN


@pytest.mark.parametrize("host", [Host("h", "", "pid:[1]"), Host("h", "boot", "")], ids=["boot", "namespace"])
def test_host_without_boot_id_or_namespace_proves_nothing(host: Host) -> None:
    row = row_of(os.getpid(), hostname="h", boot_id=host.boot_id, pid_ns=host.pid_ns)
    assert judge(row, host) is Liveness.UNKNOWN
    assert judge({**row, "pid": 2**22 + 1}, host) is Liveness.UNKNOWN


def _record(**changes: Any) -> dict[str, Any]:
    record = {name: value for name, value in row_of(os.getpid()).items() if name != "hostname"}
    return {**record, **changes}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        "text",
        {},
        {METADATA_KEY: None},
        {METADATA_KEY: []},
        {METADATA_KEY: {"process": None}},
        {METADATA_KEY: {"process": "123"}},
        {METADATA_KEY: {"process": {}}},
    ],
    ids=repr,
)
def test_row_without_process_record_is_unknown(metadata: Any) -> None:
    here = process.this_host()
    assert process.liveness(session(os.getpid(), here.hostname, metadata), here) is Liveness.UNKNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"start": None},
        {"start": 5},
        {"start": ""},
        {"start": "soon"},
        {"start": "Tue_Nov_24_11:41:11_2026"},
        {"boot_id": None},
        {"pid_ns": 4026531836},
        {"pid": "1"},
        {"pid": 1},
    ],
    ids=repr,
)
@on_linux
def test_malformed_or_mismatched_record_is_unknown(changes: dict[str, Any]) -> None:
    here = process.this_host()
    row = session(os.getpid(), here.hostname, {METADATA_KEY: {"process": _record(**changes)}})
    assert process.liveness(row, here) is Liveness.UNKNOWN


@pytest.mark.parametrize("pid", [None, 0, -1, -(2**31)])
def test_impossible_pid_is_unknown(pid: int | None) -> None:
    here = process.this_host()
    row = session(pid, here.hostname, {METADATA_KEY: {"process": _record(pid=pid)}})
    assert process.liveness(row, here) is Liveness.UNKNOWN


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31 - 1, 10**100])
def test_reading_missing_pid_raises_lookup_error(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        process.read(pid)


def test_lineage_leads_from_this_process_to_pid_1() -> None:
    lineage = process.lineage(os.getpid())
    assert [found.pid for found in lineage[:2]] == [os.getpid(), os.getppid()]
    assert lineage[-1].ppid == 0
    assert [child.ppid for child in lineage[:-1]] == [parent.pid for parent in lineage[1:]]
    assert process.ancestors(os.getpid()) == lineage[1:]


@pytest.mark.parametrize("name", ["plain", "two words", "a) S 1 (b", "line\nbreak", "dash - "])
@on_linux
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
        ended(child)


# -- ps, which stands in where there is no /proc -----------------------------------------------------------------------


@pytest.fixture
def through_ps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read processes as systems without /proc do."""
    if process._read_ps(os.getpid()) == {}:
        pytest.skip("there is no ps on this system")
    monkeypatch.setattr(process, "_source", lambda: process._Source.PS)
    yield


def begun(start: str) -> datetime:
    """Return the time of a start that ps told."""
    return datetime.strptime(start, "%a_%b_%d_%H:%M:%S_%Y")


@on_linux
def test_ps_and_proc_agree_on_process_with_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        proc = process.read(terminal.pid)
        ps = process._read_ps(terminal.pid).get(terminal.pid)
        if ps is None:
            pytest.skip("there is no ps on this system")
        told = ("pid", "ppid", "tty", "zombie", "name", "argv", "program", "is_interactive_shell")
        assert [getattr(ps, name) for name in told] == [getattr(proc, name) for name in told]
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
    monkeypatch.setattr(process, "PS", str(ps))
    lineage = process.lineage(os.getpid())
    assert [found.pid for found in lineage[:2]] == [os.getpid(), os.getppid()]
    [call] = noted.read_text().splitlines()
    # In one argument, the BSDs would take what follows the first = for the header of that column.
    # Without -ww they would cut each line at 79 columns, away from a terminal.
    assert "-ww" in call.split()
    assert "-o pid= -o ppid= -o tty= -o stat= -o lstart= -o ucomm= -o command=" in call


def test_ps_does_not_cut_long_commands(through_ps: None) -> None:
    words = ["x" * 70] * 10
    child = Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])
    try:
        until(lambda: process.read(child.pid).argv[-1:] == (words[-1],), "the whole command")
    finally:
        ended(child)


def test_missing_ps_proves_nothing(monkeypatch: pytest.MonkeyPatch, sleeper: Sleeper) -> None:
    child = sleeper()
    row = row_of(child.pid)
    monkeypatch.setattr(process, "_source", lambda: process._Source.PS)
    monkeypatch.setattr(process, "PS", "/nonexistent/ps")
    with pytest.raises(PermissionError):
        process.read(child.pid)
    assert judge(row) is Liveness.UNKNOWN
    assert process.lineage(os.getpid()) == []
    ended(child)
    assert judge(row) is Liveness.DEAD


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  501   500 ttys003  Ss   Tue Nov  3 09:05:01 2026     zsh              -zsh",
            Process(501, 500, "/dev/ttys003", "Tue_Nov_3_09:05:01_2026", False, "zsh", ("-zsh",)),
        ),
        (
            "    1     0 ??       Ss   Mon Nov  2 08:00:00 2026     launchd          /sbin/launchd",
            Process(1, 0, None, "Mon_Nov_2_08:00:00_2026", False, "launchd", ("/sbin/launchd",)),
        ),
        (
            "  700   501 ttys003  Z+   Tue Nov 24 11:41:11 2026     (sleep)",
            Process(700, 501, "/dev/ttys003", "Tue_Nov_24_11:41:11_2026", True, "(sleep)"),
        ),
        (
            "  701   501 -        I    Tue Nov 24 11:41:11 2026     claude           /Users/A B/.local/bin/claude -c",
            Process(
                701,
                501,
                None,
                "Tue_Nov_24_11:41:11_2026",
                False,
                "claude",
                ("/Users/A", "B/.local/bin/claude", "-c"),
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


# -- what kind of program a process is ---------------------------------------------------------------------------------


def program(*argv: str, name: str = "x") -> Process:
    return Process(1, 0, None, "1", False, name, argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("bash",),
        ("-bash",),
        ("/bin/zsh", "-i"),
        ("-zsh", "-o", "vi"),
        ("bash", "--rcfile", "/etc/rc", "-i"),
        ("bash", "--init-file", "/x/shellIntegration-bash.sh"),
        ("bash", "-O", "extglob"),
        ("bash", "+O", "extglob"),
        ("bash", "-C"),
        ("fish", "--init-command", "source /x/integration.fish"),
        ("fish", "--init-command=source x", "-i"),
        ("fish", "-C", "echo hello"),
        ("fish", "-l", "-f", "qmark-noglob"),
        ("sh", "-l"),
        ("sh", "-s"),
    ],
    ids=" ".join,
)
def test_interactive_shells_are_recognized(argv: tuple[str, ...]) -> None:
    assert program(*argv).is_interactive_shell


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "-c", "x"),
        ("bash", "-lc", "x"),
        ("bash", "-ic", "x"),
        ("bash", "-i", "-c", "x"),
        ("bash", "script.sh"),
        ("bash", "-x", "script.sh"),
        ("bash", "-O", "extglob", "script.sh"),
        ("bash", "--rcfile", "/etc/rc", "script.sh"),
        ("bash", "--", "script.sh"),
        ("zsh", "-f", "script.zsh"),
        ("fish", "--command=x"),
        ("fish", "--command", "x"),
        ("fish", "-C", "echo hello", "script.fish"),
        ("python", "-i"),
        ("sudo", "bash"),
        ("claude",),
    ],
    ids=" ".join,
)
def test_commands_and_scripts_are_not_interactive(argv: tuple[str, ...]) -> None:
    assert not program(*argv).is_interactive_shell


def test_login_shell_of_any_name_is_interactive() -> None:
    assert program("-su", name="bash").is_interactive_shell


@pytest.mark.parametrize(
    "found",
    [
        program("claude"),
        program("/home/a/.local/bin/claude", "--resume"),
        program("node", name="claude"),
        program("node", "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js"),
        program("node", "--no-warnings", "--enable-source-maps", "/x/@anthropic-ai/claude-code/cli.js", "-p"),
        program("/usr/bin/node", "/usr/local/bin/claude"),
        program("bun", "/x/node_modules/@anthropic-ai/claude-agent-sdk/cli.js"),
    ],
    ids=lambda found: " ".join(found.argv),
)
def test_claude_is_recognized_by_name_or_script(found: Process) -> None:
    assert found.is_claude


@pytest.mark.parametrize(
    "argv",
    [
        ("claude-sessions", "claim", "SD-1"),
        ("vim", "claude"),
        ("python", "/usr/local/bin/claude"),
        ("node", "/home/a/claude-code/server.js"),
        ("node", "server.js", "/usr/local/bin/claude"),
        ("sh", "-c", "claude"),
    ],
    ids=" ".join,
)
def test_program_that_only_mentions_claude_is_not_claude(argv: tuple[str, ...]) -> None:
    assert not program(*argv, name=argv[0]).is_claude


@on_linux
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
        ended(child)
