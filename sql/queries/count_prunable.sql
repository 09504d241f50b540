-- Count the sessions that prune_sessions would delete.
-- Parameters: older_than_s (numeric: seconds), now. Returns: number.
SELECT count(*) AS number
FROM public.claude_sessions
WHERE {prunable};
