-- End the term of a session whose row is locked, and which was judged under that lock. Never writes heartbeat_at.
-- Parameters: session_id, status (the new one), own (jsonb), now. Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        sd_id = NULL,
        track = NULL,
        claimed_at = NULL,
        status = %(status)s::text,
        metadata = {merged_metadata},
        updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    FROM (SELECT %(own)s::jsonb AS own) AS given
    WHERE session_id = %(session_id)s::text
    RETURNING {session_columns}
)
{written_row};
