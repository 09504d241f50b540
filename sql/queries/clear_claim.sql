-- End the term of a session whose row is locked: compare-and-set on the whole term. Never writes heartbeat_at.
-- Parameters: session_id, sd_id, claimed_at (NULL matches NULL), status (the new one), own (jsonb), now.
-- Returns: the session.
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
        AND sd_id IS NOT DISTINCT FROM %(sd_id)s::text
        AND claimed_at IS NOT DISTINCT FROM %(claimed_at)s::timestamptz
    RETURNING {session_columns}
)
{written_row};
