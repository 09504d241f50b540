-- Find the work items that are held, for a shell's completion.
-- Parameters: prefixes (text[]: one in several forms), row_limit (bigint). Returns: name.
SELECT DISTINCT sd_id AS name
FROM public.claude_sessions
WHERE {live}
    AND EXISTS (
        SELECT FROM pg_catalog.unnest(%(prefixes)s::text[]) AS prefix WHERE pg_catalog.starts_with(sd_id, prefix)
    )
ORDER BY name
LIMIT %(row_limit)s::bigint;
