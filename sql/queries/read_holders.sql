-- Read a session, and every holder of a work item and of the item that the session holds: other programs can give an
-- item to two.
-- Parameters: session_id (text), sd_id (text or NULL: that of the session alone), now. Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE id = ANY(ARRAY(
    SELECT id FROM public.claude_sessions WHERE session_id = %(session_id)s::text
    UNION ALL
    SELECT id FROM public.claude_sessions WHERE sd_id = %(sd_id)s::text AND status IS DISTINCT FROM 'released'
    UNION ALL
    SELECT held.id
    FROM public.claude_sessions AS own
    INNER JOIN public.claude_sessions AS held ON held.sd_id = own.sd_id
    WHERE own.session_id = %(session_id)s::text AND held.status IS DISTINCT FROM 'released'
));
