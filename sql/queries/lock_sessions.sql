-- Lock the rows of sessions, in the order of id, so that crossing commands cannot deadlock.
-- Parameters: session_ids (text[]), now. Returns: sessions.
SELECT {session_columns}
FROM (
    SELECT *
    FROM public.claude_sessions
    WHERE session_id = ANY(%(session_ids)s::text[])
    ORDER BY id
    FOR UPDATE
) AS locked;
