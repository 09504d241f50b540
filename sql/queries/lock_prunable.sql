-- Lock a batch of the sessions that prune would delete, so that no table can refer to them any more. Skips locked rows.
-- Parameters: after (uuid: the last id of the previous batch, NULL at first), older_than_s (float8: seconds),
-- row_limit (bigint), now. Returns: id.
SELECT id
FROM public.claude_sessions
WHERE {prunable}
    AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
ORDER BY id
LIMIT %(row_limit)s::bigint
FOR UPDATE SKIP LOCKED;
