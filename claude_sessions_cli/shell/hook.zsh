# claude-sessions in zsh; printed by `claude-sessions shell-init zsh`.
# Off for a while: CLAUDE_SESSIONS_HOOK=0. Undo: claude_sessions_unhook. In the prompt: $CLAUDE_SESSIONS_PROMPT.
if [[ -o interactive ]]; then

    typeset -ga __claude_sessions_program
    __claude_sessions_program=(@PROGRAM@)
    typeset -g __claude_sessions_states=@STATES@
    typeset -g __claude_sessions_every=@EVERY@
    typeset -g __claude_sessions_within=@WITHIN@
    # The clock of the prompt's escapes: no module to load, no fork.
    typeset -g __claude_sessions_clock='%D{%s}'

    # Set name, parent, device and start as the kernel shows the process $1, without a fork.
    __claude_sessions_look() {
        local line=
        { builtin read -r -d '' line </proc/$1/stat; } 2>/dev/null || [[ -n $line ]] || return 1
        name=${${line#*\(}%\)*}
        set -- ${(s: :)line##*\) }
        parent=$2 device=$5 start=${20}
    }

    # Determine once what this shell is, by the rules of `claude-sessions whoami --explain`: owner of the session, nested
    # in one that is, or guest of an agent or a `run`.
    __claude_sessions_adopt() {
        local name= parent= device= start= own= pid=$PPID told= hooked=${CLAUDE_SESSIONS_SHELL-} terminal=${TTY-}
        # An array, which no shell inherits: a variable that all_export exports would describe another shell.
        typeset -ga __claude_sessions_role
        __claude_sessions_role=(owner)
        typeset -g __claude_sessions_pid=$$ __claude_sessions_last=0
        typeset -g __claude_sessions_line= __claude_sessions_since= __claude_sessions_item=
        typeset -g __claude_sessions_more= __claude_sessions_others=0 __claude_sessions_at=1
        # The variables that choose a database, and an entry for each choice so far: the same, the commands that set them
        # again, and the name of the database in files, once it is known. Arrays, because there may be passwords.
        typeset -ga __claude_sessions_here __claude_sessions_values __claude_sessions_settings __claude_sessions_databases
        __claude_sessions_here=() __claude_sessions_values=() __claude_sessions_settings=() __claude_sessions_databases=()
        # Nothing in a restricted shell, which cannot start a program silently, and without the variable.
        if [[ -o restricted || ${(t)CLAUDE_SESSIONS_SHELL-} == *readonly* ]]; then
            __claude_sessions_role=(nobody)
            return 0
        fi
        __claude_sessions_look $$ && own=$start
        if [[ $terminal != /dev/* || $device == 0 ]]; then
            __claude_sessions_role=(nobody)
            return 0
        fi
        [[ -z ${CLAUDE_SESSIONS_SESSION_ID-} ]] || told=${CLAUDE_SESSIONS_ANCHOR-}
        [[ $hooked == "$terminal":* ]] || hooked=
        while (( pid > 0 )) && __claude_sessions_look $pid; do
            if [[ $name == claude || $pid == "${CLAUDE_PID-}" || $told == *" $pid $start" ]]; then
                __claude_sessions_role=(guest)
            elif [[ $hooked == "$terminal:$pid:$start" ]]; then
                __claude_sessions_role=(nested)
            else
                pid=$parent
                continue
            fi
            __claude_sessions_pid=$pid own=$start
            break
        done
        if [[ -z $own && -n $hooked ]]; then
            # Without /proc, a live shell of this terminal is an ancestor.
            hooked=${${hooked#"$terminal":}%%:*}
            if [[ $hooked != $$ ]] && builtin kill -0 $hooked 2>/dev/null; then
                __claude_sessions_role=(nested) __claude_sessions_pid=$hooked
            fi
        fi
        typeset -g __claude_sessions_tty=$terminal
        typeset -g __claude_sessions_name=$terminal:$__claude_sessions_pid:$own
        typeset -g __claude_sessions_state=$__claude_sessions_states/$__claude_sessions_pid${own:+-$own}
        if [[ $__claude_sessions_role == owner ]]; then
            export CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            # Without a start in its name, the file may belong to an earlier process with this pid.
            if [[ -z $own ]]; then
                setopt local_options null_glob
                for name in $__claude_sessions_state $__claude_sessions_state.*; do
                    [[ ! -s $name || -L $name ]] || { : >|$name; } 2>/dev/null || :
                done
            fi
        fi
        export CLAUDE_SESSIONS_PROMPT=
    }

    # Keep the variables that reach this database, for the time when they have changed.
    __claude_sessions_keep() {
        local name text=
        for name in ${(k)parameters[(I)PG*]} CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG; do
            [[ ${parameters[$name]-} != *export* ]] || text+="export $name=${(qq)${(P)name}};"
        done
        __claude_sessions_values[__claude_sessions_at]=$values
        __claude_sessions_settings[__claude_sessions_at]=$text
    }

    # Turn to the database that the variables name now: show what is known of it, and make a heartbeat due. The file of
    # the prompt changes at once, so that a heartbeat which is under way does not show the other database.
    __claude_sessions_turn() {
        local first=${__claude_sessions_here[1]-} file
        local -i key held=$__claude_sessions_others
        __claude_sessions_here=("$values")
        [[ -n $first && $__claude_sessions_role != guest ]] || return 0
        key=${__claude_sessions_values[(ie)$values]}
        file=$__claude_sessions_state.${__claude_sessions_databases[key]-} line=
        [[ -f $file && -r $file ]] && { line=$(<$file) } 2>/dev/null
        # All claims of the terminal but the one here.
        [[ -z $__claude_sessions_since ]] || held+=1
        [[ $line != 'held '* ]] || held+=-1
        line=${line:-none 0 - - - - -$key}
        (( held <= 0 )) || line+=" +$held"
        [[ -L $__claude_sessions_state || -p $__claude_sessions_state ]] ||
            { builtin print -r -- $line >|$__claude_sessions_state; } 2>/dev/null || :
        typeset -g __claude_sessions_at=$key __claude_sessions_last=0
        __claude_sessions_parse
    }

    # Run the program with these arguments in the background, unnoticed, for each database in which the terminal is
    # registered. A subshell keeps $! and the jobs as they are; the program outlives the terminal.
    __claude_sessions_call() {
        [[ -x $__claude_sessions_program[1] && ! -o restricted ]] || return 0
        local -i key
        (
            # Otherwise zsh lowers its priority, complains if it may not, and hangs it up.
            setopt no_bg_nice no_monitor posix_traps
            builtin trap '' HUP
            [[ ${CLAUDE_SESSIONS_SHELL-} == "$__claude_sessions_name" ]] || CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            export CLAUDE_SESSIONS_SHELL
            unset CLAUDE_CODE_SESSION_ID
            # A session that a person named may have other terminals.
            [[ $1 != release ]] || unset CLAUDE_SESSIONS_SESSION_ID
            set -- "$@" --quiet --within $__claude_sessions_within \
                --pid $__claude_sessions_pid --tty $__claude_sessions_tty
            [[ $1 == release ]] || set -- "$@" --prompt "$__claude_sessions_line"
            for (( key = 1; key <= $#__claude_sessions_values; key++ )); do
                [[ $key == $__claude_sessions_at || -n ${__claude_sessions_databases[key]-} ]] || continue
                (
                    if [[ $__claude_sessions_values[key] != "$values" ]]; then
                        unset -m 'PG*'
                        unset CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG
                        eval $__claude_sessions_settings[key]
                        [[ $1 == release ]] || set -- "$@" --elsewhere
                    fi
                    exec $__claude_sessions_program "$@"
                ) &
            done
        ) </dev/null >/dev/null 2>&1 || :
    }

    # Parse the line of the state file: it seldom changes from one prompt to the next.
    __claude_sessions_parse() {
        local -a words
        local item letter
        words=(${(s: :)line})
        typeset -g __claude_sessions_line=$line __claude_sessions_since= __claude_sessions_item=
        typeset -g __claude_sessions_more= __claude_sessions_others=0
        [[ ${words[2]-} == <-> && $words[2] != 0?* ]] || return 0
        item=${words[3]-}
        [[ -n $item && $item != *[[:cntrl:]\!\"\#\$%\&\'\(\)\*\;\<\>\[\\\]^\`\{\|\}]* ]] || return 0
        # Where the shell does not know the characters, the terminal may take a byte of one for a command.
        letter=$'\xc3\xa9'
        [[ $#letter == 1 ]] || item=${item//[^A-Za-z0-9._:\/@+,=\~-]/?}
        item=${item//\~/ }
        if [[ ${words[8]-} == +<1-99> ]]; then
            typeset -g __claude_sessions_more=" $words[8]" __claude_sessions_others=${words[8]#+}
        fi
        # Between two prompts a command may have used another database, if the variables have changed.
        if [[ ${#words[7]} == 16 && $words[7] != *[^0-9a-f]* ]] &&
            [[ -z ${__claude_sessions_databases[__claude_sessions_at]-} || ${__claude_sessions_here[1]-} == "$values" ]]; then
            __claude_sessions_databases[__claude_sessions_at]=$words[7]
        fi
        case $words[1] in
            (held) typeset -g __claude_sessions_since=$words[2] __claude_sessions_item=$item ;;
            (lost) typeset -g __claude_sessions_item="LOST $item" ;;
            (*) typeset -g __claude_sessions_more=${__claude_sessions_more# } ;;
        esac
    }

    __claude_sessions_prompt() {
        emulate -L zsh
        setopt no_err_exit no_err_return
        [[ ${(t)CLAUDE_SESSIONS_PROMPT-} != *readonly* ]] || return 0
        if [[ ${CLAUDE_SESSIONS_HOOK-} == 0 ]]; then
            typeset -g CLAUDE_SESSIONS_PROMPT=
            return 0
        fi
        [[ -n ${__claude_sessions_role-} ]] || __claude_sessions_adopt
        [[ $__claude_sessions_role != nobody ]] || return 0
        local now=${(%)__claude_sessions_clock} line= values=@VALUES@
        local -i age
        # No fork, and many times faster than zsh's read, which reads byte by byte.
        # Silent, because the file may go between the look and the reading.
        [[ -f $__claude_sessions_state && -r $__claude_sessions_state ]] &&
            { line=$(<$__claude_sessions_state) } 2>/dev/null
        [[ $line == "$__claude_sessions_line" ]] || __claude_sessions_parse
        [[ $values == "${__claude_sessions_here[1]-}" ]] || __claude_sessions_turn
        if [[ -n $__claude_sessions_since ]]; then
            # In a condition, because an ERR trap would take an age of 0 for an error.
            if (( (age = now - __claude_sessions_since) < 60 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age < 0 ? 0 : age ))s$__claude_sessions_more"
            elif (( age < 3600 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 60 ))m$__claude_sessions_more"
            elif (( age < 86400 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 3600 ))h$(( age % 3600 / 60 ))m$__claude_sessions_more"
            else
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 86400 ))d$(( age % 86400 / 3600 ))h$__claude_sessions_more"
            fi
        else
            CLAUDE_SESSIONS_PROMPT=$__claude_sessions_item$__claude_sessions_more
        fi
        if (( now < __claude_sessions_last || now >= __claude_sessions_last + __claude_sessions_every )) &&
            [[ $__claude_sessions_role != guest ]]; then
            typeset -g __claude_sessions_last=$now
            __claude_sessions_keep
            __claude_sessions_call heartbeat --register
        fi
        return 0
    }

    __claude_sessions_exit() {
        emulate -L zsh
        setopt no_err_exit no_err_return
        # zsh also calls this in subshells that call exit.
        if [[ $ZSH_SUBSHELL == 0 && ${__claude_sessions_role-} == owner && ${CLAUDE_SESSIONS_HOOK-} != 0 ]]; then
            local values=@VALUES@
            __claude_sessions_call release --end
        fi
        return 0
    }

    claude_sessions_unhook() {
        emulate -L zsh
        # zsh passes over what is left in a readonly one.
        [[ ${(t)precmd_functions-} == *readonly* ]] || precmd_functions=(${precmd_functions:#__claude_sessions_prompt})
        [[ ${(t)zshexit_functions-} == *readonly* ]] || zshexit_functions=(${zshexit_functions:#__claude_sessions_exit})
        [[ ${__claude_sessions_role-} != owner || ${(t)CLAUDE_SESSIONS_SHELL-} == *readonly* ]] || unset CLAUDE_SESSIONS_SHELL
        [[ ${(t)CLAUDE_SESSIONS_PROMPT-} == *readonly* ]] || unset CLAUDE_SESSIONS_PROMPT
        unset -m '__claude_sessions_*'
        unfunction -m '__claude_sessions_*'
        unfunction claude_sessions_unhook
    }

    # Under any option that numbers array elements differently.
    () {
        emulate -L zsh
        # Nothing where hardening made them readonly.
        [[ ${(t)precmd_functions-}${(t)zshexit_functions-} != *readonly* ]] || return 0
        typeset -ga precmd_functions zshexit_functions
        (( ${precmd_functions[(I)__claude_sessions_prompt]} )) || precmd_functions+=(__claude_sessions_prompt)
        (( ${zshexit_functions[(I)__claude_sessions_exit]} )) || zshexit_functions+=(__claude_sessions_exit)
    }

fi
