-- For large fleets: heartbeats as HOT updates, which write no index and a third of the WAL. For that no index may be on
-- heartbeat_at, and each page needs room for the next versions of its rows. The tool does not use that index.
-- Idempotent. There is room in the pages that are written from now on; VACUUM FULL or pg_repack makes it in the others.
-- The first time, it locks the table against everybody while it builds an index of the sessions that live.

DO $$
DECLARE
    option text;
    setting text;
BEGIN
    -- Dropped first: to take this lock after a weaker one would deadlock with writers. Checked, because of the lock.
    IF pg_catalog.to_regclass('public.idx_claude_sessions_heartbeat') IS NOT NULL THEN
        DROP INDEX public.idx_claude_sessions_heartbeat;
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_live_here') IS NULL THEN
        -- heartbeat --here: the sessions of a host. A HOT update does not write it.
        CREATE INDEX idx_claude_sessions_live_here
        ON public.claude_sessions USING btree (
            (metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text)
        )
        WHERE status IN ('active', 'idle') OR status IS NULL;
    END IF;
    -- Sessions that live are few among those that ended, so their dead versions are a small share of the table. Other
    -- values stay as they are.
    FOR option, setting IN VALUES
        ('fillfactor', '70'), ('autovacuum_vacuum_scale_factor', '0.01'), ('autovacuum_analyze_scale_factor', '0.02')
    LOOP
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_class
            CROSS JOIN LATERAL pg_catalog.pg_options_to_table(reloptions) AS given
            WHERE pg_class.oid = 'public.claude_sessions'::regclass::oid AND given.option_name = option
        ) THEN
            EXECUTE pg_catalog.format('ALTER TABLE public.claude_sessions SET (%I = %s)', option, setting);
        END IF;
    END LOOP;
END
$$;
