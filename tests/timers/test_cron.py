"""The crontab's block and line, on texts and with programs that stand in for cron's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Cli
from requirements import needs
from run_bench import PROGRAM

from claude_sessions_cli.errors import SessionsError, UsageError
from claude_sessions_cli.timers import cron, upkeep_log
from claude_sessions_cli.timers.cron import BEGIN, END, cron_line
from claude_sessions_cli.timers.job import Job
from timers.conftest import Install

BLOCK = f"{BEGIN}\n* * * * * new\n{END}\n"
OLD = f"{BEGIN}\n* * * * * old\n{END}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", BLOCK),
        ("MAILTO=me\n\n", f"MAILTO=me\n\n{BLOCK}"),
        ("5 4 * * * no newline at the end", f"5 4 * * * no newline at the end\n{BLOCK}"),
        (OLD, BLOCK),
        (f"# a\n{OLD}\t# b \r\n", f"# a\n{BLOCK}\t# b \r\n"),
        (f"{OLD}# a\n{OLD}", f"{BLOCK}# a\n"),
        (f"\udcff\udcfe\n{OLD}", f"\udcff\udcfe\n{BLOCK}"),
    ],
)
def test_edit_keeps_one_block_and_foreign_lines(before: str, after: str) -> None:
    edited = cron.edit(os.fsencode(before), BLOCK)
    assert edited == os.fsencode(after)
    assert cron.edit(edited, BLOCK) == edited


@pytest.mark.parametrize("before", ["", "MAILTO=me\n", "# a\r\n\n \t# b", "\udcff\n"])
def test_removing_the_block_keeps_the_rest_byte_for_byte(before: str) -> None:
    text = os.fsencode(before)
    assert cron.edit(text, None) == text
    complete = text if not text or text.endswith(b"\n") else text + b"\n"
    assert cron.edit(cron.edit(text, BLOCK), None) == complete


@pytest.mark.parametrize(
    "before", [f"{BEGIN}\n0 0 * * * mine\n", f"{END}\n0 0 * * * mine\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n{END}\n"]
)
@pytest.mark.parametrize("block", [BLOCK, None])
def test_unpaired_markers_are_refused(before: str, block: str | None) -> None:
    with pytest.raises(SessionsError, match="do not pair"):
        cron.edit(before.encode(), block)


def test_cron_line_runs_exactly_the_given_words(tmp_path: Path) -> None:
    directory = tmp_path / "100% state's"
    directory.mkdir()
    words = ("sh", "-c", 'printf "%s|%s|%s|%s" "$@" "$NAME" >output', "sh", "a b%c", 'it\'s "$HOME" `id`')
    made = Job(words, {"NAME": "50% of $HOME's"}, directory)
    minute, line = cron_line(made).split(" * * * * ", 1)
    assert minute == "*"
    # Cron unescapes percent signs before sh reads the line; a bare one would end it.
    assert "%" not in line.replace("\\%", "")
    subprocess.run(["sh", "-c", line.replace("\\%", "%")], check=True, cwd=directory)
    assert (directory / "output").read_text() == "a b%c|it's \"$HOME\" `id`|--log|50% of $HOME's"
    assert [path.name for path in directory.iterdir()] == ["output"]


ODD = "it's a \\ path\\\\ with \\' 100% of \"$HOME\" `id` !! ~ * [a-z] {x,y} ; & | < > # ? ^ ünï"
CRON_SHELLS = ("sh", "bash", "csh", "tcsh", "fish", "zsh", "ksh", "mksh")
each_cron_shell = pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in CRON_SHELLS])


@each_cron_shell
def test_cron_line_means_the_same_in_every_shell(tmp_path: Path, shell: str) -> None:
    program, directory = tmp_path / "a program's", tmp_path / "state"
    directory.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s|" "$NAME" "$@" >>output; echo out; echo error >&2\n')
    program.chmod(0o755)
    for value in ("plain", ODD):
        line = cron_line(Job((str(program), value), {"NAME": value, "HOME": str(directory)}, directory))
        command = line.removeprefix("* * * * * ").replace("\\%", "%")
        done = subprocess.run([shell, "-c", command], cwd=directory, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (directory / "output").read_text() == f"{value}|{value}|--log|"
        (directory / "output").unlink()


@each_cron_shell
def test_missing_program_is_silent_in_every_shell(tmp_path: Path, shell: str) -> None:
    line = cron_line(Job((str(tmp_path / "missing"), "upkeep"), {"HOME": str(tmp_path)}, tmp_path))
    done = subprocess.run([shell, "-c", line.removeprefix("* * * * * ")], capture_output=True, text=True)
    # Cron mails any output of a job, each minute.
    assert (done.stdout, done.stderr) == ("", "")


def test_too_long_cron_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        cron_line(Job(("/" + "x" * 1000,), {}, tmp_path))


def test_cron_line_recreates_directory_and_log(tmp_path: Path) -> None:
    state, config, missing = tmp_path / "state", tmp_path / "config.toml", tmp_path / "missing"
    config.write_text(f'dsn = "host={missing}"')
    variables = {"CLAUDE_SESSIONS_STATE_DIR": str(state), "CLAUDE_SESSIONS_CONFIG": str(config)}

    def run(*words: str) -> None:
        line = cron_line(Job((*words, "upkeep"), variables, state)).removeprefix("* * * * * ")
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
        # Cron mails any output of a job, each minute.
        assert (done.stdout, done.stderr) == ("", "")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    run(*PROGRAM)
    run(*PROGRAM)
    log = state / "upkeep.log"
    assert [" cannot connect to the database" in line for line in log.read_text().splitlines()] == [True, True]
    assert log.stat().st_mode & 0o777 == 0o600
    before = files()
    run(str(missing))
    assert files() == before
    # Sessions are renewed even if the log cannot be written.
    log.unlink()
    log.mkdir()
    (state / "upkeep.json").unlink()
    run(*PROGRAM)
    assert upkeep_log.last_run(state) is not None


def test_missing_crontab_program_is_reported(cli: Cli, tmp_path: Path) -> None:
    for options in (["--dry-run"], [], ["--remove"]):
        done = cli("install", "cron", *options, env={"PATH": str(tmp_path)})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1 and "the program crontab is missing" in done.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'You (me) are not allowed to use this program' >&2; exit 1", "not allowed"),
        ('[ "$1" = -l ] || { cat >/dev/null; echo disk full >&2; exit 1; }', "cannot write the crontab: disk full"),
    ],
    ids=["cannot be read", "cannot be written"],
)
def test_crontab_error_is_quoted_in_one_line(cli: Cli, tmp_path: Path, script: str, message: str) -> None:
    (tmp_path / "crontab").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "crontab").chmod(0o755)
    done = cli("install", "cron", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize(
    ("processes", "others", "expected"),
    [
        ({1: ("init", b"/sbin/init"), 30: ("cron", b"/usr/sbin/cron\0-f")}, [], True),
        ({1: ("crond", b"crond\0-f")}, [], True),
        ({1: ("tini", b"tini"), 9: ("busybox", b"busybox\0crond\0-f")}, [], True),
        ({1: ("sh", b"sh"), 9: ("busybox", b"busybox\0sleep\0crond")}, [], False),
        ({1: ("bash", b"bash"), 7: ("crontab", b"crontab\0-e")}, [], False),
        ({}, [], None),
        (
            {1: ("systemd", b"systemd")},
            ["run/systemd/system", "usr/lib/systemd/system-generators/systemd-crontab-generator"],
            True,
        ),
        ({1: ("systemd", b"systemd")}, ["run/systemd/system"], False),
    ],
)
def test_cron_daemon_is_found_among_processes(
    tmp_path: Path, processes: dict[int, tuple[str, bytes]], others: list[str], expected: bool | None
) -> None:
    for number, (name, words) in processes.items():
        directory = tmp_path / "proc" / str(number)
        directory.mkdir(parents=True)
        (directory / "comm").write_text(f"{name}\n")
        (directory / "cmdline").write_bytes(words)
    for path in others:
        (tmp_path / path).mkdir(parents=True)
    assert cron.daemon_runs(tmp_path) is expected


def test_missing_cron_daemon_is_reported(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "case $1 in -l) cat table ;; -) cat >table ;; -r) : >table ;; esac"
    (tmp_path / "crontab").write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
    (tmp_path / "crontab").chmod(0o755)
    (tmp_path / "table").touch()
    monkeypatch.setattr(cron, "daemon_runs", lambda: False)
    path = f"{tmp_path}:/usr/bin:/bin"
    for options, line in (["--dry-run"], None), ([], "installed"), ([], "already installed"):
        done = install("cron", *options, path=path)
        assert done.returncode == 0
        assert done.stderr.startswith("claude-sessions: no cron daemon is running on this machine, so nothing runs")
        assert line is None or done.stdout == f"cron: {line}, but nothing runs it yet\n"
    data = json.loads(install("cron", "--json", path=path).stdout)["data"]
    assert (data["runs"], data["note"][:14]) == (False, "no cron daemon")
    assert install("cron", "--remove", path=path).stdout == "cron: removed\n"
    monkeypatch.setattr(cron, "daemon_runs", lambda: None)
    done = install("cron", path=path)
    assert (done.stdout, done.stderr) == ("cron: installed\n", "")
