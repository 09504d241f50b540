# shellcheck shell=sh
# A status line of Claude Code: set -- COMMAND INTERVAL DIRECTORY PROGRAM WORD...; . DIRECTORY/statusline.sh
#
# Prints what the session holds, from the files that its commands keep current, and sends the heartbeat behind it. COMMAND
# is the user's own status line, which the caller runs then, with the client's input and its patience; INTERVAL is for the
# removal. Nothing here reads the input, fails, or waits for a database.

cs_segment() {
    cs_pid=${CLAUDE_PID:-$PPID} cs_id=${CLAUDE_CODE_SESSION_ID:--}
    case $cs_pid in *[!0-9]*) return 0 ;; esac
    case $cs_id in *[!A-Za-z0-9._:-]*) cs_id=- ;; esac
    cs_state="$HOME/Library/Application Support/claude-sessions"
    [ ! -r /proc/uptime ] || cs_state=${XDG_STATE_HOME:-$HOME/.local/state}/claude-sessions
    cs_state=${CLAUDE_SESSIONS_STATE_DIR:-$cs_state}
    cs_stamp=$cs_state/agents/$cs_pid.$cs_id

    # The file is named for the session's process: the client, or the `run` around it.
    if [ -n "${CLAUDE_SESSIONS_ANCHOR-}" ] && [ -n "${CLAUDE_SESSIONS_SESSION_ID-}" ]; then
        cs_start=${CLAUDE_SESSIONS_ANCHOR##* } cs_file=${CLAUDE_SESSIONS_ANCHOR% *}
        cs_file=${cs_file##* }-$cs_start
    else
        cs_file=$cs_pid
        if [ -r "/proc/$cs_pid/stat" ]; then
            read -r cs_stat <"/proc/$cs_pid/stat"
            # The name before the bracket may hold blanks.
            # shellcheck disable=SC2086
            set -- ${cs_stat##*) }
            shift 19
            cs_file=$cs_pid-$1
        fi
    fi
    case $cs_file in *[!0-9-]*) return 0 ;; esac
    cs_file=$cs_state/terminals/$cs_file
    cs_kind=- cs_since=- cs_item=- cs_known=- cs_track=- cs_note='' cs_at=0
    # What another account wrote says nothing.
    # shellcheck disable=SC3067
    [ ! -f "$cs_file" ] || [ ! -O "$cs_file" ] || read -r cs_kind cs_since cs_item _ <"$cs_file"
    # shellcheck disable=SC3067
    [ ! -f "$cs_stamp" ] || [ ! -O "$cs_stamp" ] || {
        read -r cs_at _
        read -r cs_known cs_track cs_note
    } <"$cs_stamp"
    case $cs_item in '' | *[[:cntrl:]\!\"\#\$%\&\'\(\)\*\;\<\>\[\\\]^\`\{\|\}]*) cs_kind=- ;; esac
    cs_name=$cs_item
    # A blank in the files is a tilde.
    while :; do
        case $cs_name in *\~*) cs_name="${cs_name%%\~*} ${cs_name#*\~}" ;; *) break ;; esac
    done
    cs_text=
    case $cs_kind in
        lost) cs_text="LOST $cs_name" ;;
        held)
            cs_age
            [ "$cs_item" = "$cs_known" ] || cs_track=- cs_note=''
            cs_text=$cs_name
            [ "$cs_track" = - ] || cs_text="$cs_name ($cs_track)"
            cs_text="$cs_text $cs_age${cs_note:+ $cs_note}"
            ;;
    esac
}

cs_age() {
    cs_age='-'
    case $cs_since in '' | *[!0-9]* | 0?*) return 0 ;; esac
    cs_age=$(($(date +%s) - cs_since))
    if [ "$cs_age" -lt 0 ]; then cs_age=0; fi
    if [ "$cs_age" -lt 60 ]; then
        cs_age="${cs_age}s"
    elif [ "$cs_age" -lt 3600 ]; then
        cs_age="$((cs_age / 60))m"
    elif [ "$cs_age" -lt 86400 ]; then
        cs_age="$((cs_age / 3600))h$((cs_age % 3600 / 60))m"
    else
        cs_age="$((cs_age / 86400))d$((cs_age % 86400 / 3600))h"
    fi
}

# Track and note come with a heartbeat: if the commands show another item, it comes at once.
cs_beat() {
    cs_changed=
    if [ "$cs_kind" = held ] && [ "$cs_item" != "$cs_known" ]; then cs_changed=1; fi
    cs_directory=$1
    shift
    (
        set -- statusLine "$@"
        # shellcheck source=claude_sessions_cli/claude_code/hook.sh
        . "$cs_directory/hook.sh"
    ) </dev/null >/dev/null 2>&1 &
}

if [ "${CLAUDE_SESSIONS_HOOK-}" != 0 ]; then
    cs_text=
    cs_segment 2>/dev/null
    if [ -z "$cs_text" ]; then
        :
    elif [ -n "${1-}" ]; then
        printf '%s  ' "$cs_text"
    else
        printf '%s\n' "$cs_text"
    fi
    cs_user=${1-}
    [ $# -lt 3 ] || { shift 2 && cs_beat "$@"; }
    set -- "$cs_user"
fi
