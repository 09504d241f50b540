-- Count the sessions that are over.
-- Parameters: those of over and listed.
-- Returns: number.
SELECT pg_catalog.count(*) AS number
FROM public.claude_sessions
WHERE {over}
{listed};
