-- Find the sessions that a person means by an id or its beginning.
-- Parameters: prefix (text), now. Returns: up to three sessions, an exact match first, the live ones before the ended.
SELECT {session_columns}
FROM public.claude_sessions
WHERE starts_with(session_id, %(prefix)s)
ORDER BY session_id <> %(prefix)s, status IS NOT DISTINCT FROM 'released', session_id
LIMIT 3;
