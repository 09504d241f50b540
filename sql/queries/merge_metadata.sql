-- Change the tool's own part of a session's metadata alone.
-- Parameters: session_id (text), own (jsonb), now. Returns: the session, or nothing.
UPDATE public.claude_sessions SET
    metadata = {merged_metadata},
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
FROM (SELECT %(own)s::jsonb AS own) AS given
WHERE session_id = %(session_id)s
RETURNING {session_columns};
