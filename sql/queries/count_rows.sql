-- Count the rows of the table.
-- Parameters: none. Returns: number.
SELECT pg_catalog.count(*) AS number
FROM public.claude_sessions;
