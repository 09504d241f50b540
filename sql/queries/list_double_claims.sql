-- List work items that several sessions hold.
-- Parameters: row_limit (bigint). Returns: sd_id, sessions (text[]).
SELECT sd_id, pg_catalog.array_agg(session_id::text ORDER BY claimed_at) AS sessions
FROM public.claude_sessions
WHERE sd_id IS NOT NULL AND (status IN ('active', 'idle', 'stale') OR status IS NULL)
GROUP BY sd_id
HAVING pg_catalog.count(*) > 1::bigint
ORDER BY sd_id
LIMIT %(row_limit)s::bigint;
