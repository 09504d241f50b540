-- List sessions by the ids of their rows.
-- Parameters: ids (uuid[]), now. Returns: sessions with row_version, in the order of id.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE id = ANY(%(ids)s::uuid[])
ORDER BY id;
