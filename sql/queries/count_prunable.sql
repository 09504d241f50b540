-- Count the sessions that prune_sessions would delete.
-- Parameters: older_than_s (float8: seconds), now. Returns: number.
SELECT pg_catalog.count(*) AS number
FROM public.claude_sessions
WHERE {prunable};
