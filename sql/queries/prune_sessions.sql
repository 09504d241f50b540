-- Delete a batch of released sessions that have not changed for longer than a time; none if another table refers to
-- sessions. Skips locked rows.
-- Parameters: after (uuid: the last id of the previous batch, NULL at first), older_than_s (float8: seconds),
-- row_limit (bigint), now. Returns: row_id and is_written of each row (false if a trigger dropped the deletion).
WITH locked AS (
    SELECT id AS row_id
    FROM public.claude_sessions
    WHERE {prunable}
        AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint
            WHERE confrelid = 'public.claude_sessions'::regclass::oid
        )
    ORDER BY id
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
),
written AS (
    DELETE FROM public.claude_sessions
    WHERE id = ANY(ARRAY(SELECT row_id FROM locked))
    RETURNING id
)
SELECT locked.row_id, written.id IS NOT NULL AS is_written
FROM locked
-- Each written row was found before. Postgres expects few rows, so a LEFT JOIN would compare each with each.
FULL JOIN written ON written.id = locked.row_id
ORDER BY locked.row_id;
