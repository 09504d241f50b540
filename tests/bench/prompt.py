"""The hooks at a prompt, beside a bare shell's prompt, in real shells on a pseudoterminal.

A shell times itself, in bursts: the fastest burst is the cost of the work, the rest is other load. The bars include the
bare prompt's own time; fish is only shown.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.programs import clean_home
from bench.sitting import Sitting
from claude_sessions_cli.shell import hooks

NEEDS = ("bash", "zsh", "fish", "strace")
BURSTS, PROMPTS, DUE_BURSTS = 300, 20, 60
NOT_DUE_BAR_US, DUE_BAR_MS = 50, 3
FORKS = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(?:clone3?|v?fork)\(", re.MULTILINE)
STATE = "held 1700000000 SD-AUTH-001 session_0a1b2c3d_pts3_4711 1700000000000000 1700000000000000 0f1e2d3c4b5a6978 +1"
SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
# What each does at a prompt, as the shell does it: bash evaluates a text, zsh calls functions, fish fires an event.
BODIES = {
    "bash": r"""
best() {
    local A B n q least=999999999
    for ((n = 0; n < $1; n++)); do
        [[ $3 != due ]] || __claude_sessions_last=0 __claude_sessions_next=0
        A=$EPOCHREALTIME
        for ((q = 0; q < $2; q++)); do eval "$PROMPT_COMMAND"; done
        B=$EPOCHREALTIME
        A=$((${B/./} - ${A/./}))
        ((A >= least)) || least=$A
        [[ $3 != due ]] || wait_a_little
    done
    echo "$3 $((least * 1000 / $2))"
}
wait_a_little() { read -t 0.02 -r </dev/null || command sleep 0.02; }
[[ -n ${EPOCHREALTIME-} ]] || { echo no clock; exit 0; }
PROMPT_COMMAND=:
best BURSTS PROMPTS bare
PROMPT_COMMAND=
source HOOK
eval "$PROMPT_COMMAND"
echo STATE >"$__claude_sessions_state"
best BURSTS PROMPTS hooked
best DUE 1 due
exit 0
""",
    "zsh": r"""
zmodload zsh/datetime
best() {
    local -F A least=999999999
    local n q f
    for ((n = 0; n < $1; n++)); do
        [[ $3 != due ]] || __claude_sessions_last=0 __claude_sessions_next=0
        A=$EPOCHREALTIME
        for ((q = 0; q < $2; q++)); do for f in $precmd_functions; do $f; done; done
        ((A = (EPOCHREALTIME - A) * 1e9 / $2))
        ((A >= least)) || least=$A
        [[ $3 != due ]] || command sleep 0.02
    done
    echo $3 ${least%.*}
}
bare() { : }
precmd_functions=(bare)
best BURSTS PROMPTS bare
precmd_functions=()
source HOOK
$precmd_functions
echo STATE >$__claude_sessions_state
best BURSTS PROMPTS hooked
best DUE 1 due
exit 0
""",
    "fish": r"""
function best
    set -l least 999999999999
    for n in (seq $argv[1])
        test $argv[3] = due; and set -g __claude_sessions_next 0
        set -l a (date +%s%N)
        for q in (seq $argv[2]); $argv[4]; end
        set -l b (date +%s%N)
        set -l took (math "($b - $a) / $argv[2]")
        test $took -lt $least; and set least $took
        test $argv[3] = due; and command sleep 0.02
    end
    echo $argv[3] (math "floor($least)")
end
function bare; true; end
best BURSTS PROMPTS bare bare
source HOOK
__claude_sessions_prompt
echo STATE >$__claude_sessions_state
best BURSTS PROMPTS hooked __claude_sessions_prompt
best DUE 1 due __claude_sessions_prompt
exit 0
""",
}
# Two numbers of prompts: the difference of their forks is the forks of the prompts.
FORKING = {
    "bash": 'source HOOK; eval "$PROMPT_COMMAND"; echo STATE >"$__claude_sessions_state"\n'
    'for ((q = 0; q < COUNT; q++)); do eval "$PROMPT_COMMAND"; done; kill -9 $$',
    "zsh": "source HOOK; $precmd_functions; echo STATE >$__claude_sessions_state\n"
    "for ((q = 0; q < COUNT; q++)); do $precmd_functions; done; kill -9 $$",
    "fish": "source HOOK; __claude_sessions_prompt; echo STATE >$__claude_sessions_state\n"
    "for q in (seq COUNT); __claude_sessions_prompt; end; kill -9 $fish_pid",
}


def on_terminal(argv: Sequence[str]) -> str:
    """Run a program on a terminal of its own and return its output."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(argv[0], list(argv))
    output = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 1 << 16):
            output += data
    os.waitpid(pid, 0)
    os.close(master)
    return output.decode(errors="replace")


