-- List the sessions that live, or hold an item; see live.
-- Parameters: those of listed; statuses (text[], NULL for any); now.
-- Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE (
        (status IN ('active', 'idle') AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s::text[])))
        OR (status IS NULL AND %(statuses)s::text[] IS NULL)
        OR (
            status = 'stale'
            AND sd_id IS NOT NULL
            AND (%(statuses)s::text[] IS NULL OR 'stale' = ANY(%(statuses)s::text[]))
        )
    )
{listed};
