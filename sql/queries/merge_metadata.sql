-- Change the tool's own part of the metadata of a session whose row is locked, and nothing else.
-- Parameters: session_id (text), own (jsonb), now. Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        metadata = {merged_metadata},
        updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    FROM (SELECT %(own)s::jsonb AS own) AS given
    WHERE session_id = %(session_id)s::text
    RETURNING {session_columns}
)
{written_row};
