-- List the sessions that are over, the latest change first.
-- Parameters: those of over and listed; row_limit (bigint); now.
-- Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE {over}
{listed}
ORDER BY updated_at DESC NULLS LAST, id DESC
LIMIT %(row_limit)s::bigint;
