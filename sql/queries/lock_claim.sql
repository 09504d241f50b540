-- Lock a session's row and those that a claim of a work item concerns: its holders, and the stale or idle sessions that
-- lost it to silence. In the order of id, so that claims that cross each other cannot deadlock. The rows are found before
-- they are locked, as an array: after the wait for a row that is written meanwhile, Postgres looks again whether it fits, and
-- in a join with what finds the rows, it may find none, so that a holder would be missed because its heartbeat came.
-- Parameters: session_id (text), sd_id (text or NULL: the session's row alone), now. Returns: sessions.
SELECT {session_columns}
FROM (
    SELECT *
    FROM public.claude_sessions
    WHERE id = ANY(ARRAY(
        SELECT id FROM public.claude_sessions WHERE session_id = %(session_id)s
        UNION ALL
        SELECT id FROM public.claude_sessions WHERE sd_id = %(sd_id)s AND status IS DISTINCT FROM 'released'
        UNION ALL
        SELECT id
        FROM public.claude_sessions
        WHERE status IN ('idle', 'stale')
            AND metadata -> 'claude_sessions_cli' -> 'tombstone' ->> 'sd_id' = %(sd_id)s
            AND metadata -> 'claude_sessions_cli' -> 'tombstone' ->> 'by' IS NULL
    ))
    ORDER BY id
    FOR UPDATE
) AS locked
ORDER BY claimed_at DESC NULLS LAST, id;
