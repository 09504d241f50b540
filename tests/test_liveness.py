"""Liveness of sessions, with real processes on this host; rows stand in for other hosts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from poll import until
from probe import row_of, session, session_of
from requirements import needs_proc, use_missing_ps

from claude_sessions_cli import process
from claude_sessions_cli.liveness import Host, _machine_id, liveness, this_host
from claude_sessions_cli.model import METADATA_KEY, Liveness

Sleeper = Callable[[], "Popen[bytes]"]


def judge(row: dict[str, Any], host: Host | None = None) -> Liveness:
    return liveness(session_of(row), host or this_host())


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
    child.kill()
    child.wait()
    assert judge(row) is Liveness.DEAD


def test_reused_pid_is_dead(sleeper: Sleeper) -> None:
    earlier, later = sleeper(), sleeper()
    start = until(lambda: other_start(earlier.pid, later.pid), "two starts that differ")
    assert judge(row_of(later.pid, start=start)) is Liveness.DEAD


def other_start(earlier: int, later: int) -> str | None:
    """Return a start other than that of `later`: pid 1's, if both began in one tick."""
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


@needs_proc
def test_process_whose_first_thread_ended_is_alive() -> None:
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"
    child = Popen([sys.executable, "-c", f"{code}; ctypes.CDLL(None).pthread_exit(None)"])
    try:
        stat = Path(f"/proc/{child.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "the first thread to end")
        assert judge(row_of(child.pid)) is Liveness.ALIVE
    finally:
        child.kill()
    child.wait()


@pytest.mark.parametrize("other", [{"boot_id": "another"}, {"pid_ns": "pid:[1]"}], ids=["boot", "pid namespace"])
def test_other_boot_or_namespace_is_unknown(sleeper: Sleeper, other: dict[str, str]) -> None:
    child = sleeper()
    row = row_of(child.pid, **other)
    assert judge(row) is Liveness.UNKNOWN
    child.kill()
    child.wait()
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


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff", b"a" * 31], ids=repr)
def test_malformed_or_missing_machine_id_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "machine-id"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr("claude_sessions_cli.liveness.MACHINE_ID", file)
    assert _machine_id() == ""


def test_machine_id_is_a_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    monkeypatch.setattr("claude_sessions_cli.liveness.MACHINE_ID", file)
    found = []
    for digit in "ab":
        file.write_text(digit * 32 + "\n")
        found.append(_machine_id())
    assert [len(each) for each in found] == [8, 8]
    assert found[0] != found[1]


def test_record_is_judged_alike_with_and_without_machine_id() -> None:
    records = [_record(), _record(machine_id="57e36840"), _record(machine_id=5)]
    sessions = [session(os.getpid(), "h", {METADATA_KEY: {"process": record}}) for record in records]
    assert [each.process and each.process.machine_id for each in sessions] == [None, "57e36840", None]
    assert [liveness(each, this_host()) for each in sessions] == [Liveness.ALIVE] * 3


def _record(**changes: Any) -> dict[str, Any]:
    record = {name: value for name, value in row_of(os.getpid()).items() if name != "hostname"}
    return {**record, **changes}


def test_row_without_process_record_is_unknown() -> None:
    here = this_host()
    contents: list[Any] = [None, [], "text", {}]
    own: list[Any] = [None, [], {"process": None}, {"process": "123"}, {"process": {}}]
    for metadata in (*contents, *({METADATA_KEY: part} for part in own)):
        assert liveness(session(os.getpid(), here.hostname, metadata), here) is Liveness.UNKNOWN, metadata


@needs_proc
def test_malformed_or_mismatched_record_is_unknown() -> None:
    here = this_host()
    changes: list[dict[str, Any]] = [{"start": start} for start in (None, 5, "", "soon", "Tue_Nov_24_11:41:11_2026")]
    changes += [{"boot_id": None}, {"pid_ns": 4026531836}, {"pid": "1"}, {"pid": 1}]
    for change in changes:
        row = session(os.getpid(), here.hostname, {METADATA_KEY: {"process": _record(**change)}})
        assert liveness(row, here) is Liveness.UNKNOWN, change


@pytest.mark.parametrize("pid", [None, 0, -1, -(2**31)])
def test_impossible_pid_is_unknown(pid: int | None) -> None:
    here = this_host()
    row = session(pid, here.hostname, {METADATA_KEY: {"process": _record(pid=pid)}})
    assert liveness(row, here) is Liveness.UNKNOWN


def test_missing_ps_proves_nothing_but_a_free_pid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sleeper: Sleeper
) -> None:
    child = sleeper()
    row = row_of(child.pid)
    use_missing_ps(monkeypatch, tmp_path)
    assert judge(row) is Liveness.UNKNOWN
    child.kill()
    child.wait()
    assert judge(row) is Liveness.DEAD
