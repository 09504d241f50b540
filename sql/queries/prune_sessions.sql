-- Delete released sessions that nothing has touched since a time, a batch of them; what somebody has locked stays.
-- Parameters: after (uuid: the last of those before, NULL at first), older_than_s (numeric: seconds), row_limit (integer),
-- now. Returns: id of each deleted row.
DELETE FROM public.claude_sessions
WHERE id IN (
    SELECT id
    FROM public.claude_sessions
    WHERE {prunable}
        AND (%(after)s::uuid IS NULL OR id > %(after)s)
    ORDER BY id
    LIMIT %(row_limit)s::integer
    FOR UPDATE SKIP LOCKED
)
RETURNING id;
