-- Find the sessions that live or hold an item, for a shell's completion.
-- Parameters: prefix (text), row_limit (bigint). Returns: name.
SELECT session_id AS name
FROM public.claude_sessions
WHERE {live} AND pg_catalog.starts_with(session_id, %(prefix)s::text)
ORDER BY name
LIMIT %(row_limit)s::bigint;
