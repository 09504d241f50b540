-- List the live sessions whose process was recorded on this boot and in this pid namespace, under any hostname.
-- Parameters: boot_id, pid_ns (text), now. Returns: sessions with row_version.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE (status IN ('active', 'idle', 'stale') OR status IS NULL)
    AND metadata -> 'claude_sessions_cli' -> 'process' ->> 'boot_id' = %(boot_id)s
    AND metadata -> 'claude_sessions_cli' -> 'process' ->> 'pid_ns' = %(pid_ns)s;
