-- At most one live claim on a work item, whichever program writes it.
-- Fails on a table that already holds double claims: lists them, and changes nothing.

DO $$
DECLARE
    doubles text;
BEGIN
    IF pg_catalog.to_regclass('public.idx_claude_sessions_unique_active_claim') IS NOT NULL THEN
        RETURN;
    END IF;

    SELECT pg_catalog.string_agg(pg_catalog.format('%s held by %s', sd_id, holders), '; ' ORDER BY sd_id)
    INTO doubles
    FROM (
        SELECT sd_id, pg_catalog.string_agg(session_id, ', ' ORDER BY claimed_at, session_id) AS holders
        FROM public.claude_sessions
        WHERE sd_id IS NOT NULL AND status IN ('active', 'idle')
        GROUP BY sd_id
        HAVING pg_catalog.count(*) > 1
    ) AS double_claims;
    IF doubles IS NOT NULL THEN
        RAISE unique_violation USING
            MESSAGE = 'work items with more than one holder: '::text || doubles,
            HINT = 'release all but one claim of each (claude-sessions release --session ID), then apply again';
    END IF;

    CREATE UNIQUE INDEX idx_claude_sessions_unique_active_claim
    ON public.claude_sessions USING btree (sd_id)
    WHERE sd_id IS NOT NULL AND status IN ('active', 'idle');
END
$$;
