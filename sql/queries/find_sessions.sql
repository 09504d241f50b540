-- Find sessions by an id or its beginning. Of many that are over, the first are enough.
-- Parameters: prefix (text), now. Returns: up to three sessions, an exact match first, then live ones.
SELECT {session_columns}
FROM public.claude_sessions
WHERE id = ANY(ARRAY(
    SELECT id FROM public.claude_sessions WHERE session_id = %(prefix)s::text
    UNION ALL
    SELECT id
    FROM public.claude_sessions
    WHERE (status IN ('active', 'idle') OR status IS NULL) AND pg_catalog.starts_with(session_id, %(prefix)s::text)
    UNION ALL
    (
        SELECT id
        FROM public.claude_sessions
        WHERE status = 'stale' AND pg_catalog.starts_with(session_id COLLATE pg_catalog."C", %(prefix)s::text)
        ORDER BY session_id COLLATE pg_catalog."C"
        LIMIT 3
    )
    UNION ALL
    (
        SELECT id
        FROM public.claude_sessions
        WHERE status = 'released' AND pg_catalog.starts_with(session_id COLLATE pg_catalog."C", %(prefix)s::text)
        ORDER BY session_id COLLATE pg_catalog."C"
        LIMIT 3
    )
))
ORDER BY session_id <> %(prefix)s::text, status IS NOT DISTINCT FROM 'released', session_id
LIMIT 3;
