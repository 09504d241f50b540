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
        # Nothing in a restricted shell, which cannot start a program silently.
        if [[ -o restricted ]]; then
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
            if [[ -z $own && -s $__claude_sessions_state ]]; then
                { : >|$__claude_sessions_state; } 2>/dev/null || :
            fi
        fi
        export CLAUDE_SESSIONS_PROMPT=
    }

    # Run the program with these arguments in the background, unnoticed. A subshell keeps $! and the jobs as they are;
    # the program outlives the terminal.
    __claude_sessions_call() {
        [[ -x $__claude_sessions_program[1] && ! -o restricted ]] || return 0
        (
            # Otherwise zsh lowers its priority, complains if it may not, and hangs it up.
            setopt no_bg_nice no_monitor posix_traps
            builtin trap '' HUP
            export CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            unset CLAUDE_CODE_SESSION_ID
            # A session that a person named may have other terminals.
            [[ $1 != release ]] || unset CLAUDE_SESSIONS_SESSION_ID
            $__claude_sessions_program "$@" --quiet --within $__claude_sessions_within \
                --pid $__claude_sessions_pid --tty $__claude_sessions_tty &
        ) </dev/null >/dev/null 2>&1 || :
    }

    # Parse the line of the state file: it seldom changes from one prompt to the next.
    __claude_sessions_parse() {
        local kind=${line%% *} rest=${line#* } since item
        since=${rest%% *} rest=${rest#* }
        item=${rest%% *}
        typeset -g __claude_sessions_line=$line __claude_sessions_since= __claude_sessions_item=
        [[ $since == <-> && $since != 0?* ]] || return 0
        [[ -n $item && $item != *[^A-Za-z0-9._:?-]* ]] || return 0
        case $kind in
            (held) __claude_sessions_since=$since __claude_sessions_item=$item ;;
            (lost) __claude_sessions_item="LOST $item" ;;
        esac
    }

    __claude_sessions_prompt() {
        emulate -L zsh
        setopt no_err_exit no_err_return
        if [[ ${CLAUDE_SESSIONS_HOOK-} == 0 ]]; then
            typeset -g CLAUDE_SESSIONS_PROMPT=
            return 0
        fi
        [[ -n ${__claude_sessions_role-} ]] || __claude_sessions_adopt
        [[ $__claude_sessions_role != nobody ]] || return 0
        local now=${(%)__claude_sessions_clock} line=
        local -i age
        # No fork, and many times faster than zsh's read, which reads byte by byte.
        [[ -f $__claude_sessions_state && -r $__claude_sessions_state ]] && line=$(<$__claude_sessions_state)
        [[ $line == "$__claude_sessions_line" ]] || __claude_sessions_parse
        if [[ -n $__claude_sessions_since ]]; then
            # In a condition, because an ERR trap would take an age of 0 for an error.
            if (( (age = now - __claude_sessions_since) < 60 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age < 0 ? 0 : age ))s"
            elif (( age < 3600 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 60 ))m"
            elif (( age < 86400 )); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 3600 ))h$(( age % 3600 / 60 ))m"
            else
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $(( age / 86400 ))d$(( age % 86400 / 3600 ))h"
            fi
        else
            CLAUDE_SESSIONS_PROMPT=$__claude_sessions_item
        fi
        if (( now < __claude_sessions_last || now >= __claude_sessions_last + __claude_sessions_every )) &&
            [[ $__claude_sessions_role != guest ]]; then
            typeset -g __claude_sessions_last=$now
            __claude_sessions_call heartbeat --register
        fi
        return 0
    }

    __claude_sessions_exit() {
        emulate -L zsh
        setopt no_err_exit no_err_return
        # zsh also calls this in subshells that call exit.
        if [[ $ZSH_SUBSHELL == 0 && ${__claude_sessions_role-} == owner && ${CLAUDE_SESSIONS_HOOK-} != 0 ]]; then
            __claude_sessions_call release --end
        fi
        return 0
    }

    claude_sessions_unhook() {
        emulate -L zsh
        precmd_functions=(${precmd_functions:#__claude_sessions_prompt})
        zshexit_functions=(${zshexit_functions:#__claude_sessions_exit})
        [[ ${__claude_sessions_role-} != owner ]] || unset CLAUDE_SESSIONS_SHELL
        unset CLAUDE_SESSIONS_PROMPT
        unset -m '__claude_sessions_*'
        unfunction -m '__claude_sessions_*'
        unfunction claude_sessions_unhook
    }

    typeset -ga precmd_functions zshexit_functions
    # Under any option that numbers array elements differently.
    () {
        emulate -L zsh
        (( ${precmd_functions[(I)__claude_sessions_prompt]} )) || precmd_functions+=(__claude_sessions_prompt)
        (( ${zshexit_functions[(I)__claude_sessions_exit]} )) || zshexit_functions+=(__claude_sessions_exit)
    }

fi
