# shellcheck shell=sh
# A hook of Claude Code, entered once for each event: set -- EVENT [PROGRAM WORD...]; . hook.sh
#
# Most calls have nothing to do, and end here without Python: the stamp of the session says when the next heartbeat is
# due, and whether a loss is still unreported. The input is left unread, which the client does not mind. What is due
# runs in the background, in a session of its own: the client may end the process group of a hook. A hook must never
# fail: exit code 2 would erase the user's prompt.

trap 'exit 0' EXIT
exec 2>/dev/null
[ "${CLAUDE_SESSIONS_HOOK-}" != 0 ] || exit 0

cs_event=${1-}
shift
cs_plugin=
# The plugin does not know where the program is.
[ $# -gt 0 ] || { set -- claude-sessions && cs_plugin=1; }

# The name of the stamp: the agent's process and its conversation. Other characters could leave the directory.
cs_pid=${CLAUDE_PID:-$PPID} cs_id=${CLAUDE_CODE_SESSION_ID:--}
case $cs_pid in *[!0-9]*) exit 0 ;; esac
case $cs_id in *[!A-Za-z0-9._:-]*) cs_id=- ;; esac

# The program's state directory. The clock is the time since the boot if /proc has it: nobody sets it, and reading it
# starts no process.
if [ -r /proc/uptime ]; then
    read -r cs_now _ </proc/uptime
    cs_now=${cs_now%.*}
    cs_state=${XDG_STATE_HOME:-$HOME/.local/state}/claude-sessions
else
    cs_now=$(date +%s)
    cs_state="$HOME/Library/Application Support/claude-sessions"
fi
cs_stamp=${CLAUDE_SESSIONS_STATE_DIR:-$cs_state}/agents/$cs_pid.$cs_id

cs_at=- cs_due=- cs_flag=-
# What another account wrote says nothing. Every sh that Linux and macOS ship knows -O.
# shellcheck disable=SC3067
[ ! -f "$cs_stamp" ] || [ ! -O "$cs_stamp" ] || read -r cs_at cs_due cs_flag _ <"$cs_stamp"

# A stamp of an earlier boot may lie in the future, and a malformed one is no number: then a heartbeat is due.
cs_is_due() {
    ! { [ "$cs_now" -ge "$cs_at" ] && [ "$cs_now" -lt "$cs_due" ]; }
}

# If many hooks run at once, one creates the lock. The program removes it, and excludes a second run by itself; a lock
# that a killed program left behind counts for 30 s.
cs_is_first() {
    cs_lock=$cs_stamp.lock
    [ ! -p "$cs_lock" ] || rm -f "$cs_lock"
    set -C
    if ! printf '%s\n' "$cs_now" >"$cs_lock"; then
        cs_then=-
        [ ! -f "$cs_lock" ] || read -r cs_then <"$cs_lock"
        if [ "$cs_now" -ge "$cs_then" ] && [ "$cs_now" -lt "$((${cs_then%%[!0-9]*} + 30))" ]; then
            set +C
            return 1
        fi
        rm -f "$cs_lock"
        printf '%s\n' "$cs_now" >"$cs_lock"
    fi
    set +C
}

cs_in_background() {
    exec 3<&0
    if command -v setsid >/dev/null; then set -- setsid "$@"; fi
    # A shell without job control gives a background process no input, unless it is told to.
    ("$@" <&3 3<&- >/dev/null &)
    exec 3<&-
}

# Beyond this point the program may run. It finds the agent by this, also after the agent has ended.
export CLAUDE_PID="$cs_pid"
case $cs_event in
    SessionStart) "$@" hook SessionStart ${cs_plugin:+--plugin} ;;
    SessionEnd) cs_in_background "$@" hook SessionEnd --background ;;
    PreToolUse)
        case $cs_flag in lost | twin) "$@" hook PreToolUse ;; esac
        ;;
    # A question waits for its user: the program sends heartbeats until something else runs here.
    Notification) cs_in_background "$@" hook Notification --background ;;
    UserPromptSubmit | PostToolUse | PostToolUseFailure | Stop | SubagentStop | CwdChanged)
        [ ! -f "$cs_stamp.keep" ] || rm -f "$cs_stamp.keep"
        if [ -f "$cs_stamp.loss" ]; then
            case $cs_event in UserPromptSubmit | PostToolUse) "$@" hook "$cs_event" ;; esac
        fi
        if cs_is_due && cs_is_first; then cs_in_background "$@" hook "$cs_event" --background; fi
        ;;
    # From statusline.sh, which notices that the session holds another item than the stamp knows.
    statusLine)
        [ ! -f "$cs_stamp.keep" ] || rm -f "$cs_stamp.keep"
        if cs_is_due && cs_is_first; then
            cs_in_background "$@" hook statusLine --background
        elif [ -n "${cs_changed-}" ] && [ "$cs_now" -gt "$((cs_at + 5))" ] && cs_is_first; then
            cs_in_background "$@" hook statusLine --background --changed
        fi
        ;;
    # The program notes in its log that it knows no such event.
    *) cs_in_background "$@" hook "$cs_event" --background ;;
esac
exit 0
