-- Lock a session's row and those that a claim of a work item concerns: its holders, and stale or idle sessions that
-- lost it to silence. In the order of id, so that crossing claims cannot deadlock.
-- Parameters: session_id (text), forms (text[]: those of the item's name), now. Returns: sessions.
-- The ids are gathered as an array first: if a row changed while its lock was awaited, Postgres rechecks the new row,
-- and a join with the subquery can then miss it.
SELECT {session_columns}
FROM (
    SELECT *
    FROM public.claude_sessions
    WHERE id = ANY(ARRAY(
        SELECT id FROM public.claude_sessions WHERE session_id = %(session_id)s::text
        UNION ALL
        SELECT id FROM public.claude_sessions WHERE sd_id = ANY(%(forms)s::text[]) AND status IS DISTINCT FROM 'released'
        UNION ALL
        SELECT id
        FROM public.claude_sessions
        WHERE status IN ('idle', 'stale')
            AND metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text ->> 'sd_id'::text = ANY(%(forms)s::text[])
            AND metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text ->> 'by'::text IS NULL
    ))
    ORDER BY id
    FOR UPDATE
) AS locked
ORDER BY claimed_at DESC NULLS LAST, id;
