-- Find the work items of the latest events, for a shell's completion; reading all events would take too long.
-- Parameters: prefixes (text[]: one in several forms), event_limit (bigint), row_limit (bigint). Returns: name.
SELECT DISTINCT sd_id AS name
FROM (SELECT sd_id FROM public.claude_session_events ORDER BY id DESC LIMIT %(event_limit)s::bigint) AS latest
WHERE EXISTS (
    SELECT FROM pg_catalog.unnest(%(prefixes)s::text[]) AS prefix WHERE pg_catalog.starts_with(sd_id, prefix)
)
ORDER BY name
LIMIT %(row_limit)s::bigint;
