# shellcheck shell=bash
# claude-sessions in bash, from 3.2 on; printed by `claude-sessions shell-init bash`.
# Off for a while: CLAUDE_SESSIONS_HOOK=0. Undo: claude_sessions_unhook. In the prompt: $CLAUDE_SESSIONS_PROMPT.
if [[ $- == *i* ]]; then

    __claude_sessions_program=(@PROGRAM@)
    __claude_sessions_states=@STATES@
    __claude_sessions_every=@EVERY@
    __claude_sessions_within=@WITHIN@
    # Expanded when they run, so that a shell which inherits the text without the hook runs nothing; quoted, whatever IFS
    # is. No `set -e` and no trap on errors may take the status that is passed on for an error: hence the `&&`.
    # bash-preexec takes a command for one that was typed unless it is a line of PROMPT_COMMAND: hence the lines.
    __claude_sessions_at_prompt=$'{\n"${__claude_sessions_prompt-true}"\n} &&\ntrue'
    # shellcheck disable=SC2016
    __claude_sessions_at_exit='"${__claude_sessions_exit-true}" && :'

    # Set name, parent, device and start as the kernel shows the process $1, without a fork.
    __claude_sessions_look() {
        local line='' IFS=' '
        { builtin read -r -d '' line </proc/"$1"/stat; } 2>/dev/null || [[ -n $line ]] || return 1
        name=${line#*\(}
        name=${name%)*}
        # shellcheck disable=SC2086
        set -- ${line##*) }
        parent=$2 device=$5 start=${20}
    }

    # Set tty to the terminal of a device number of proc(5).
    __claude_sessions_name_tty() {
        local major=$((($1 >> 8) & 0xfff)) minor=$((($1 & 0xff) | (($1 >> 12) & 0xfff00)))
        if ((major >= 136 && major <= 143)); then
            tty=/dev/pts/$(((major - 136) * 256 + minor))
        elif ((major == 4 && minor < 64)); then
            tty=/dev/tty$minor
        else
            tty=$(command tty 2>/dev/null) || tty=
        fi
    }

    # Find out once what this shell is, by the rules of `claude-sessions whoami --explain`: owner of the session, nested
    # in one that is, or guest of an agent or a `run`.
    __claude_sessions_adopt() {
        local name='' parent='' device='' start='' tty='' own='' pid=$PPID told='' hooked=${CLAUDE_SESSIONS_SHELL-}
        # An array, since no shell inherits one: whatever `set -a` exports is what another shell was.
        __claude_sessions_in=("$$")
        __claude_sessions_role=owner __claude_sessions_pid=$$ __claude_sessions_last=0 __claude_sessions_base=0
        __claude_sessions_line='' __claude_sessions_since='' __claude_sessions_item=''
        if __claude_sessions_look "$$"; then
            own=$start
            __claude_sessions_name_tty "$device"
        else
            tty=$(command tty 2>/dev/null) || tty=
        fi
        if [[ -z $tty ]]; then
            __claude_sessions_role=nobody
            return 0
        fi
        [[ -z ${CLAUDE_SESSIONS_SESSION_ID-} ]] || told=${CLAUDE_SESSIONS_ANCHOR-}
        [[ $hooked == "$tty":* ]] || hooked=
        start=
        while ((pid > 0)) && __claude_sessions_look "$pid"; do
            if [[ $name == claude || $pid == "${CLAUDE_PID-}" || $told == *" $pid $start" ]]; then
                __claude_sessions_role=guest
            elif [[ $hooked == "$tty:$pid:$start" ]]; then
                __claude_sessions_role=nested
            else
                pid=$parent start=
                continue
            fi
            __claude_sessions_pid=$pid own=$start
            break
        done
        if [[ -z $own && -n $hooked ]]; then
            # No /proc: a shell of this terminal that still lives is above.
            hooked=${hooked#"$tty":}
            hooked=${hooked%%:*}
            if [[ $hooked != "$$" ]] && builtin kill -0 "$hooked" 2>/dev/null; then
                __claude_sessions_role=nested __claude_sessions_pid=$hooked
            fi
        fi
        __claude_sessions_tty=$tty
        __claude_sessions_name=$tty:$__claude_sessions_pid:$own
        __claude_sessions_state=$__claude_sessions_states/$__claude_sessions_pid${own:+-$own}
        if [[ $__claude_sessions_role == owner ]]; then
            export CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            # Without a start in its name, this may be of an earlier process with this pid.
            if [[ -z $own && -s $__claude_sessions_state ]]; then
                { : >|"$__claude_sessions_state"; } 2>/dev/null || :
            fi
        fi
        export CLAUDE_SESSIONS_PROMPT=
        if [[ -z ${EPOCHSECONDS-} ]]; then
            __claude_sessions_base=$(($(command date +%s) - SECONDS))
        fi
    }

    # Run the program with these arguments behind the shell's back. A subshell, so that $! and the jobs stay; what it
    # starts outlives the terminal.
    __claude_sessions_call() {
        [[ -x ${__claude_sessions_program[0]-} ]] || return 0
        (
            set +eu
            builtin trap '' HUP
            export CLAUDE_SESSIONS_SHELL=$__claude_sessions_name
            unset CLAUDE_CODE_SESSION_ID
            # A session that somebody named may have more terminals than this one.
            [[ $1 != release ]] || unset CLAUDE_SESSIONS_SESSION_ID
            "${__claude_sessions_program[@]}" "$@" --quiet --within "$__claude_sessions_within" \
                --pid "$__claude_sessions_pid" --tty "$__claude_sessions_tty" &
        ) </dev/null >/dev/null 2>&1 || :
    }

    # Put the end of the session before whatever is to be done at the shell's exit.
    __claude_sessions_watch_exit() {
        local now words
        now=$(builtin trap -p EXIT) || :
        [[ $now != *"$__claude_sessions_at_exit"* ]] || return 0
        # It is printed as a command: trap -- 'text' EXIT, or, in POSIX mode, trap -- - EXIT where there is none.
        eval "words=($now)"
        [[ ${words[2]-} != - ]] || words[2]=
        builtin trap -- "$__claude_sessions_at_exit"$'\n'"${words[2]-}" EXIT
    }

    # Take the line of the state file apart: it seldom changes from one prompt to the next.
    __claude_sessions_parse() {
        local kind=${line%% *} rest=${line#* } since item
        since=${rest%% *} rest=${rest#* }
        item=${rest%% *}
        __claude_sessions_line=$line __claude_sessions_since='' __claude_sessions_item=''
        case $since in '' | *[!0-9]* | 0?*) return 0 ;; esac
        case $item in '' | *[!A-Za-z0-9._:?-]*) return 0 ;; esac
        case $kind in
            held) __claude_sessions_since=$since __claude_sessions_item=$item ;;
            lost) __claude_sessions_item="LOST $item" ;;
        esac
    }

    __claude_sessions_at_each_prompt() {
        local code=$?
        if [[ ${CLAUDE_SESSIONS_HOOK-} == 0 ]]; then
            CLAUDE_SESSIONS_PROMPT=
            return "$code"
        fi
        # shellcheck disable=SC2128
        [[ ${__claude_sessions_in-} == "$$" ]] || __claude_sessions_adopt
        [[ $__claude_sessions_role != nobody ]] || return "$code"
        local now=${EPOCHSECONDS-} line='' age
        [[ -n $now ]] || now=$((__claude_sessions_base + SECONDS))
        if [[ -f $__claude_sessions_state && -r $__claude_sessions_state ]]; then
            builtin read -r line <"$__claude_sessions_state" || :
        fi
        [[ $line == "$__claude_sessions_line" ]] || __claude_sessions_parse
        if [[ -n $__claude_sessions_since ]]; then
            age=$((now - __claude_sessions_since))
            if ((age < 60)); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $((age < 0 ? 0 : age))s"
            elif ((age < 3600)); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $((age / 60))m"
            elif ((age < 86400)); then
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $((age / 3600))h$((age % 3600 / 60))m"
            else
                CLAUDE_SESSIONS_PROMPT="$__claude_sessions_item $((age / 86400))d$((age % 86400 / 3600))h"
            fi
        else
            CLAUDE_SESSIONS_PROMPT=$__claude_sessions_item
        fi
        age=$((now - __claude_sessions_last))
        if ((age < 0 || age >= __claude_sessions_every)) && [[ $__claude_sessions_role != guest ]]; then
            __claude_sessions_last=$now
            __claude_sessions_call heartbeat --register
            [[ $__claude_sessions_role != owner ]] || __claude_sessions_watch_exit
        fi
        return "$code"
    }

    __claude_sessions_at_the_end() {
        local code=$?
        # shellcheck disable=SC2128
        if [[ ${__claude_sessions_in-} == "$$" && $__claude_sessions_role == owner ]] &&
            [[ ${CLAUDE_SESSIONS_HOOK-} != 0 && ${BASH_SUBSHELL-0} == 0 ]]; then
            __claude_sessions_call release --end
        fi
        return "$code"
    }

    claude_sessions_unhook() {
        local now words hook=$__claude_sessions_at_prompt name key end=$'\n'
        # Wherever other tools have put it, in whatever they have joined it to: no separator may be left alone.
        for key in "${!PROMPT_COMMAND[@]}"; do
            now=$end${PROMPT_COMMAND[key]}$end
            now=${now//"$end$hook$end"/$end}
            now=${now//"$end$hook;"/$end}
            now=${now//";$hook;"/;}
            now=${now//"$hook"/:}
            now=${now#"$end"}
            now=${now%"$end"}
            # shellcheck disable=SC2178
            if ((key)); then PROMPT_COMMAND[key]=$now; else PROMPT_COMMAND=$now; fi
        done
        now=$(builtin trap -p EXIT) || :
        if [[ $now == *"$__claude_sessions_at_exit"* ]]; then
            eval "words=($now)"
            now=${words[2]#"$__claude_sessions_at_exit"$'\n'}
            if [[ -n $now ]]; then builtin trap -- "$now" EXIT; else builtin trap - EXIT; fi
        fi
        # shellcheck disable=SC2128
        [[ ${__claude_sessions_in-} != "$$" || $__claude_sessions_role != owner ]] || unset CLAUDE_SESSIONS_SHELL
        unset CLAUDE_SESSIONS_PROMPT
        for name in "${!__claude_sessions_@}"; do unset "$name"; done
        for name in look name_tty adopt call watch_exit parse at_each_prompt at_the_end; do unset -f "__claude_sessions_$name"; done
        unset -f claude_sessions_unhook
    }

    __claude_sessions_prompt=__claude_sessions_at_each_prompt
    __claude_sessions_exit=__claude_sessions_at_the_end
    # Where this is an array, it is its first element.
    # shellcheck disable=SC2128,SC2178
    if [[ "${PROMPT_COMMAND[*]-}" != *"$__claude_sessions_at_prompt"* ]]; then
        PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}$__claude_sessions_at_prompt
    fi

fi
