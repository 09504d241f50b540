# shellcheck shell=sh
# Beats while a question waits for its user, when no hook and no status line runs: sh keep.sh PID START STAMP EVERY
# PROGRAM WORD... Ends with the agent's process, or when a hook or the status line has removed STAMP.keep.

pid=$1 start=$2 stamp=$3 every=$4
shift 4

# Another process may get the pid of one that has ended.
lives() {
    [ -r "/proc/$pid/stat" ] && read -r stat <"/proc/$pid/stat" || return 1
    # The name before the bracket may hold blanks.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    shift 19
    [ "$1" = "$start" ]
}

while sleep "$every" && [ -f "$stamp.keep" ] && lives; do
    CLAUDE_PID=$pid "$@" hook statusLine --background </dev/null >/dev/null 2>&1 || break
done
rm -f "$stamp.keep"
