-- Prove life with all that a command sees, and open a stale or released session, whose row is locked, as idle. Clears
-- the claim of a released row in the same statement: older writers leave claims there.
-- Parameters: session_id, tty, pid, hostname, codebase, own (jsonb), now. Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        sd_id = CASE WHEN status = 'released' THEN NULL ELSE sd_id END,
        track = CASE WHEN status = 'released' THEN NULL ELSE track END,
        claimed_at = CASE WHEN status = 'released' THEN NULL ELSE claimed_at END,
        status = CASE WHEN status IN ('stale', 'released') THEN 'idle' ELSE status END,
{seen_columns}
    FROM (SELECT %(own)s::jsonb AS own) AS given
    WHERE session_id = %(session_id)s::text
    RETURNING {session_columns}
)
{written_row};
