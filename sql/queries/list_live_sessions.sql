-- List the sessions that have not ended, a page at a time: reap judges more rows than one statement may read in time.
-- Parameters: after (uuid: the last id of the previous page, NULL at first), row_limit (bigint), now. Returns:
-- sessions with row_version.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE (status IN ('active', 'idle', 'stale') OR status IS NULL)
    AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
ORDER BY id
LIMIT %(row_limit)s::bigint;
