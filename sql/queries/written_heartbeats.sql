-- The heartbeats of some locked rows, set to now; heartbeat_at alone is written.
-- Part of other queries, which provide `locked` with row_id. Parameters: now. Returns: row_id and is_written of each row
-- (false if a trigger dropped the change).
written AS (
    UPDATE public.claude_sessions SET
        heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    WHERE id = ANY(ARRAY(SELECT row_id FROM locked))
    RETURNING id
)
SELECT locked.row_id, written.id IS NOT NULL AS is_written
FROM locked
-- Each written row was found before. Postgres expects few rows, so a LEFT JOIN would compare each with each.
FULL JOIN written ON written.id = locked.row_id
