-- Delete sessions whose rows are locked.
-- Parameters: listed (jsonb: objects of id). Returns: row_id and is_written of each row (false if a trigger dropped the
-- deletion).
WITH locked AS (
    SELECT s.id AS row_id
    FROM pg_catalog.jsonb_to_recordset(%(listed)s::jsonb) AS listed (id uuid)
    INNER JOIN public.claude_sessions AS s ON s.id = listed.id
),
written AS (
    DELETE FROM public.claude_sessions
    WHERE id = ANY(ARRAY(SELECT row_id FROM locked))
    RETURNING id
)
SELECT locked.row_id, written.id IS NOT NULL AS is_written
FROM locked
-- Each written row was found before. Postgres expects few rows, so a LEFT JOIN would compare each with each.
FULL JOIN written ON written.id = locked.row_id;
