-- Read a session, and every holder of a work item and of the item that the session holds: other programs can give an
-- item to two.
-- Parameters: session_id (text), sd_id (text or NULL: that of the session alone), now. Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE session_id = %(session_id)s::text
    OR (
        status IS DISTINCT FROM 'released'
        AND sd_id = ANY(ARRAY[
            %(sd_id)s::text, (SELECT own.sd_id FROM public.claude_sessions AS own WHERE own.session_id = %(session_id)s::text)
        ])
    );
