-- Find the work items that are held, for a shell's completion.
-- Parameters: prefix (text), row_limit (bigint). Returns: name.
SELECT DISTINCT sd_id AS name
FROM public.claude_sessions
WHERE status IS DISTINCT FROM 'released' AND pg_catalog.starts_with(sd_id, %(prefix)s::text)
ORDER BY name
LIMIT %(row_limit)s::bigint;
