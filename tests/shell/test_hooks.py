"""The shell integration in real shells on pseudoterminals: the right calls, no output, an unchanged prompt."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from poll import PATIENCE_S, until
from requirements import (
    cross,
    each_posix_shell,
    each_shell,
    each_shell_at_length,
    needs,
    needs_proc,
    needs_sudo,
    only_bash,
    only_fish,
    only_zsh,
)
from terminal import SHELLS, WHOAMI, Terminal, Tmux

from claude_sessions_cli import process
from shell.hooks import (
    NEVER,
    PLAIN_PROMPT,
    STARTED_WITH,
    Calls,
    Open,
    Window,
    close_terminal,
    exec_true,
    hook,
    kill_shell,
    make_due,
    nested_line,
    send_hangup,
    set_variables,
    shows_held_item,
    state_of,
    type_end_of_input,
    type_exit,
)

# -- how a shell begins and ends --------------------------------------------------------------------------------------


ENDINGS = {
    "exit": (type_exit, ["beat", "end"]),
    "end of input": (type_end_of_input, ["beat", "end"]),
    "SIGHUP": (send_hangup, ["beat", "end"]),
    "closed terminal": (close_terminal, ["beat", "end"]),
    # The shell cannot notice these; `reap` handles them.
    "SIGKILL": (kill_shell, ["beat"]),
    "exec": (exec_true, ["beat"]),
}
LIVES = [(name, "", ending) for name in SHELLS for ending in ENDINGS]
# The endings that traps of the hook see, under the options that may end a script early.
STRICT = [
    ("set -u", "SIGHUP"),
    ("set -eu", "exit"),
    ("set -eu", "end of input"),
    ("set -euo pipefail", "closed terminal"),
]
LIVES += [(name, *strict) for name in ("bash", "zsh") for strict in STRICT]


@pytest.mark.parametrize(("name", "options", "ending"), [pytest.param(*case, marks=needs(case[0])) for case in LIVES])
def test_terminal_registers_once_and_ends_with_its_shell(
    window: Open, calls: Calls, name: str, options: str, ending: str
) -> None:
    end, expected = ENDINGS[ending]
    opened = window(name, before=options)
    tty, pid, start = opened.tty, opened.pid, process.read(opened.pid).start
    calls.wait(1)
    # Some work, in subshells that exit and with commands that fail.
    for line in (
        "sh -c 'exit 7' || true",
        "true",
        "echo (false)" if name == "fish" else "(exit 7) || echo $(exit 3)x",
    ):
        opened.do(line)
    end(opened)
    opened.wait()
    assert calls.kinds() == expected
    for call in calls.all():
        assert (call.option("--pid"), call.option("--tty"), call.option("--within")) == (str(pid), tty, "20")
        assert (call.stdin, call.stdout) == ("/dev/null", "/dev/null")
        assert int(call.ignored_signals, 16) & 1, "a hang-up would end it"
        assert call.environment == f"//{tty}:{pid}:{start}"


HANDLERS = {
    "bash": 'echo "$PROMPT_COMMAND"; trap -p',
    "zsh": "echo $precmd_functions $zshexit_functions",
    "fish": "functions --handlers",
}


@each_shell
def test_hook_sourced_twice_calls_once(window: Open, calls: Calls, tmp_path: Path, name: str) -> None:
    again = hook(tmp_path, name, calls.program)
    opened = window(name)
    command = f"begin; {HANDLERS[name]}; end" if name == "fish" else f"{{ {HANDLERS[name]}; }}"
    once = opened.run(command).out
    assert "claude_sessions" in once
    for _ in range(2):
        opened.do(again)
    assert opened.run(command).out == once
    calls.wait(1)
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "end"]


ODD_OPTIONS = {
    "bash": "IFS=':x-'; set -f -o noclobber -o posix; shopt -s nullglob failglob extglob nocasematch",
    "zsh": "IFS=':x-'; setopt ksh_arrays sh_word_split glob_subst warn_create_global err_return no_clobber",
}


@each_posix_shell
@pytest.mark.parametrize("when", ["before", "after"])
def test_shell_language_options_do_not_affect_hooks(
    window: Open, calls: Calls, states: Path, tmp_path: Path, name: str, when: str
) -> None:
    opened = window(name, **{when: ODD_OPTIONS[name]})
    calls.wait(1)
    opened.do(hook(tmp_path, name, calls.program))
    assert shows_held_item(opened, states)
    make_due(opened)
    opened.do("true")
    calls.wait(2)
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat", "end"]
    assert not re.search("not found|error|bad|no match", opened.seen(), re.I), opened.seen()


@only_zsh
@pytest.mark.parametrize("options", ["setopt ignore_braces", "setopt ignore_close_braces", "emulate sh", "emulate ksh"])
def test_zsh_emulations_can_read_the_hook(window: Open, calls: Calls, name: str, options: str) -> None:
    opened = window(name, before=options)
    calls.wait(1)
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "end"]
    assert "error" not in opened.seen(), opened.seen()


@each_shell
def test_shell_replaced_by_exec_keeps_its_session(window: Open, calls: Calls, tmp_path: Path, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    rc = opened.directory / "again"
    rc.write_text(f"{PLAIN_PROMPT['bash']}\n{hook(tmp_path, 'bash', calls.program)}\n")
    opened.type(f"exec bash --noprofile --rcfile {rc} -i")
    calls.wait(2)
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat", "end"]
    assert len({call.environment for call in calls.all()}) == 1


@pytest.mark.faults
@each_shell_at_length
def test_due_heartbeat_is_sent_at_next_prompt(window: Open, calls: Calls, name: str) -> None:
    opened = window(name, every=1)
    calls.wait(1)

    def beats_at_a_prompt() -> bool:
        opened.do("true")
        return len(calls.all()) >= 3

    until(beats_at_a_prompt, "two more beats")
    assert set(calls.kinds()) == {"beat"}
    assert calls.all()[0].option("--within") == "1"


@each_shell
def test_prompts_within_interval_send_one_heartbeat(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    for _ in range(5):
        opened.do("true")
    calls.wait(1)
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "end"]


@only_bash
def test_bash_without_epochseconds_keeps_time(window: Open, calls: Calls, states: Path, name: str) -> None:
    opened = window(name, before="unset EPOCHSECONDS", every=1)
    assert shows_held_item(opened, states)

    def beats_at_a_prompt() -> bool:
        opened.do("true")
        return len(calls.all()) >= 2

    until(beats_at_a_prompt, "another beat")


@each_shell
def test_missing_program_is_ignored(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    calls.program.unlink()
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat"]
    assert "recorder" not in opened.seen()


# -- what the hook must not change ------------------------------------------------------------------------------------


def transcript(opened: Window, lines: list[str]) -> str:
    """Type lines, each at a prompt of its own, and return what the screen showed."""
    opened.at_prompt()
    begin = len(opened.seen())
    for line in lines:
        opened.type(line)
        opened.at_prompt(line)
    opened.type("exit")
    opened.wait()
    opened._reader.join()
    # The moment when bracketed paste is turned on depends on the next key.
    shown = re.sub(r"\x1b\[\?2004[hl]", "", opened.seen()[begin:])
    # Bash may or may not report a job that ends while it is waited for.
    shown = re.sub(r"\[1\]\+  Terminated +sleep 100\r\n", "", shown)
    return re.sub(r"\[1\] \d+|\d{3,}", "N", shown)


@each_posix_shell
@pytest.mark.parametrize("options", ["", "set -eu"])
def test_hooked_shell_prints_the_same_as_a_bare_one(
    stack: ExitStack, tmp_path: Path, window: Open, name: str, options: str
) -> None:
    """A hooked and a bare shell show the same for the same keys."""
    lines = ["sleep 100 &", "true | false || true", "(exit 7) || true", "kill %1; wait || true", "jobs", "echo $-"]
    bare = Window(tmp_path, name, options)
    stack.callback(bare.close)
    expected = transcript(bare, lines)
    hooked = window(name, before=options, every=1)
    assert transcript(hooked, lines) == expected


@only_fish
def test_hooked_fish_prints_no_extra_words(window: Open, calls: Calls, name: str) -> None:
    """fish redraws its line at any time, so that screens differ, but their words are the same."""
    opened = window(name, every=1)
    opened.do("echo hello")
    calls.wait(1)
    opened.do("false")
    opened.type("exit")
    opened.wait()
    opened._reader.join()
    seen = re.sub(r"\x1b(\[[0-9;?>]*[A-Za-z]|[()=>].?)", "", opened.seen())
    lines = {line.strip(" \u23ce") for line in re.split(r"[\r\n]+", seen)}
    typed = re.compile(r"(ready> )*(true|false|echo hello|hello|exit|ready>)?( .*)?( *ready> .*)?")
    assert not [line for line in lines if not typed.fullmatch(line)]


@each_shell
@pytest.mark.parametrize("every", [NEVER, 1])
def test_hook_preserves_last_exit_status(window: Open, name: str, every: float) -> None:
    opened = window(name, every=every)
    status = "$status" if name == "fish" else "$?"
    for code in (0, 1, 7, 130):
        opened.do(f"sh -c 'exit {code}'") if code == 0 else opened.type(f"sh -c 'exit {code}'")
        assert opened.ask(status) == str(code)


@each_posix_shell
@pytest.mark.parametrize("every", [NEVER, 1])
def test_hook_preserves_last_word_pid_and_pipe_status(window: Open, calls: Calls, name: str, every: float) -> None:
    opened = window(name, every=every)
    calls.wait(1)
    opened.type("sleep 600 &")
    opened.type("before=$!")
    opened.type("true last-word")
    opened.type('echo "$_" >kept')
    opened.type("true | false | true")
    opened.type('echo "${PIPESTATUS[*]-}${pipestatus-}" >pipes' if name == "bash" else 'echo "$pipestatus" >pipes')
    opened.do("true")
    opened.do("true")
    assert opened.ask("$(( $! == before ))") == "1"
    assert opened.run("jobs").out.count("sleep") == 1
    assert (opened.directory / "kept").read_text() == "last-word\n"
    assert (opened.directory / "pipes").read_text() == "0 1 0\n"
    opened.type("kill $!")


def failures(opened: Window) -> list[str]:
    """Return the lines of the log that report a status other than 0."""
    return [line for line in (opened.directory / "log").read_text().splitlines() if not line.startswith("first 0")]


@only_bash
@pytest.mark.parametrize(
    ("before", "shown"),
    [
        ("PROMPT_COMMAND='echo \"first $? $_\" >>log'", "first 7 word"),
        ("PROMPT_COMMAND='echo \"first $? $_\" >>log; '", "first 7 word"),
        ("PROMPT_COMMAND='echo \"first $? $_\" >>log # why'", "first 7 word"),
        ("PROMPT_COMMAND=('true' 'echo \"first $? $_\" >>log')", "first 7 word"),
        ("PROMPT_COMMAND=(); PROMPT_COMMAND[3]='echo \"first $? $_\" >>log'", "first 7 word"),
    ],
)
def test_other_bash_prompt_commands_see_the_status(
    window: Open, calls: Calls, before: str, shown: str, name: str
) -> None:
    if "(" in before.split("'")[0] and _bash_version() < (5, 1):
        pytest.skip("this bash has no array of prompt commands")
    opened = window(name, before=f"seven() {{ return 7; }}\n{before}", every=1)
    opened.do("true")
    opened.type("seven word")
    opened.do("true")
    assert failures(opened)[0] == shown
    opened.type("exit")
    opened.wait()
    assert {"beat", "end"} <= set(calls.kinds())


# Like bash-preexec, which atuin and bash-it bundle: each command that bash runs counts as typed, unless it is a line of
# PROMPT_COMMAND.
PREEXEC = r"""
is_of_the_prompt() {
    local lines line IFS=$'\n;'
    read -rd '' -a lines <<<"${PROMPT_COMMAND[*]}"
    for line in "${lines[@]}"; do
        line=${line#"${line%%[![:space:]]*}"}
        [[ ${line%"${line##*[![:space:]]}"} != "$1" ]] || return 0
    done
    return 1
}
trap 'is_of_the_prompt "$BASH_COMMAND" || echo "$BASH_COMMAND" >>typed' DEBUG
"""


@only_bash
@pytest.mark.parametrize("every", [NEVER, 1])
def test_bash_preexec_does_not_report_hook_commands(window: Open, name: str, every: float) -> None:
    opened = window(name, before="PROMPT_COMMAND='true; false'", after=PREEXEC, every=every)
    for line in (": first", "sh -c 'exit 7'", ": last"):
        opened.type(line)
    opened.do("true")
    typed = (opened.directory / "typed").read_text().splitlines()
    assert typed[typed.index(": first") :][:3] == [": first", "sh -c 'exit 7'", ": last"]
    assert not [line for line in typed if "claude" in line]


EVERYDAY = (
    "age code device end hook hooked item key kind line major minor name now own parent pid rest since start told tty"
)
EVERYDAY += " database file first held letter more others shown text values words"


@each_posix_shell
@pytest.mark.parametrize("when", ["before", "after"])
def test_readonly_common_variables_do_not_break_hooks(
    window: Open, calls: Calls, states: Path, name: str, when: str
) -> None:
    settings = "; ".join(f"readonly {word}=4" for word in EVERYDAY.split())
    opened = window(name, **{when: settings})
    calls.wait(1)
    make_due(opened)
    assert shows_held_item(opened, states)
    calls.wait(2)
    opened.type("sh -c 'exit 7'")
    assert opened.ask("$?") == "7"
    opened.do("claude_sessions_unhook")
    assert "CLAUDE_SESSIONS_PROMPT" not in opened.run("env").out
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat"]
    assert not re.search("read-?only variable", opened.seen()), opened.seen()


COMPLAINT = re.compile("read-?only (variable|function)|bash: |zsh: |rc: ")
# What a hardened host may make readonly: with the first kind there is no way to run at each prompt.
HARDENED = {
    "off": [
        ("bash", "readonly PROMPT_COMMAND"),
        ("bash", "declare -rx PROMPT_COMMAND=true"),
        ("bash", "PROMPT_COMMAND=(true true); readonly PROMPT_COMMAND"),
        ("bash", "set -eu -o noclobber -o posix; readonly PROMPT_COMMAND=true"),
        ("bash", "readonly CLAUDE_SESSIONS_SHELL=x"),
        ("zsh", "readonly precmd_functions"),
        ("zsh", "typeset -ar precmd_functions=(true)"),
        ("zsh", "set -eu; setopt no_clobber; typeset -ar precmd_functions=()"),
        ("zsh", "typeset -ar zshexit_functions=(true)"),
        ("zsh", "readonly CLAUDE_SESSIONS_SHELL=x"),
    ],
    "not shown": [("bash", "readonly CLAUDE_SESSIONS_PROMPT=x"), ("bash", "set -eu; readonly CLAUDE_SESSIONS_PROMPT")],
    "on": [
        ("bash", "readonly PS1 PS0 PS2 PS4 IFS PATH HISTFILE HISTCONTROL TMOUT=0 BASH_ENV USER HOME"),
        ("bash", "set -eu -o noclobber; readonly PS1 IFS"),
        ("zsh", "readonly PROMPT PS1 RPROMPT PS4 PATH HISTFILE USER HOME"),
        ("zsh", "set -eu; setopt no_clobber; readonly PROMPT"),
    ],
}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "before", "effect"),
    [pytest.param(*case, effect, marks=needs(case[0])) for effect, cases in HARDENED.items() for case in cases],
)
def test_readonly_variables_of_hardened_hosts_cause_no_noise(
    window: Open, calls: Calls, states: Path, tmp_path: Path, name: str, before: str, effect: str
) -> None:
    opened = window(name, before=before)
    if effect == "on":
        assert shows_held_item(opened, states)
    opened.do(hook(tmp_path, name, calls.program))
    opened.do("CLAUDE_SESSIONS_HOOK=0")
    opened.do("unset CLAUDE_SESSIONS_HOOK")
    opened.do("claude_sessions_unhook")
    opened.do("true")
    assert not COMPLAINT.search(opened.seen()), opened.seen()
    assert calls.kinds() == ([] if effect == "off" else ["beat"])


@each_posix_shell
def test_variables_made_readonly_later_cause_no_noise(
    window: Open, calls: Calls, states: Path, tmp_path: Path, name: str
) -> None:
    hooks_of = {
        "bash": "PROMPT_COMMAND; readonly -f $(compgen -A function)",
        "zsh": "precmd_functions zshexit_functions",
    }
    opened = window(name)
    calls.wait(1)
    opened.do("readonly CLAUDE_SESSIONS_SHELL CLAUDE_SESSIONS_PROMPT " + hooks_of[name])
    make_due(opened)
    state_of(states, opened).write_text("lost 0 SD-1 s\n")
    opened.do("true")
    opened.do(hook(tmp_path, name, calls.program))
    if name == "bash":
        calls.wait(2)
    else:
        opened.do("claude_sessions_unhook")
    opened.do("true")
    assert not COMPLAINT.search(opened.seen()), opened.seen()


SPLITTING = ["IFS=_", "IFS=aeinost", "IFS=$'_ \\t\\n:/-abcdefghijklmnopqrstuvwxyz'"]


@pytest.mark.faults
@each_posix_shell
@pytest.mark.parametrize("when", ["before", "after"])
def test_custom_ifs_does_not_break_hooks(window: Open, calls: Calls, states: Path, name: str, when: str) -> None:
    # The last one has all characters of the others.
    opened = window(name, **{when: SPLITTING[-1]})
    calls.wait(1)
    for splitting in SPLITTING if when == "after" else SPLITTING[-1:]:
        opened.do(splitting)
        assert shows_held_item(opened, states), splitting
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "end"]
    [environment] = {call.environment for call in calls.all()}
    assert environment == f"//{opened.tty}:{opened.pid}:{environment.rpartition(':')[2]}"
    assert "not found" not in opened.seen(), opened.seen()


@only_bash
def test_later_prompt_commands_see_the_status(window: Open, name: str) -> None:
    later = 'PROMPT_COMMAND="$PROMPT_COMMAND; echo later \\$? >>log"'
    opened = window(name, after=later, every=1)
    opened.do("true")
    opened.type("sh -c 'exit 7'")
    opened.do("true")
    assert "later 7" in (opened.directory / "log").read_text().splitlines()


def _bash_version() -> tuple[int, ...]:
    text = subprocess.run(["bash", "-c", "echo $BASH_VERSION"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, text.split(".")[:2]))


@only_bash
def test_inherited_prompt_command_without_hook_does_nothing(window: Open, name: str) -> None:
    opened = window(name, after="export PROMPT_COMMAND")
    opened.type("PS1='inner> ' bash --norc --noprofile -i")
    opened.do("true")
    assert "not found" not in opened.seen()


@only_bash
def test_hook_does_not_fire_bash_error_trap(window: Open, name: str) -> None:
    opened = window(name, before="set -o errtrace; trap 'echo failed >>errors' ERR", every=1)
    for _ in range(3):
        opened.type("sh -c 'exit 7'")
    opened.do("true")
    assert (opened.directory / "errors").read_text() == "failed\n" * 3


@only_zsh
@pytest.mark.parametrize("trap", ["trap 'echo failed >>errors' ZERR", "TRAPZERR() { echo failed >>errors }"])
def test_hook_does_not_fire_zsh_error_trap(window: Open, states: Path, name: str, trap: str) -> None:
    opened = window(name, before=trap)
    for line in ("", "held {now} SD-1 s", "held 5 SD-1 s", "held", "lost 0 SD-1 s", "none 0 - s"):
        state_of(states, opened).write_text(line.format(now=int(time.time()) + 3) + "\n")
        opened.do("true")
        make_due(opened)
        opened.do("true")
    for _ in range(3):
        opened.type("sh -c 'exit 7'")
    opened.do("true")
    opened.do("(exit 0)")
    assert (opened.directory / "errors").read_text() == "failed\n" * 3


@only_zsh
def test_other_zsh_hook_functions_see_the_status(window: Open, calls: Calls, name: str) -> None:
    before = (
        "other() { echo first $? >>log }; last() { echo last $? >>log }\n"
        "precmd_functions=(other); zshexit_functions=(last); TRAPEXIT() { echo trap >>log }"
    )
    opened = window(name, before=before, after="precmd_functions+=(other)", every=1)
    opened.do("true")
    opened.type("sh -c 'exit 7'")
    opened.do("true")
    assert failures(opened) == ["first 7", "first 7"]
    opened.type("exit 5")
    opened.wait()
    assert opened.process.returncode == 5
    log = (opened.directory / "log").read_text().splitlines()
    assert [line for line in log if not line.startswith("first")] == ["trap", "last 5"]
    # A background heartbeat may be recorded after it.
    assert calls.kinds().count("end") == 1


@only_fish
def test_other_fish_handlers_see_the_status(window: Open, calls: Calls, name: str) -> None:
    before = (
        "function other --on-event fish_prompt; echo first $status >>log; end\n"
        "function last --on-event fish_exit; echo last >>log; end"
    )
    opened = window(name, before=before, every=1)
    opened.do("true")
    opened.type("sh -c 'exit 7'")
    opened.do("true")
    assert failures(opened) == ["first 7"]
    opened.type("exit")
    opened.wait()
    assert (opened.directory / "log").read_text().splitlines()[-1] == "last"
    # A background heartbeat may be recorded after it.
    assert calls.kinds().count("end") == 1


@each_posix_shell
@pytest.mark.parametrize("options", ["", "set -eu"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_exit_trap_runs_once_with_the_shells_status(
    window: Open, calls: Calls, name: str, options: str, when: str
) -> None:
    trap = "trap 'echo \"trap $?\" >>log; echo \"it'\\''s over\" >>log' EXIT"
    opened = window(name, **{"before": options, when: f"{options}\n{trap}"})
    calls.wait(1)
    opened.type("(exit 5) || exit 5")
    opened.wait()
    assert (opened.directory / "log").read_text() == "trap 5\nit's over\n"
    assert opened.process.returncode == 5
    assert calls.kinds() == ["beat", "end"]


@only_bash
def test_exit_trap_set_later_runs_too(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    opened.do("trap 'echo \"later $?\" >>log' EXIT")
    make_due(opened)
    opened.do("true")
    calls.wait(2)
    assert "claude_sessions" in opened.run("trap -p EXIT").out
    opened.type("exit 5")
    opened.wait()
    assert (opened.directory / "log").read_text() == "later 5\n"
    assert calls.kinds() == ["beat", "beat", "end"]


@only_bash
def test_exit_trap_set_after_last_prompt_replaces_the_hooks(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    opened.do("trap 'echo later >>log' EXIT")
    opened.type("exit")
    opened.wait()
    assert (opened.directory / "log").read_text() == "later\n"
    assert calls.kinds() == ["beat"]


@each_posix_shell
def test_subshell_exit_does_not_end_the_session(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    for line in ("(exit 7)", "echo $(exit 3)", "(exit 2) | (exit 1)", "{ exit 4; } &", "wait", ": <(exit 5)"):
        opened.do(line)
    if name == "bash":
        # Like scripts that set their shell's trap in a subshell too.
        opened.do('(eval "$(trap -p EXIT)"; exit 2)')
    assert calls.kinds() == ["beat"]
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "end"]


# -- disabled, undone, and shells that are not hooked -----------------------------------------------------------------


@each_shell
def test_hook_can_be_disabled_and_enabled_again(window: Open, calls: Calls, states: Path, name: str) -> None:
    opened = window(name)
    calls.wait(1)
    state_of(states, opened).write_text(f"held {int(time.time())} SD-1 s\n")
    opened.do("true")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT").startswith("SD-1 ")
    opened.do("set -g CLAUDE_SESSIONS_HOOK 0" if name == "fish" else "CLAUDE_SESSIONS_HOOK=0")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == ""
    before = len(calls.all())
    make_due(opened)
    for _ in range(3):
        opened.do("true")
    assert len(calls.all()) == before
    opened.do("set -e CLAUDE_SESSIONS_HOOK" if name == "fish" else "unset CLAUDE_SESSIONS_HOOK")
    calls.wait(before + 1)
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT").startswith("SD-1 ")


@each_shell
def test_hook_disabled_from_the_start_does_nothing(window: Open, calls: Calls, name: str) -> None:
    opened = window(name, more={"CLAUDE_SESSIONS_HOOK": "0"})
    opened.do("true")
    shell = "$CLAUDE_SESSIONS_SHELL" if name == "fish" else "${CLAUDE_SESSIONS_SHELL-}"
    assert opened.ask(shell) == ""
    opened.type("exit")
    opened.wait()
    assert calls.all() == []


@pytest.mark.faults
@each_shell
@pytest.mark.parametrize("alone", [False, True])
def test_unhook_leaves_no_trace(window: Open, calls: Calls, tmp_path: Path, name: str, alone: bool) -> None:
    if name == "fish":
        look = (
            "set -n | string match '*claude_sessions*'; functions -a -n | string match -r '[^, ]*claude_sessions[^, ]*'"
        )
        look += "; set -n | string match 'CLAUDE*'"
        before = ""
    elif name == "zsh":
        look = "set | grep -a claude_sess; functions | grep -a claude_sess; echo $precmd_functions $zshexit_functions"
        look += "; env | grep '^CLAUDE_SESSIONS_[PS][RH]'"
        before = "f() { true }; precmd_functions=(f)"
    else:
        look = "set | grep -a claude_sess; trap -p; echo \"$PROMPT_COMMAND\"; env | grep '^CLAUDE_SESSIONS_[PS][RH]'"
        before = "PROMPT_COMMAND='true;'; trap 'echo over' EXIT"
    before = "" if alone else before
    bare = Window(tmp_path, name, before)
    expected = bare.run(f"begin; {look}; end" if name == "fish" else f"{{ {look}; }}").out
    bare.close()
    opened = window(name, before=before)
    calls.wait(1)
    opened.do("claude_sessions_unhook")
    assert opened.run(f"begin; {look}; end" if name == "fish" else f"{{ {look}; }}").out == expected
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat"]


JOINED = {
    'PROMPT_COMMAND="$PROMPT_COMMAND; echo later \\$? >>log"': " echo later $? >>log",
    'PROMPT_COMMAND="true;$PROMPT_COMMAND;echo later >>log"': "true;echo later >>log",
    'PROMPT_COMMAND="true; $PROMPT_COMMAND"': "true; :",
    'PROMPT_COMMAND="if true; then $PROMPT_COMMAND; fi; echo later >>log"': "if true; then :; fi; echo later >>log",
    "PROMPT_COMMAND=$PROMPT_COMMAND$'\\n'\"echo later >>log\"": "echo later >>log",
    "PROMPT_COMMAND=('echo later >>log' \"$PROMPT_COMMAND\" true)": "echo later >>log  true",
}


@only_bash
@pytest.mark.parametrize("after", JOINED)
def test_unhook_keeps_prompt_commands_of_other_tools(window: Open, name: str, after: str) -> None:
    if "(" in after and _bash_version() < (5, 1):
        pytest.skip("this bash has no array of prompt commands")
    opened = window(name, after=after)
    opened.do("claude_sessions_unhook")
    assert opened.ask("${PROMPT_COMMAND[*]}") == JOINED[after]
    log = opened.directory / "log"
    log.unlink(missing_ok=True)
    opened.type("sh -c 'exit 7'")
    opened.do("true")
    if "later" in after:
        assert ("later 7" if "$?" in after else "later") in log.read_text().splitlines()
    assert "error" not in opened.seen(), opened.seen()


@each_shell
def test_noninteractive_shell_is_not_hooked(tmp_path: Path, calls: Calls, states: Path, name: str) -> None:
    line = hook(tmp_path, name, calls.program)
    quiet = "set -n; functions -n -a" if name == "fish" else "set; typeset -f"
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run([name, *flags, "-c", f"{line}; {quiet}"], capture_output=True, text=True, check=True)
    assert "claude_sessions_" not in done.stdout
    assert done.stderr == ""
    # Sourced from a function or a file, it must not end more than itself.
    done = subprocess.run([name, *flags, "-c", f"{line}; echo on"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("on\n", "")
    assert calls.all() == []


RESTRICTED = {"bash": ("-r", "set -r"), "zsh": ("-r", "setopt restricted")}


@each_posix_shell
@pytest.mark.parametrize("how", ["option", "set later"])
def test_restricted_shell_is_not_hooked(
    stack: ExitStack, calls: Calls, states: Path, tmp_path: Path, name: str, how: str
) -> None:
    option, command = RESTRICTED[name]
    rc = tmp_path / (".zshrc" if name == "zsh" else "rc")
    rc.write_text(f"{PLAIN_PROMPT[name]}\n{hook(tmp_path, name, calls.program, 1)}\n")
    words = [word.format(rc=rc) for word in STARTED_WITH[name]]
    # It cannot write files, so that only its screen can be checked.
    opened = Terminal(tmp_path, [*words, *([option] if how == "option" else [])], {"ZDOTDIR": str(tmp_path)})
    stack.callback(opened.close)
    until(lambda: "ready> " in opened.seen(), "a prompt")
    if how == "set later":
        calls.wait(1)
        opened.type(command)
    before = len(calls.all())
    for line in ("__claude_sessions_last=0", "echo $((40 + 1))", "echo $((40 + 2))"):
        opened.type(line)
    until(lambda: re.search(r"41\s.*42\s.*ready> ", opened.seen(), re.DOTALL), "the answers")
    opened.type("exit")
    opened.process.wait(PATIENCE_S)
    assert "restricted" not in opened.seen().replace(command, ""), opened.seen()
    assert len(calls.all()) == before == (how == "set later")


@only_bash
@pytest.mark.parametrize("when", ["before", "after"])
def test_set_k_does_not_break_hooks(window: Open, calls: Calls, states: Path, name: str, when: str) -> None:
    opened = window(name, **{when: "set -k"})
    calls.wait(1)
    make_due(opened)
    assert shows_held_item(opened, states)
    calls.wait(2)
    assert opened.run("printenv CLAUDE_SESSIONS_PROMPT").out == "SD-1 12m\n"
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat", "end"]
    assert len({call.environment for call in calls.all()}) == 1
    assert "declare" not in opened.seen() and "PATH=" not in opened.seen(), opened.seen()


# -- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@cross("inner", list(SHELLS), [("bash", "bash"), ("bash", "zsh"), ("zsh", "fish"), ("fish", "bash")])
def test_nested_shell_beats_for_outer_session(
    window: Open, calls: Calls, tmp_path: Path, name: str, inner: str
) -> None:
    if not shutil.which(inner):
        pytest.skip(f"{inner} is not installed")
    opened = window(name)
    calls.wait(1)
    opened.enter(nested_line(opened, tmp_path, calls, inner), inner)
    calls.wait(2)
    assert opened.run(WHOAMI).data["pid"] == opened.pid
    opened.leave(name)
    assert calls.kinds() == ["beat", "beat"]
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat", "end"]
    assert {call.option("--pid") for call in calls.all()} == {str(opened.pid)}


ALL_EXPORTED = {"bash": "set -a", "zsh": "setopt all_export"}


@each_posix_shell
@pytest.mark.parametrize("inner", list(SHELLS))
def test_allexport_does_not_leak_the_hooks_identity(
    window: Open, calls: Calls, tmp_path: Path, name: str, inner: str
) -> None:
    if not shutil.which(inner):
        pytest.skip(f"{inner} is not installed")
    opened = window(name, before=ALL_EXPORTED[name])
    calls.wait(1)
    opened.enter(nested_line(opened, tmp_path, calls, inner), inner)
    opened.do("true")
    calls.wait(2)
    opened.leave(name)
    assert calls.kinds() == ["beat", "beat"]
    opened.type("exit")
    opened.wait()
    assert calls.kinds() == ["beat", "beat", "end"]


@only_bash
def test_inherited_hook_functions_end_nothing(window: Open, calls: Calls, name: str) -> None:
    opened = window(name, before="set -a", every=1)
    calls.wait(1)
    opened.enter("PS1='ready> ' bash --norc --noprofile -i")
    opened.do("set -u")
    make_due(opened)
    opened.do("true")
    opened.leave(name)
    assert "end" not in calls.kinds()
    assert "unbound" not in opened.seen(), opened.seen()


@needs_proc
@each_posix_shell
def test_terminal_with_leaked_hook_variables_is_own_session(window: Open, calls: Calls, name: str) -> None:
    opened = window(name, before=ALL_EXPORTED[name])
    calls.wait(1)
    exported = [entry for entry in opened.run("env").out.splitlines() if entry.startswith("__claude_sessions_")]
    assert exported
    other = window(name, more=dict(entry.split("=", 1) for entry in exported))
    calls.wait(2)
    other.type("exit")
    other.wait()
    assert calls.kinds() == ["beat", "beat", "end"]
    assert [call.option("--pid") for call in calls.all()] == [str(opened.pid), str(other.pid), str(other.pid)]


@pytest.mark.faults
@each_shell
def test_shell_below_pid_1_shell_is_nested(
    stack: ExitStack, calls: Calls, states: Path, tmp_path: Path, name: str
) -> None:
    # Like the shell of a container.
    place = tmp_path / "window"
    place.mkdir()
    rc = place / (".zshrc" if name == "zsh" else "rc")
    rc.write_text(f"{PLAIN_PROMPT[name]}\n{hook(tmp_path, name, calls.program)}\n")
    words = [word.format(rc=rc) for word in STARTED_WITH[name]]
    command = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    opened = Window(tmp_path, name, argv=[*command, "env", f"ZDOTDIR={place}", *words])
    stack.callback(opened.close)
    assert opened.ask("$fish_pid" if name == "fish" else "$$") == "1"
    calls.wait(1)
    opened.enter(nested_line(opened, tmp_path, calls, name), name)
    calls.wait(2)
    assert {call.option("--pid") for call in calls.all()} == {"1"}
    assert opened.run(WHOAMI).data["pid"] == 1
    opened.type("exit")
    opened.do("true")
    assert calls.kinds() == ["beat", "beat"]


@pytest.mark.faults
@each_shell
def test_prompt_and_typed_command_share_a_session(window: Open, calls: Calls, name: str) -> None:
    opened = window(name)
    [beat] = calls.wait(1)
    data = opened.run(WHOAMI).data
    assert (str(data["pid"]), data["tty"]) == (beat.option("--pid"), beat.option("--tty"))
    by_options = opened.run(f"setsid -w {WHOAMI} --pid {beat.option('--pid')} --tty {beat.option('--tty')}").data
    assert by_options["session_id"] == data["session_id"]


@needs("tmux")
@only_bash
def test_pane_with_inherited_hook_variable_is_own_session(
    stack: ExitStack, window: Open, calls: Calls, tmp_path: Path, name: str
) -> None:
    opened = window(name)
    calls.wait(1)
    tmux = Tmux(tmp_path)
    stack.callback(tmux.close)
    inherited = opened.ask("$CLAUDE_SESSIONS_SHELL")
    pane = tmux.pane({"CLAUDE_SESSIONS_SHELL": inherited, "CLAUDE_SESSIONS_STATE_DIR": str(tmp_path / "state")})
    pane.type(hook(tmp_path, name, calls.program))
    pane.run("true")
    beat = calls.wait(2)[1]
    data = pane.run(WHOAMI).data
    assert (beat.option("--pid"), beat.option("--tty")) == (str(data["pid"]), pane.tty)
    assert data["tty"] != opened.tty


@pytest.mark.faults
@needs_sudo
@each_shell_at_length
@pytest.mark.parametrize("hooked", [False, True])
def test_prompt_and_commands_agree_under_sudo(
    window: Open, calls: Calls, tmp_path: Path, name: str, hooked: bool
) -> None:
    opened = window(name)
    [outer] = calls.wait(1)
    opened.enter("sudo -n -i bash --norc --noprofile -i")
    if hooked:
        opened.type(hook(tmp_path, "bash", calls.program))
    data = opened.run(f"cd / && env PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))} {WHOAMI}").data
    last = calls.wait(2 if hooked else 1)[-1]
    assert str(data["pid"]) == last.option("--pid") == str(opened.shell if hooked else opened.pid)
    assert calls.all() == ([outer, last] if hooked else [outer])
    assert data["tty"] == last.option("--tty") or not hooked
    opened.type("exit")


@pytest.mark.faults
@each_shell
def test_shell_below_agent_sends_no_heartbeats(
    window: Open, calls: Calls, states: Path, tmp_path: Path, name: str
) -> None:
    agent = tmp_path / "claude"
    shutil.copy(str(shutil.which("bash")), agent)
    opened = window("bash")
    calls.wait(1)
    line = nested_line(opened, tmp_path, calls, name)
    opened.enter(f"{agent} --norc --noprofile -c {shlex.quote(line + '; true')}", name)
    data = opened.run(WHOAMI).data
    assert data["anchor"]["program"] == "claude"
    path = states / f"{data['pid']}-{process.read(data['pid']).start}"
    path.write_text(f"held {int(time.time()) - 65} SD-AGENT s\n")
    opened.do("true")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "SD-AGENT 1m"
    set_variables(opened, CLAUDE_SESSIONS_DSN="there")
    assert opened.ask("$CLAUDE_SESSIONS_PROMPT") == "SD-AGENT 1m"
    opened.leave("bash")
    assert calls.kinds() == ["beat"]


@each_shell
def test_session_id_set_by_user_is_renewed_but_never_ended(window: Open, calls: Calls, name: str) -> None:
    opened = window(name, more={"CLAUDE_SESSIONS_SESSION_ID": "by-hand", "CLAUDE_CODE_SESSION_ID": "left-over"})
    calls.wait(1)
    opened.type("exit")
    opened.wait()
    ids = [call.environment.rsplit("/", 4)[0] for call in calls.all()]
    assert [text.split("/")[0:2] for text in ids] == [["by-hand", ""], ["", ""]]
