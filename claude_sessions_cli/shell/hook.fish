# claude-sessions in fish, from 3.4 on; printed by `claude-sessions shell-init fish`.
# Off for a while: set -g CLAUDE_SESSIONS_HOOK 0. Undo: claude_sessions_unhook. In the prompt: $CLAUDE_SESSIONS_PROMPT.
if status is-interactive

    set -g __claude_sessions_program @PROGRAM@
    set -g __claude_sessions_states @STATES@
    set -g __claude_sessions_every @EVERY@
    set -g __claude_sessions_within @WITHIN@

    # Print name, parent, device and start of a process as the kernel shows it, a line each, without a fork.
    function __claude_sessions_look
        test -r /proc/$argv[1]/stat; or return
        set -l line
        read -z line </proc/$argv[1]/stat
        # The name may hold spaces, brackets and line ends: the fields begin after the last bracket.
        string match -r -g -- '(?s)\((.*)\) \S (\d+) \d+ \d+ (\d+) (?:\S+ ){14}(\d+)' $line
    end

    function __claude_sessions_name_tty
        set -l major (math "floor($argv[1] / 256) % 4096")
        set -l minor (math "$argv[1] % 256 + floor($argv[1] / 1048576) * 256")
        if test $major -ge 136 -a $major -le 143
            echo /dev/pts/(math "($major - 136) * 256 + $minor")
        else if test $major -eq 4 -a $minor -lt 64
            echo /dev/tty$minor
        else
            command tty 2>/dev/null
        end
    end

    # Determine once what this shell is, by the rules of `claude-sessions whoami --explain`: owner of the session, nested
    # in one that is, or guest of an agent or a `run`.
    function __claude_sessions_adopt
        set -l tty
        set -l own
        set -l hooked
        set -l told
        # Record the process: another shell may have exported the other variables.
        set -g __claude_sessions_in $fish_pid
        set -g __claude_sessions_last 0
        set -g __claude_sessions_next 0
        set -g __claude_sessions_line ''
        set -g __claude_sessions_since ''
        set -g __claude_sessions_item ''
        set -g __claude_sessions_role owner
        set -g __claude_sessions_pid $fish_pid
        set -l seen (__claude_sessions_look $fish_pid)
        if set -q seen[4]
            set own $seen[4]
            set tty (__claude_sessions_name_tty $seen[3])
        else
            set tty (command tty 2>/dev/null)
        end
        if not string match -q '/dev/*' -- $tty
            set -g __claude_sessions_role nobody
            return
        end
        set -q CLAUDE_SESSIONS_SESSION_ID[1]; and test -n "$CLAUDE_SESSIONS_SESSION_ID"; and set told "$CLAUDE_SESSIONS_ANCHOR"
        string match -q -- "$tty:*" "$CLAUDE_SESSIONS_SHELL"; and set hooked $CLAUDE_SESSIONS_SHELL
        set -l pid $seen[2]
        while test -n "$pid" -a "$pid" != 0
            set seen (__claude_sessions_look $pid)
            set -q seen[4]; or break
            if test "$seen[1]" = claude -o "$pid" = "$CLAUDE_PID"; or string match -q -- "* $pid $seen[4]" "$told"
                set -g __claude_sessions_role guest
            else if test "$hooked" = "$tty:$pid:$seen[4]"
                set -g __claude_sessions_role nested
            else
                set pid $seen[2]
                continue
            end
            set -g __claude_sessions_pid $pid
            set own $seen[4]
            break
        end
        if test -z "$own" -a -n "$hooked"
            # Without /proc, a live shell of this terminal is an ancestor.
            set hooked (string split : -- $hooked)[2]
            if test "$hooked" != $fish_pid; and command kill -0 $hooked 2>/dev/null
                set -g __claude_sessions_role nested
                set -g __claude_sessions_pid $hooked
            end
        end
        set -g __claude_sessions_tty $tty
        set -g __claude_sessions_name $tty:$__claude_sessions_pid:$own
        set -g __claude_sessions_state $__claude_sessions_states/$__claude_sessions_pid(string replace -r '^(?=.)' - -- "$own")
        if test $__claude_sessions_role = owner
            set -gx CLAUDE_SESSIONS_SHELL $__claude_sessions_name
            # Without a start in its name, the file may belong to an earlier process with this pid.
            if test -z "$own" -a -s $__claude_sessions_state -a -w $__claude_sessions_state
                echo -n >$__claude_sessions_state
            end
        end
        set -gx CLAUDE_SESSIONS_PROMPT ''
        set -g __claude_sessions_epoch 0
        if test -r /proc/uptime
            read -d . -l up rest </proc/uptime
            set -g __claude_sessions_epoch (math (command date +%s) - $up)
        end
    end

    # Run the program with these arguments in the background, unnoticed; it outlives the terminal. Not as a job of fish:
    # that would change $last_pid, and fish starts no jobs while it exits.
    function __claude_sessions_call
        test -x $__claude_sessions_program[1]; or return 0
        set -lx CLAUDE_SESSIONS_SHELL $__claude_sessions_name
        set -l more --quiet --within $__claude_sessions_within --pid $__claude_sessions_pid --tty $__claude_sessions_tty
        # A session that a person named may have other terminals.
        command sh -c 'trap "" HUP; unset CLAUDE_CODE_SESSION_ID
            test "$1" != release || unset CLAUDE_SESSIONS_SESSION_ID
            program=$2 command=$1; shift 2; "$program" "$@" &' \
            sh $argv[1] $__claude_sessions_program $argv $more </dev/null >/dev/null 2>/dev/null
    end

    # Parse the line of the state file: it seldom changes from one prompt to the next.
    function __claude_sessions_parse
        set -g __claude_sessions_line $argv[1]
        set -g __claude_sessions_since ''
        set -g __claude_sessions_item ''
        set -l words (string match -r -g -- '^(held|lost) (0|[1-9][0-9]{0,11}) ([A-Za-z0-9._:?-]+)( |$)' "$argv[1]"); or return 0
        if test $words[1] = lost
            set -g __claude_sessions_item "LOST $words[3]"
        else
            # From here on by the clock of the prompt: with /proc that is the clock of this boot, read without a fork.
            set -g __claude_sessions_since (math $words[2] - $__claude_sessions_epoch)
            set -g __claude_sessions_item $words[3]
        end
    end

    function __claude_sessions_prompt --on-event fish_prompt
        if test "$CLAUDE_SESSIONS_HOOK" = 0
            set -g CLAUDE_SESSIONS_PROMPT ''
            return
        end
        test "$__claude_sessions_in" = $fish_pid; or __claude_sessions_adopt
        test $__claude_sessions_role = nobody; and return
        set -l now
        if test -r /proc/uptime
            read -d . -l up rest </proc/uptime
            set now $up
        else
            set now (command date +%s)
        end
        set -l line ''
        test -f $__claude_sessions_state -a -r $__claude_sessions_state; and read line <$__claude_sessions_state
        test "$line" = "$__claude_sessions_line"; or __claude_sessions_parse $line
        if test -n "$__claude_sessions_since"
            set -l age (math "max(0, $now - $__claude_sessions_since)")
            if test $age -lt 60
                set age {$age}s
            else if test $age -lt 3600
                set age (math "floor($age / 60)")m
            else if test $age -lt 86400
                set age (math "floor($age / 3600)")h(math "floor($age % 3600 / 60)")m
            else
                set age (math "floor($age / 86400)")d(math "floor($age % 86400 / 3600)")h
            end
            set -gx CLAUDE_SESSIONS_PROMPT "$__claude_sessions_item $age"
        else
            set -gx CLAUDE_SESSIONS_PROMPT "$__claude_sessions_item"
        end
        if test $now -lt $__claude_sessions_last -o $now -ge $__claude_sessions_next; and test $__claude_sessions_role != guest
            set -g __claude_sessions_last $now
            set -g __claude_sessions_next (math $now + $__claude_sessions_every)
            __claude_sessions_call heartbeat --register
        end
    end

    function __claude_sessions_exit --on-event fish_exit
        if test "$__claude_sessions_in" = $fish_pid -a "$__claude_sessions_role" = owner -a "$CLAUDE_SESSIONS_HOOK" != 0
            __claude_sessions_call release --end
        end
    end

    function claude_sessions_unhook
        test "$__claude_sessions_in" = $fish_pid -a "$__claude_sessions_role" = owner; and set -e CLAUDE_SESSIONS_SHELL
        set -e CLAUDE_SESSIONS_PROMPT
        functions -e (functions -a -n | string split , | string trim | string match '__claude_sessions_*')
        set -e (set -n | string match '__claude_sessions_*')
        functions -e claude_sessions_unhook
    end

end
