-- Delete a batch of released sessions that have not changed for longer than a time. Skips locked rows.
-- An array, because a subquery of IN can run again for each row, and then exceeds its limit.
-- Parameters: after (uuid: the last id of the previous batch, NULL at first), older_than_s (float8: seconds),
-- row_limit (bigint), now. Returns: id of each deleted row.
DELETE FROM public.claude_sessions
WHERE id = ANY(ARRAY(
    SELECT id
    FROM public.claude_sessions
    WHERE {prunable}
        AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
    ORDER BY id
    LIMIT %(row_limit)s::bigint
    FOR UPDATE SKIP LOCKED
))
RETURNING id;
