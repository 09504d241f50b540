-- List sessions whose heartbeat lies in the future.
-- Parameters: after (uuid: the last id of the previous page, NULL at first), row_limit (bigint), now. Returns: id.
SELECT id
FROM public.claude_sessions
WHERE heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
ORDER BY id
LIMIT %(row_limit)s::bigint;
