-- End a session's term: compare-and-set on the whole term. Never writes heartbeat_at.
-- Parameters: session_id, sd_id, claimed_at (NULL matches NULL), status (the new one), own (jsonb), now.
-- Returns: the session, or nothing if the term is over.
UPDATE public.claude_sessions SET
    sd_id = NULL,
    track = NULL,
    claimed_at = NULL,
    status = %(status)s,
    metadata = {merged_metadata},
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
FROM (SELECT %(own)s::jsonb AS own) AS given
WHERE session_id = %(session_id)s
    AND sd_id IS NOT DISTINCT FROM %(sd_id)s
    AND claimed_at IS NOT DISTINCT FROM %(claimed_at)s::timestamptz
RETURNING {session_columns};
