-- End or mark a session that reap has judged, if nothing has touched it since: compare-and-swap on the row's version, so on
-- the heartbeat and everything else that the verdict rests on. A row that somebody has locked is left to the next reap.
-- Parameters: id (uuid), row_version (text), status (the new one), own (jsonb), now. Returns: the session, or nothing.
UPDATE public.claude_sessions SET
    sd_id = NULL,
    track = NULL,
    claimed_at = NULL,
    heartbeat_at = CASE
        WHEN heartbeat_at > coalesce(%(now)s::timestamptz, clock_timestamp())
            THEN coalesce(%(now)s::timestamptz, clock_timestamp())
        ELSE heartbeat_at
    END,
    status = %(status)s,
    metadata = {merged_metadata},
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE id = (
    SELECT id
    FROM public.claude_sessions
    WHERE id = %(id)s AND xmin::text = %(row_version)s
    FOR UPDATE SKIP LOCKED
)
RETURNING {session_columns};
