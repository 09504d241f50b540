-- Read the latest term of a work item, even if its row was deleted, and keep it for take_claim in this transaction. A
-- time that no later term could exceed, such as infinity from another program, does not count.
-- Parameters: forms (text[]: those of the item's name). Returns: claimed_at and session_id, or nothing.
-- Each form has an end of the index to itself: one scan for all of them would read every term.
SELECT
    claimed_at, session_id,
    pg_catalog.set_config('claude_sessions.fence_floor', claimed_at::text, true) AS floor
FROM (
    SELECT latest.claimed_at, latest.session_id
    FROM pg_catalog.unnest(%(forms)s::text[]) AS form
    CROSS JOIN LATERAL (
        SELECT claimed_at, session_id
        FROM public.claude_session_events
        WHERE sd_id = form AND claimed_at < '9999-01-01 00:00Z'::timestamptz
        ORDER BY claimed_at DESC
        LIMIT 1
    ) AS latest
    ORDER BY latest.claimed_at DESC
    LIMIT 1
) AS found;
