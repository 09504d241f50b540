-- Set a batch of heartbeats in the future, which came from wrong clocks, to now, so that they can age. Skips locked
-- rows. In the order of id; see renew_heartbeats. The rows are found first: with a LIMIT, Postgres would read the whole
-- table in that order.
-- Parameters: row_limit (bigint), now. Returns: row_id and is_written of each row (false if a trigger dropped the
-- change).
WITH locked AS (
    SELECT id AS row_id
    FROM public.claude_sessions
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM public.claude_sessions
        WHERE heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    ))
    ORDER BY id
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
),
{written_heartbeats};
