-- Delete a batch of released sessions that have not changed for longer than a time. Skips locked rows.
-- Parameters: after (uuid: the last id of the previous batch, NULL at first), older_than_s (float8: seconds),
-- row_limit (bigint), now. Returns: id of each deleted row.
DELETE FROM public.claude_sessions
WHERE id IN (
    SELECT id
    FROM public.claude_sessions
    WHERE {prunable}
        AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
    ORDER BY id
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
)
RETURNING id;
