-- List the sessions that live, or hold an item.
-- Parameters: each NULL for any: sd_ids (in each form), statuses, tracks (text[]), hostname, boot_id (decides before the hostname,
-- which changes with the network), codebase, session_id (text); idle_stale (boolean: stale ones that hold nothing too);
-- now.
-- Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE (status IN ('active', 'idle', 'stale') OR status IS NULL)
    AND (%(idle_stale)s::boolean OR status IS DISTINCT FROM 'stale' OR sd_id IS NOT NULL)
    AND (%(sd_ids)s::text[] IS NULL OR sd_id = ANY(%(sd_ids)s::text[]))
    AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s::text[]))
    AND (%(tracks)s::text[] IS NULL OR track = ANY(%(tracks)s::text[]))
    AND (
        %(hostname)s::text IS NULL
        OR coalesce(
            metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text = %(boot_id)s::text,
            hostname = %(hostname)s::text
        )
    )
    AND (%(codebase)s::text IS NULL OR codebase = %(codebase)s::text)
    AND (%(session_id)s::text IS NULL OR session_id = %(session_id)s::text);
