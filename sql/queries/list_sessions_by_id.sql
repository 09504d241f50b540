-- List sessions by the ids of their rows.
-- Parameters: ids (uuid[]), now. Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE id = ANY(%(ids)s::uuid[]);
