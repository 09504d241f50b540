-- List the sessions that have not ended, some at a time: reap judges tables that are longer than one statement may take.
-- Parameters: after (uuid: the last of those before, NULL at first), row_limit (integer), now. Returns: sessions with
-- row_version.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE (status IN ('active', 'idle', 'stale') OR status IS NULL)
    AND (%(after)s::uuid IS NULL OR id > %(after)s)
ORDER BY id
LIMIT %(row_limit)s;
