-- Set the heartbeats of some sessions to now if they still lie in the future. Skips locked rows. In the order of id;
-- see renew_heartbeats.
-- Parameters: listed (jsonb: objects of id), now. Returns: row_id and is_written of each row (false if a trigger
-- dropped the change).
WITH locked AS (
    SELECT s.id AS row_id
    FROM pg_catalog.jsonb_to_recordset(%(listed)s::jsonb) AS listed (id uuid)
    INNER JOIN public.claude_sessions AS s ON s.id = listed.id
    WHERE s.heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    ORDER BY s.id
    FOR UPDATE OF s SKIP LOCKED
),
{written_heartbeats};
