-- List the live sessions whose process was recorded on this boot and in this pid namespace, under any hostname.
-- Parameters: boot_id, pid_ns (text), now. Returns: sessions with row_version.
-- Stale sessions are a condition of their own, because they have an index of their own.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE (status IN ('active', 'idle') OR status IS NULL OR status = 'stale')
    AND metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text = %(boot_id)s::text
    AND metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'pid_ns'::text = %(pid_ns)s::text;
