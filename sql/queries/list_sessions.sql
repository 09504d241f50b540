-- List the sessions that live, or hold an item.
-- Parameters: those of listed; statuses (text[], NULL for any); idle_stale (boolean: stale ones that hold nothing too);
-- now.
-- Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE (status IN ('active', 'idle', 'stale') OR status IS NULL)
    AND (%(idle_stale)s::boolean OR status IS DISTINCT FROM 'stale' OR sd_id IS NOT NULL)
    AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s::text[]))
{listed};
