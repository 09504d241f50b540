-- Read the latest term of a work item, even if its row was deleted, and keep it for take_claim in this transaction. A
-- time that no later term could exceed, such as infinity from another program, does not count.
-- Parameters: sd_id (text). Returns: claimed_at and session_id, or nothing.
SELECT
    claimed_at, session_id,
    pg_catalog.set_config('claude_sessions.fence_floor', claimed_at::text, true) AS floor
FROM public.claude_session_events
WHERE sd_id = %(sd_id)s::text AND claimed_at < '9999-01-01 00:00Z'::timestamptz
ORDER BY claimed_at DESC
LIMIT 1;
