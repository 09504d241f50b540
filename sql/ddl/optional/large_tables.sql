-- Indexes for a table with many sessions that are over. None of them is on a column that a heartbeat writes, and none
-- holds a session that beats, unless that fell silent or lost its item.
-- Idempotent. Each index that is missing stops writers while it is built, for a second or two per million rows.

DO $$
BEGIN
    IF pg_catalog.to_regclass('public.idx_claude_sessions_over') IS NULL THEN
        -- list --all, reap and prune: what ended, or is stale and holds nothing, by its latest change.
        CREATE INDEX idx_claude_sessions_over
        ON public.claude_sessions USING btree (status, updated_at NULLS FIRST, id)
        WHERE status = 'released' OR (status = 'stale' AND sd_id IS NULL);
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_over_ids') IS NULL THEN
        -- A session that is named by the beginning of its id.
        CREATE INDEX idx_claude_sessions_over_ids
        ON public.claude_sessions USING btree (status, session_id COLLATE pg_catalog."C")
        WHERE status IN ('stale', 'released');
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_stale_holders') IS NULL THEN
        -- Claims on stale rows, which other programs leave.
        CREATE INDEX idx_claude_sessions_stale_holders
        ON public.claude_sessions USING btree (sd_id) WHERE status = 'stale' AND sd_id IS NOT NULL;
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_stale_here') IS NULL THEN
        -- heartbeat --here: the stale sessions of a host.
        CREATE INDEX idx_claude_sessions_stale_here
        ON public.claude_sessions USING btree (
            (metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text)
        )
        WHERE status = 'stale';
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_tombstones') IS NULL THEN
        -- claim: the losers of an item that nobody has claimed since.
        CREATE INDEX idx_claude_sessions_tombstones
        ON public.claude_sessions USING btree (
            (metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text ->> 'sd_id'::text)
        )
        WHERE status IN ('idle', 'stale')
            AND metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text ->> 'sd_id'::text IS NOT NULL
            AND metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text ->> 'by'::text IS NULL;
    END IF;
    IF pg_catalog.to_regclass('public.claude_session_events') IS NOT NULL
        AND pg_catalog.to_regclass('public.idx_claude_session_events_ends') IS NULL THEN
        -- history --since, doctor: the terms that ended within a time.
        CREATE INDEX idx_claude_session_events_ends
        ON public.claude_session_events USING btree (at) WHERE event = 'unclaimed';
    END IF;
END
$$;
