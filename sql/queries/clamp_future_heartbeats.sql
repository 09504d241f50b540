-- Set a batch of heartbeats in the future, which came from wrong clocks, to now, so that they can age. Skips locked
-- rows.
-- Parameters: row_limit (bigint), now. Returns: row_id and is_written of each row (false if a trigger dropped the
-- change).
WITH locked AS (
    SELECT id AS row_id
    FROM public.claude_sessions
    WHERE heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
),
{written_heartbeats};
