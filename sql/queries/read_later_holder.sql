-- Find other holders of a work item under a later fence, which counts: other programs can give an item to two.
-- Parameters: session_id, sd_id, claimed_at (timestamptz or NULL: the caller's), now. Returns: sessions, the latest
-- first.
SELECT {session_columns}
FROM public.claude_sessions
WHERE sd_id = %(sd_id)s
    AND status IS DISTINCT FROM 'released'
    AND session_id <> %(session_id)s
    AND (claimed_at, session_id) > (coalesce(%(claimed_at)s::timestamptz, '-infinity'), %(session_id)s)
ORDER BY claimed_at DESC;