def measure_shell(shell: str, directory: Path, hook: Path) -> dict[str, float]:
    """Return the microseconds of a bare prompt, of a hooked one, of one that beats; nothing without a clock."""
    body = BODIES[shell].replace("HOOK", str(hook)).replace("STATE", STATE)
    bursts = {"bash": BURSTS, "zsh": BURSTS, "fish": 20}[shell]
    body = body.replace("BURSTS", str(bursts)).replace("PROMPTS", str(PROMPTS)).replace("DUE", str(DUE_BURSTS))
    script = directory / f"time.{shell}"
    script.write_text(body)
    shown = on_terminal([*SHELLS[shell], str(script)])
    found = {name: int(text) / 1000 for name, text in re.findall(r"^(bare|hooked|due) (\d+)\r?$", shown, re.MULTILINE)}
    if "no clock" in shown:
        return {}
    if len(found) != 3:
        sys.exit(f"bench: {shell} did not answer: {shown}")
    return found


def count_forks(shell: str, directory: Path, hook: Path) -> int | None:
    """Return how many processes 100 prompts start that are not due; None if strace may not."""
    forks = []
    for number in (0, 100):
        text = FORKING[shell].replace("HOOK", str(hook)).replace("STATE", STATE).replace("COUNT", str(number))
        script, trace = directory / f"forks.{shell}", directory / f"trace-{shell}-{number}"
        script.write_text(text)
        calls = ("-e", "trace=clone,clone3,fork,vfork", "-o", str(trace))
        on_terminal(["strace", "-f", "-qq", *calls, *SHELLS[shell], str(script)])
        if not trace.exists() or not trace.stat().st_size:
            return None
        # A thread is no process.
        lines = [line for line in trace.read_text().splitlines() if "CLONE_THREAD" not in line]
        forks.append(len(FORKS.findall("\n".join(lines))))
    return forks[1] - forks[0]


def measure(sitting: Sitting) -> None:
    """Print a line for each shell, and compare with the bars."""
    rows: list[tuple[str, float, float, float, float, int | None]] = []
    with tempfile.TemporaryDirectory(prefix="claude-sessions-bench-") as name, clean_home(name):
        directory = Path(name)
        os.environ["CLAUDE_SESSIONS_STATE_DIR"] = name
        (directory / "terminals").mkdir()
        for shell in filter(sitting.has, SHELLS):
            hook = directory / f"hook.{shell}"
            hook.write_text(hooks.render(shell, [shutil.which("true") or "/bin/true"], 86400))
            took = measure_shell(shell, directory, hook)
            if not took:
                sitting.leave_out(shell, "this version has no clock that is fine enough")
                continue
            forks = count_forks(shell, directory, hook) if sitting.has("strace") else None
            bare, hooked, due = took["bare"], took["hooked"], (took["due"] - took["bare"]) / 1000
            rows.append((shell, bare, hooked, hooked / bare, due, forks))
    columns = ["", "bare, us", "not due, us", "ratio", "more when due, ms", "forks of 100 not due"]
    sitting.table(f"a prompt, the least of {BURSTS} bursts", columns, rows)
    for shell, _, hooked, _, due, forks in rows:
        if shell != "fish":
            sitting.bar(f"{shell}, not due, us", hooked, most=NOT_DUE_BAR_US)
            sitting.bar(f"{shell}, more when due, ms", due, most=DUE_BAR_MS)
            if forks is not None:
                sitting.bar(f"{shell}, forks", forks, most=0)
