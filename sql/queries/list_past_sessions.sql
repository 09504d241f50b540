-- List the sessions that are over, the latest first.
-- Parameters: those of listed; row_limit (bigint); now.
-- Returns: sessions, and total without the limit.
SELECT {session_columns}, pg_catalog.count(*) OVER () AS total
FROM public.claude_sessions
WHERE status = 'released'
{listed}
ORDER BY updated_at DESC NULLS LAST, id
LIMIT %(row_limit)s::bigint;
