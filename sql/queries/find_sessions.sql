-- Find sessions by an id or its beginning.
-- Parameters: prefix (text), now. Returns: up to three sessions, an exact match first, then live ones.
SELECT {session_columns}
FROM public.claude_sessions
WHERE pg_catalog.starts_with(session_id, %(prefix)s::text)
ORDER BY session_id <> %(prefix)s::text, status IS NOT DISTINCT FROM 'released', session_id
LIMIT 3;
