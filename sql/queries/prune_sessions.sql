-- Delete released sessions that nothing has touched since a time, a batch of them; what somebody has locked stays.
-- Parameters: older_than_s (numeric: seconds), row_limit (integer), now. Returns: session_id of each deleted row.
DELETE FROM public.claude_sessions
WHERE id IN (
    SELECT id
    FROM public.claude_sessions
    WHERE status = 'released'
        AND greatest(heartbeat_at, updated_at, created_at)
            < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(older_than_s)s)
    LIMIT %(row_limit)s::integer
    FOR UPDATE SKIP LOCKED
)
RETURNING session_id;
