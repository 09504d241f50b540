-- Set a batch of heartbeats in the future, which came from wrong clocks, to now, so that they can age. Skips locked
-- rows.
-- An array, because a subquery of IN can run again for each row, and then exceeds its limit.
-- Parameters: row_limit (bigint), now. Returns: nothing.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
WHERE id = ANY(ARRAY(
    SELECT id
    FROM public.claude_sessions
    WHERE heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
));
