#!/bin/sh
# Two sessions want the same work item: the main job in a minute, on a private Postgres in a directory of its own.
set -eu
exec 2>&1 # errors in their place among the answers

directory=$(mktemp -d)
chmod 755 "$directory" # as root, the server runs as another account
# Only the private server: the caller's settings go, and an empty file stands for config.toml.
settings=$(awk 'BEGIN { for (name in ENVIRON) if (name ~ /^(CLAUDE|PG)[A-Z0-9_]*$/) print name }')
for name in $settings; do
    unset "$name"
done
: >"$directory/config.toml"
export CLAUDE_SESSIONS_DSN=embedded CLAUDE_SESSIONS_CONFIG="$directory/config.toml"
export CLAUDE_SESSIONS_DATA_DIR="$directory/data" CLAUDE_SESSIONS_STATE_DIR="$directory/state"

# Two processes stand for two terminals.
sleep 600 & alice=$!
sleep 600 & bob=$!

finish() {
    kill "$alice" "$bob" 2>/dev/null || true
    claude-sessions db stop --quiet || true
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 130' INT TERM PIPE

as() { # as NAME PID WORD...: show a command, and run it as that session
    name=$1 pid=$2
    shift 2
    printf '\n%s$ claude-sessions %s\n' "$name" "$*"
    CLAUDE_SESSIONS_SESSION_ID=$name claude-sessions "$@" --pid "$pid" || printf '(exit %s)\n' $?
}
run() {
    printf '\n$ claude-sessions %s\n' "$*"
    claude-sessions "$@"
}

as alice "$alice" claim SD-AUTH-001 --track A
as bob "$bob" claim SD-AUTH-001 --track A
run list
as alice "$alice" release SD-AUTH-001 --reason completed
as bob "$bob" claim SD-AUTH-001 --track A

printf '\n# Now the process of bob is killed.\n'
kill -KILL "$bob"
wait "$bob" 2>/dev/null || true
run list
run reap
run list --all
