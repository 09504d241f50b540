# shellcheck shell=bash
# $array means its first element; these are arrays because no shell inherits one.
# shellcheck disable=SC2128
# claude-sessions in bash, from 3.2 on; printed by `claude-sessions shell-init bash`.
# Off for a while: CLAUDE_SESSIONS_HOOK=0. Undo: claude_sessions_unhook. In the prompt: $CLAUDE_SESSIONS_PROMPT.
# Does nothing in a restricted shell, which cannot start a program silently, or if a variable it needs is readonly.
if [[ $- == *i* ]] && ! shopt -q restricted_shell &&
    # Whether the variable $1 can be set, without a fork. If functions are readonly, those of an earlier reading stay.
    { __claude_sessions_can_set() { local "$1" 2>/dev/null; }; } 2>/dev/null; then

    __claude_sessions_program=(@PROGRAM@)
    __claude_sessions_states=@STATES@
    __claude_sessions_every=@EVERY@
    __claude_sessions_within=@WITHIN@
    # Expanded when they run, so that a shell which inherits the text without the hook runs nothing; quoted, for any IFS.
    # The `&&` keeps `set -e` and ERR traps from treating the status that is passed on as an error.
    # Lines of their own, because bash-preexec takes other commands of PROMPT_COMMAND for typed ones.
    __claude_sessions_at_prompt=$'{\n"${__claude_sessions_prompt-true}"\n} &&\ntrue'
    # shellcheck disable=SC2016
    __claude_sessions_at_exit='"${__claude_sessions_exit-true}" && :'

    # Locals begin with __cs_, because other names may be readonly in a user's shell, and get their values later, because
    # `set -k` moves an assignment beside a command into its environment.

    # Set name, parent, device and start as the kernel shows the process $1, without a fork.
    __claude_sessions_look() {
        local __cs_stat
        __cs_stat=''
        # If it is readonly, it has the usual blanks.
        { local IFS && IFS=' '; } 2>/dev/null || :
        { builtin read -r -d '' __cs_stat </proc/"$1"/stat; } 2>/dev/null || [[ -n $__cs_stat ]] || return 1
        __cs_name=${__cs_stat#*\(}
        __cs_name=${__cs_name%)*}
        # shellcheck disable=SC2086
        set -- ${__cs_stat##*) }
        __cs_parent=$2 __cs_device=$5 __cs_start=${20}
    }

    # Set tty to the terminal of a device number of proc(5).
    __claude_sessions_name_tty() {
        local __cs_major __cs_minor
        __cs_major=$((($1 >> 8) & 0xfff)) __cs_minor=$((($1 & 0xff) | (($1 >> 12) & 0xfff00)))
        if ((__cs_major >= 136 && __cs_major <= 143)); then
            __cs_tty=/dev/pts/$(((__cs_major - 136) * 256 + __cs_minor))
        elif ((__cs_major == 4 && __cs_minor < 64)); then
            __cs_tty=/dev/tty$__cs_minor
        else
            __cs_tty=$(command tty 2>/dev/null) || __cs_tty=
        fi
    }

    # Determine once what this shell is, by the rules of `claude-sessions whoami --explain`: owner of the session, nested
    # in one that is, or guest of an agent or a `run`.
    __claude_sessions_adopt() {
        local __cs_name __cs_parent __cs_device __cs_start __cs_tty __cs_own __cs_pid __cs_told __cs_hooked
        __cs_start='' __cs_tty='' __cs_own='' __cs_pid=$PPID __cs_told='' __cs_hooked=${CLAUDE_SESSIONS_SHELL-}
        # An array, which no shell inherits: a variable that `set -a` exports would describe another shell.
        __claude_sessions_role=(owner)
        __claude_sessions_pid=$$ __claude_sessions_last=0 __claude_sessions_base=0
        __claude_sessions_line='' __claude_sessions_since='' __claude_sessions_item=''
        __claude_sessions_more='' __claude_sessions_others=0 __claude_sessions_shown=0 __claude_sessions_next=0
        # The variables that choose a database, and an entry for each choice so far: the same, the commands that set them
        # again, and the name of the database in files, once it is known. Arrays, because there may be passwords.
        __claude_sessions_here=('') __claude_sessions_at=0
        __claude_sessions_values=() __claude_sessions_settings=() __claude_sessions_databases=()
        if [[ $- == *r* ]] || ! __claude_sessions_can_set CLAUDE_SESSIONS_SHELL; then
            __claude_sessions_role=(nobody)
            return 0
        fi
        if __claude_sessions_look "$$"; then
            __cs_own=$__cs_start
            __claude_sessions_name_tty "$__cs_device"
        else
            __cs_tty=$(command tty 2>/dev/null) || __cs_tty=
        fi
        if [[ -z $__cs_tty ]]; then
            __claude_sessions_role=(nobody)
            return 0
        fi
        [[ -z ${CLAUDE_SESSIONS_SESSION_ID-} ]] || __cs_told=${CLAUDE_SESSIONS_ANCHOR-}
        [[ $__cs_hooked == "$__cs_tty":* ]] || __cs_hooked=
        __cs_start=
        while ((__cs_pid > 0)) && __claude_sessions_look "$__cs_pid"; do
            if [[ $__cs_name == claude || $__cs_pid == "${CLAUDE_PID-}" || $__cs_told == *" $__cs_pid $__cs_start" ]]; then
                __claude_sessions_role=(guest)
            elif [[ $__cs_hooked == "$__cs_tty:$__cs_pid:$__cs_start" ]]; then
                __claude_sessions_role=(nested)
            else
                __cs_pid=$__cs_parent __cs_start=
                continue
            fi
            __claude_sessions_pid=$__cs_pid __cs_own=$__cs_start
            break
        done
        if [[ -z $__cs_own && -n $__cs_hooked ]]; then
            # Without /proc, a live shell of this terminal is an ancestor.
            __cs_hooked=${__cs_hooked#"$__cs_tty":}
            __cs_hooked=${__cs_hooked%%:*}
            if [[ $__cs_hooked != "$$" ]] && builtin kill -0 "$__cs_hooked" 2>/dev/null; then
                __claude_sessions_role=(nested) __claude_sessions_pid=$__cs_hooked
            fi
        fi
        __claude_sessions_tty=$__cs_tty
        __claude_sessions_name=$__cs_tty:$__claude_sessions_pid:$__cs_own
        __claude_sessions_state=$__claude_sessions_states/$__claude_sessions_pid${__cs_own:+-$__cs_own}
        if [[ $__claude_sessions_role == owner ]]; then
            CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            export CLAUDE_SESSIONS_SHELL
            # Without a start in its name, the file may belong to an earlier process with this pid.
            if [[ -z $__cs_own ]]; then
                for __cs_name in "$__claude_sessions_state" "$__claude_sessions_state".*; do
                    [[ ! -s $__cs_name || -L $__cs_name ]] || { : >|"$__cs_name"; } 2>/dev/null || :
                done
            fi
        fi
        __claude_sessions_show ''
        export CLAUDE_SESSIONS_PROMPT
        if [[ -z ${EPOCHSECONDS-} ]]; then
            __claude_sessions_base=$(($(command date +%s) - SECONDS))
        fi
    }

    # Keep the variables that reach this database, for the time when they have changed.
    __claude_sessions_keep() {
        local __cs_name __cs_word __cs_text
        __cs_text=
        for __cs_name in "${!PG@}" CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG; do
            if [[ -n ${!__cs_name+set} ]]; then
                builtin printf -v __cs_word 'export %s=%q\n' "$__cs_name" "${!__cs_name}"
                __cs_text+=$__cs_word
            fi
        done
        __claude_sessions_values[__claude_sessions_at]=$__cs_values
        __claude_sessions_settings[__claude_sessions_at]=$__cs_text
    }

    # Turn to the database that the variables name now: show what is known of it, and make a heartbeat due. The file of
    # the prompt changes at once, so that a heartbeat which is under way does not show the other database.
    __claude_sessions_turn() {
        local __cs_key __cs_file __cs_held
        __cs_key=0 __cs_held=$__claude_sessions_others
        if [[ -z $__claude_sessions_here || $__claude_sessions_role == guest ]]; then
            __claude_sessions_here=("$__cs_values")
            return 0
        fi
        while [[ ${__claude_sessions_values[__cs_key]-$__cs_values} != "$__cs_values" ]]; do
            __cs_key=$((__cs_key + 1))
        done
        __cs_file=$__claude_sessions_state.${__claude_sessions_databases[__cs_key]-} __cs_line=
        [[ ! -f $__cs_file || ! -r $__cs_file ]] || { builtin read -r __cs_line <"$__cs_file"; } 2>/dev/null || :
        # All claims of the terminal but the one here.
        [[ -z $__claude_sessions_since ]] || __cs_held=$((__cs_held + 1))
        [[ $__cs_line != 'held '* ]] || __cs_held=$((__cs_held - 1))
        __cs_line=${__cs_line:-none 0 - - - - -$__cs_key}
        ((__cs_held <= 0)) || __cs_line+=" +$__cs_held"
        [[ -L $__claude_sessions_state || -p $__claude_sessions_state ]] ||
            { builtin printf '%s\n' "$__cs_line" >|"$__claude_sessions_state"; } 2>/dev/null || :
        __claude_sessions_here=("$__cs_values") __claude_sessions_at=$__cs_key __claude_sessions_last=0
        __claude_sessions_parse
    }

    # Run the program with these arguments in the background, unnoticed, for each database in which the terminal is
    # registered. A subshell keeps $! and the jobs as they are; the program outlives the terminal.
    __claude_sessions_call() {
        [[ -x ${__claude_sessions_program[0]-} && $- != *r* ]] || return 0
        (
            set +euk
            builtin trap '' HUP
            [[ ${CLAUDE_SESSIONS_SHELL-} == "$__claude_sessions_name" ]] || CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            export CLAUDE_SESSIONS_SHELL
            unset CLAUDE_CODE_SESSION_ID
            # A session that a person named may have other terminals.
            [[ $1 != release ]] || unset CLAUDE_SESSIONS_SESSION_ID
            set -- "$@" --quiet --within "$__claude_sessions_within" \
                --pid "$__claude_sessions_pid" --tty "$__claude_sessions_tty"
            [[ $1 == release ]] || set -- "$@" --prompt "$__claude_sessions_line"
            for __cs_key in "${!__claude_sessions_values[@]}"; do
                [[ $__cs_key == "$__claude_sessions_at" || -n ${__claude_sessions_databases[__cs_key]-} ]] || continue
                (
                    if [[ ${__claude_sessions_values[__cs_key]} != "$__cs_values" ]]; then
                        unset "${!PG@}" CLAUDE_SESSIONS_DSN CLAUDE_SESSIONS_CONFIG
                        eval "${__claude_sessions_settings[__cs_key]}"
                        [[ $1 == release ]] || set -- "$@" --elsewhere
                    fi
                    exec "${__claude_sessions_program[@]}" "$@"
                ) &
            done
        ) </dev/null >/dev/null 2>&1 || :
    }

    # Put the end of the session before the commands of the shell's EXIT trap.
    __claude_sessions_watch_exit() {
        local __cs_trap __cs_words
        __cs_trap=$(builtin trap -p EXIT) || :
        [[ $__cs_trap != *"$__claude_sessions_at_exit"* ]] || return 0
        # bash prints the trap as a command: trap -- 'text' EXIT, or in POSIX mode trap -- - EXIT if there is none.
        eval "__cs_words=($__cs_trap)"
        [[ ${__cs_words[2]-} != - ]] || __cs_words[2]=
        builtin trap -- "$__claude_sessions_at_exit"$'\n'"${__cs_words[2]-}" EXIT
    }

    # Parse the line of the state file: it seldom changes from one prompt to the next.
    __claude_sessions_parse() {
        local __cs_kind __cs_rest __cs_since __cs_item __cs_database __cs_letter
        __cs_kind=${__cs_line%% *} __cs_rest=${__cs_line#* }
        __cs_since=${__cs_rest%% *} __cs_rest=${__cs_rest#* }
        __cs_item=${__cs_rest%% *} __cs_rest=${__cs_rest#* * * * }
        __cs_database=${__cs_rest%% *}
        __claude_sessions_line=$__cs_line __claude_sessions_since='' __claude_sessions_item='' __claude_sessions_next=0
        __claude_sessions_more='' __claude_sessions_others=0
        case $__cs_since in '' | *[!0-9]* | 0?*) return 0 ;; esac
        case $__cs_item in '' | *[[:cntrl:]\!\"\#\$%\&\'\(\)\*\;\<\>\[\\\]^\`\{\|\}]*) return 0 ;; esac
        # Where the shell does not know the characters, the terminal may take a byte of one for a command.
        __cs_letter=$'\xc3\xa9'
        [[ ${#__cs_letter} == 1 ]] || __cs_item=${__cs_item//[!A-Za-z0-9._:\/@+,=\~-]/?}
        __cs_item=${__cs_item//\~/ }
        case ${__cs_rest#"$__cs_database"} in
            ' +'[1-9] | ' +'[1-9][0-9])
                __claude_sessions_others=${__cs_rest##*+}
                __claude_sessions_more=" +$__claude_sessions_others"
                ;;
        esac
        # Between two prompts a command may have used another database, if the variables have changed.
        if [[ ${#__cs_database} == 16 && $__cs_database != *[!0-9a-f]* ]] &&
            [[ -z ${__claude_sessions_databases[__claude_sessions_at]-} || $__claude_sessions_here == "$__cs_values" ]]; then
            __claude_sessions_databases[__claude_sessions_at]=$__cs_database
        fi
        case $__cs_kind in
            held) __claude_sessions_since=$__cs_since __claude_sessions_item=$__cs_item ;;
            lost) __claude_sessions_item="LOST $__cs_item" ;;
            *) __claude_sessions_more=${__claude_sessions_more# } ;;
        esac
    }

    # Show a text in the prompt.
    __claude_sessions_show() {
        # shellcheck disable=SC2034
        ! __claude_sessions_can_set CLAUDE_SESSIONS_PROMPT || CLAUDE_SESSIONS_PROMPT=$1
    }

    # Show the age of the claim, send a heartbeat if it is due, and determine when the next change is.
    __claude_sessions_refresh() {
        local __cs_age __cs_unit __cs_shown
        __cs_age=0 __cs_unit=86400 __cs_shown=
        if [[ -n $__claude_sessions_since ]]; then
            if (((__cs_age = __cs_now - __claude_sessions_since) < 60)); then
                __cs_age=$((__cs_age < 0 ? 0 : __cs_age)) __cs_unit=1
                __cs_shown=${__cs_age}s
            elif ((__cs_age < 3600)); then
                __cs_unit=60
                __cs_shown=$((__cs_age / 60))m
            elif ((__cs_age < 86400)); then
                __cs_unit=60 __cs_shown=$((__cs_age / 3600))h$((__cs_age % 3600 / 60))m
            else
                __cs_unit=3600 __cs_shown=$((__cs_age / 86400))d$((__cs_age % 86400 / 3600))h
            fi
        fi
        __claude_sessions_show "$__claude_sessions_item${__cs_shown:+ $__cs_shown}$__claude_sessions_more"
        __claude_sessions_shown=$__cs_now __claude_sessions_next=$((__cs_now + __cs_unit - __cs_age % __cs_unit))
        [[ $__claude_sessions_role != guest ]] || return 0
        if ((__cs_now < __claude_sessions_last || __cs_now >= __claude_sessions_last + __claude_sessions_every)); then
            __claude_sessions_last=$__cs_now
            __claude_sessions_keep
            __claude_sessions_call heartbeat --register
            [[ $__claude_sessions_role != owner ]] || __claude_sessions_watch_exit
        fi
        if ((__claude_sessions_next > __claude_sessions_last + __claude_sessions_every)); then
            __claude_sessions_next=$((__claude_sessions_last + __claude_sessions_every))
        fi
    }

    __claude_sessions_at_each_prompt() {
        # The status, as $1.
        set -- "$?"
        if [[ ${CLAUDE_SESSIONS_HOOK-} == 0 ]]; then
            __claude_sessions_show '' && __claude_sessions_next=0
            return "$1"
        fi
        [[ -n ${__claude_sessions_role-} ]] || __claude_sessions_adopt
        [[ $__claude_sessions_role != nobody ]] || return "$1"
        local __cs_now __cs_line __cs_values
        __cs_now=${EPOCHSECONDS:-$((__claude_sessions_base + SECONDS))} __cs_line=
        __cs_values=@VALUES@
        if [[ -f $__claude_sessions_state && -r $__claude_sessions_state ]]; then
            # Silent, because the file may go between the look and the reading.
            { builtin read -r __cs_line <"$__claude_sessions_state"; } 2>/dev/null || :
        fi
        [[ $__cs_line == "$__claude_sessions_line" ]] || __claude_sessions_parse
        [[ $__cs_values == "$__claude_sessions_here" ]] || __claude_sessions_turn
        if ((__cs_now < __claude_sessions_shown || __cs_now >= __claude_sessions_next)); then
            __claude_sessions_refresh
        fi
        return "$1"
    }

    __claude_sessions_at_the_end() {
        set -- "$?"
        if [[ ${__claude_sessions_role-} == owner && ${CLAUDE_SESSIONS_HOOK-} != 0 && ${BASH_SUBSHELL-0} == 0 ]]; then
            local __cs_values
            __cs_values=@VALUES@
            __claude_sessions_call release --end
        fi
        return "$1"
    }

    claude_sessions_unhook() {
        local __cs_now __cs_words __cs_hook __cs_name __cs_key __cs_end
        __cs_hook=$__claude_sessions_at_prompt __cs_end=$'\n'
        # Other tools may have moved it, or joined it to their commands: no separator may stay behind alone.
        for __cs_key in "${!PROMPT_COMMAND[@]}"; do
            # If it is readonly, the hook's command stays in it, and does nothing.
            __claude_sessions_can_set PROMPT_COMMAND || break
            __cs_now=$__cs_end${PROMPT_COMMAND[__cs_key]}$__cs_end
            __cs_now=${__cs_now//"$__cs_end$__cs_hook$__cs_end"/$__cs_end}
            __cs_now=${__cs_now//"$__cs_end$__cs_hook;"/$__cs_end}
            __cs_now=${__cs_now//";$__cs_hook;"/;}
            __cs_now=${__cs_now//"$__cs_hook"/:}
            __cs_now=${__cs_now#"$__cs_end"}
            __cs_now=${__cs_now%"$__cs_end"}
            # shellcheck disable=SC2178
            if ((__cs_key)); then PROMPT_COMMAND[__cs_key]=$__cs_now; else PROMPT_COMMAND=$__cs_now; fi
        done
        __cs_now=$(builtin trap -p EXIT) || :
        if [[ $__cs_now == *"$__claude_sessions_at_exit"* ]]; then
            eval "__cs_words=($__cs_now)"
            __cs_now=${__cs_words[2]#"$__claude_sessions_at_exit"$'\n'}
            if [[ -n $__cs_now ]]; then builtin trap -- "$__cs_now" EXIT; else builtin trap - EXIT; fi
        fi
        [[ ${__claude_sessions_role-} != owner ]] || unset CLAUDE_SESSIONS_SHELL 2>/dev/null || :
        unset CLAUDE_SESSIONS_PROMPT 2>/dev/null || :
        for __cs_name in "${!__claude_sessions_@}"; do unset "$__cs_name"; done
        for __cs_name in can_set look name_tty adopt keep turn call watch_exit parse show refresh at_each_prompt at_the_end; do
            unset -f "__claude_sessions_$__cs_name"
        done
        unset -f claude_sessions_unhook
    }

    __claude_sessions_prompt=__claude_sessions_at_each_prompt
    __claude_sessions_exit=__claude_sessions_at_the_end
    # Of an array, this is the first element.
    # shellcheck disable=SC2178
    if [[ "${PROMPT_COMMAND[*]-}" != *"$__claude_sessions_at_prompt"* ]] && __claude_sessions_can_set PROMPT_COMMAND; then
        PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}$__claude_sessions_at_prompt
    fi

fi
