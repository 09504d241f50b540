-- Prove life under one term only, writing heartbeat_at alone.
-- Parameters: session_id, forms (text[]: those of the item's name), claimed_at (timestamptz), now. Returns: the
-- session, or nothing if that term is over.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
WHERE session_id = %(session_id)s::text
    AND sd_id = ANY(%(forms)s::text[])
    AND claimed_at = %(claimed_at)s::timestamptz
    AND status IS DISTINCT FROM 'released'
RETURNING {session_columns};
