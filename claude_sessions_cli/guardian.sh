#!/bin/sh
# Ends the command of a `run` whose wrapper is gone.
#
# Usage: guardian.sh SECONDS [GROUP...]
#
# The wrapper writes the command's process group into this process' stdin, and "done" when the command has ended. End of
# file without "done": the wrapper was killed, and the group gets TERM, CONT and, after SECONDS, KILL. This process lives
# until nothing of the command does, and the claim with it. The groups are arguments then, so that others see them.

trap '' HUP INT QUIT TERM
if [ $# -lt 2 ]; then
    while read -r word; do
        [ "$word" = "done" ] && exit
        set -- "$@" "$word"
    done
    [ $# -gt 1 ] || exit
    [ -r "$0" ] && exec /bin/sh "$0" "$@"
fi
seconds=$1
shift
groups=" $* "

# Print pid:parent:group of each process that is no zombie.
list() {
    if [ -e /proc/uptime ]; then
        for file in /proc/[0-9]*/stat; do
            read -r line 2>/dev/null <"$file" || continue
            pid=${line%% *}
            # shellcheck disable=SC2086 # The fields after the name, which may hold spaces.
            set -- ${line##*) }
            case $1 in
            # Its first thread has ended; others may live.
            [ZXx]) [ "${18}" -gt 1 ] || continue ;;
            esac
            echo "$pid:$2:$3"
        done
    else
        ps -A -o pid= -o ppid= -o pgid= -o stat= | while read -r id above of state; do
            [ "${state#Z}" = "$state" ] && echo "$id:$above:$of"
        done
    fi
}

# Add the groups of all descendants: a shell with job control gives each job one of its own.
reach() {
    all=$(list) members=' ' before=
    while [ "$before" != "$members" ]; do
        before=$members
        for one in $all; do
            pid=${one%%:*} group=${one##*:}
            parent=${one#*:} parent=${parent%:*}
            case $members in *" $pid "*) continue ;; esac
            case $groups in
            *" $group "*) members="$members$pid " ;;
            *)
                case $members in *" $parent "*) members="$members$pid " groups="$groups$group " ;; esac
                ;;
            esac
        done
    done
}

# Whether a process of the groups lives.
is_alive() {
    for one in $(list); do
        case $groups in *" ${one##*:} "*) return 0 ;; esac
    done
    for group in $groups; do
        # /proc may hide the processes of other users.
        case $(kill -s 0 -- "-$group" 2>&1) in *ermi*) return 0 ;; esac
    done
    return 1
}

signal() {
    for group in $groups; do
        kill -s "$1" -- "-$group"
    done
}

# If this script cannot go on, as without memory.
trap 'signal KILL' EXIT
reach
signal TERM
signal CONT
while [ "$seconds" -gt 0 ] && is_alive; do
    sleep 1
    seconds=$((seconds - 1))
done
pause=1
while is_alive; do
    reach
    signal KILL
    # What this user may not kill keeps the claim.
    sleep "$pause"
    pause=5
done
