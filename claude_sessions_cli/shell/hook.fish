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
        set -g __claude_sessions_more ''
        set -g __claude_sessions_others 0
        # The variables that choose a database, and an entry for each choice so far: the same, the commands that set them
        # again, and the name of the database in files, once it is known. Never exported, because there may be passwords.
        set -gu __claude_sessions_here ''
        set -gu __claude_sessions_values
        set -gu __claude_sessions_settings
        set -g __claude_sessions_databases
        set -g __claude_sessions_at 1
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
            if test -z "$own"
                for file in $__claude_sessions_state $__claude_sessions_state.*
                    test -s $file -a -w $file -a ! -L $file; and echo -n >$file
                end
            end
        end
        set -gx CLAUDE_SESSIONS_PROMPT ''
        set -g __claude_sessions_epoch 0
        if test -r /proc/uptime
            read -d . -l up rest </proc/uptime
            set -g __claude_sessions_epoch (math (command date +%s) - $up)
        end
    end

    # Keep the variables that reach this database, for the time when they have changed.
    function __claude_sessions_keep
        set -l text
        for name in (set -nx | string match 'PG*') CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG
            set -qx $name; and set -a text "set -fx $name "(string escape -- "$$name")
        end
        set -gu __claude_sessions_values[$__claude_sessions_at] "$__claude_sessions_here"
        set -gu __claude_sessions_settings[$__claude_sessions_at] "$(string join '; ' -- $text)"
    end

    # Turn to the database that the variables, $argv[1], name now: show what is known of it, and make a heartbeat due. The
    # file of the prompt changes at once, so that a heartbeat which is under way does not show the other database.
    function __claude_sessions_turn
        set -l first "$__claude_sessions_here"
        set -gu __claude_sessions_here $argv[1]
        test -z "$first" -o $__claude_sessions_role = guest; and return
        set -l key (contains -i -- "$argv[1]" $__claude_sessions_values; or math (count $__claude_sessions_values) + 1)
        set -l held $__claude_sessions_others
        set -l line ''
        set -l file $__claude_sessions_state.$__claude_sessions_databases[$key]
        test -f "$file" -a -r "$file"; and read line <$file
        # All claims of the terminal but the one here.
        test -n "$__claude_sessions_since"; and set held (math $held + 1)
        string match -q 'held *' -- "$line"; and set held (math $held - 1)
        test -n "$line"; or set line "none 0 - - - - -$key"
        test $held -gt 0; and set line "$line +$held"
        # fish would report a file that it cannot write.
        test ! -L $__claude_sessions_state -a ! -p $__claude_sessions_state
        and test -w $__claude_sessions_state -o -w $__claude_sessions_states -a ! -e $__claude_sessions_state
        and echo $line >$__claude_sessions_state
        set -g __claude_sessions_at $key
        set -g __claude_sessions_next 0
        __claude_sessions_parse $line $argv[1]
    end

    # Run the program with these arguments in the background, unnoticed, for each database in which the terminal is
    # registered; it outlives the terminal. $argv[1] are the variables that choose a database now.
    function __claude_sessions_call
        test -x $__claude_sessions_program[1]; or return 0
        set -l key 0
        for values in $__claude_sessions_values
            set key (math $key + 1)
            test $key = $__claude_sessions_at -o -n "$__claude_sessions_databases[$key]"
            and __claude_sessions_start $key $argv
        end
    end

    # Run it for the database of an entry. Not as a job of fish: that would change $last_pid, and fish starts no jobs while
    # it exits.
    function __claude_sessions_start
        set -l more --quiet --within $__claude_sessions_within --pid $__claude_sessions_pid --tty $__claude_sessions_tty
        test $argv[3] = release; or set -a more --prompt "$__claude_sessions_line"
        if test "$__claude_sessions_values[$argv[1]]" != "$argv[2]"
            # Variables of this function hide the others.
            for name in (set -nx | string match 'PG*') CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG
                set -fu $name
            end
            eval $__claude_sessions_settings[$argv[1]]
            test $argv[3] = release; or set -a more --elsewhere
        end
        set -lx CLAUDE_SESSIONS_SHELL $__claude_sessions_name
        # A session that a person named may have other terminals.
        command sh -c 'trap "" HUP; unset CLAUDE_CODE_SESSION_ID
            test "$1" != release || unset CLAUDE_SESSIONS_SESSION_ID
            program=$2 command=$1; shift 2; "$program" "$@" &' \
            sh $argv[3] $__claude_sessions_program $argv[3..] $more </dev/null >/dev/null 2>/dev/null
    end

    # Parse the line of the state file: it seldom changes from one prompt to the next. $argv[2] are the variables that
    # choose a database now.
    function __claude_sessions_parse
        set -g __claude_sessions_line $argv[1]
        set -g __claude_sessions_since ''
        set -g __claude_sessions_item ''
        set -g __claude_sessions_more ''
        set -g __claude_sessions_others 0
        set -l words (string match -r -g -- '^(held|lost|none) (0|[1-9][0-9]{0,11}) ([\p{L}\p{M}\p{N}._:?/@+,=~-]+)(?: |$)' "$argv[1]"); or return 0
        # In another locale, the terminal may take a byte of a character for a command.
        set -l locale $LC_ALL $LC_CTYPE $LANG
        string match -q -i -r 'utf-?8' -- "$locale[1]"
        or set words[3] (string replace -r -a '[^A-Za-z0-9._:/@+,=~-]' '?' -- $words[3])
        set -l item (string replace -a '~' ' ' -- $words[3])
        if set -l others (string match -r -g -- ' \+([1-9][0-9]?)$' "$argv[1]")
            set -g __claude_sessions_others $others
            set -g __claude_sessions_more " +$others"
        end
        # Between two prompts a command may have used another database, if the variables have changed.
        if set -l database (string match -r -g -- '^(?:\S+ ){6}([0-9a-f]{16})(?: |$)' "$argv[1]")
            and test -z "$__claude_sessions_databases[$__claude_sessions_at]" -o "$__claude_sessions_here" = "$argv[2]"
            set -g __claude_sessions_databases[$__claude_sessions_at] $database
        end
        switch $words[1]
            case held
                # From here on by the clock of the prompt: with /proc that is the clock of this boot, read without a fork.
                set -g __claude_sessions_since (math $words[2] - $__claude_sessions_epoch)
                set -g __claude_sessions_item $item
            case lost
                set -g __claude_sessions_item "LOST $item"
            case none
                set -g __claude_sessions_more (string trim -- "$__claude_sessions_more")
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
        set -l values @VALUES@
        test "$line" = "$__claude_sessions_line"; or __claude_sessions_parse "$line" $values
        test $values = "$__claude_sessions_here"; or __claude_sessions_turn $values
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
            set -gx CLAUDE_SESSIONS_PROMPT "$__claude_sessions_item $age$__claude_sessions_more"
        else
            set -gx CLAUDE_SESSIONS_PROMPT "$__claude_sessions_item$__claude_sessions_more"
        end
        if test $now -lt $__claude_sessions_last -o $now -ge $__claude_sessions_next; and test $__claude_sessions_role != guest
            set -g __claude_sessions_last $now
            set -g __claude_sessions_next (math $now + $__claude_sessions_every)
            __claude_sessions_keep
            __claude_sessions_call $values heartbeat --register
        end
    end

    function __claude_sessions_exit --on-event fish_exit
        if test "$__claude_sessions_in" = $fish_pid -a "$__claude_sessions_role" = owner -a "$CLAUDE_SESSIONS_HOOK" != 0
            __claude_sessions_call @VALUES@ release --end
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
