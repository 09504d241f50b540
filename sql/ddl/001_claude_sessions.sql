-- The table claude_sessions as existing installations have it.
-- Idempotent: on an existing table, it adds objects that are missing by name and alters nothing; if none is missing, it
-- takes no lock that others wait for.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                -- Roles belong to the whole cluster: another database's apply may win the race.
                WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END
$$;

CREATE TABLE IF NOT EXISTS public.claude_sessions (
    id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    session_id text NOT NULL,
    sd_id text,
    track text,
    tty text,
    pid integer,
    hostname text,
    codebase text,
    claimed_at timestamp with time zone,
    heartbeat_at timestamp with time zone DEFAULT pg_catalog.now(),
    status text DEFAULT 'active'::text,
    metadata jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT pg_catalog.now(),
    updated_at timestamp with time zone DEFAULT pg_catalog.now(),
    CONSTRAINT claude_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT claude_sessions_session_id_key UNIQUE (session_id),
    CONSTRAINT claude_sessions_status_check CHECK (status IN ('active', 'idle', 'stale', 'released')),
    CONSTRAINT claude_sessions_track_check CHECK (track IN ('A', 'B', 'C', 'STANDALONE'))
);

DO $$
BEGIN
    -- Checked first, because CREATE INDEX IF NOT EXISTS waits for every writer even if the index exists.
    -- optional/hot_heartbeats.sql replaces the first.
    IF pg_catalog.to_regclass('public.idx_claude_sessions_heartbeat') IS NULL
        AND pg_catalog.to_regclass('public.idx_claude_sessions_live_here') IS NULL THEN
        CREATE INDEX idx_claude_sessions_heartbeat ON public.claude_sessions USING btree (heartbeat_at DESC);
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_sd') IS NULL THEN
        CREATE INDEX idx_claude_sessions_sd ON public.claude_sessions USING btree (sd_id) WHERE sd_id IS NOT NULL;
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_status') IS NULL THEN
        CREATE INDEX idx_claude_sessions_status ON public.claude_sessions USING btree (status);
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_track') IS NULL THEN
        CREATE INDEX idx_claude_sessions_track ON public.claude_sessions USING btree (track) WHERE track IS NOT NULL;
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_sessions_tty_pid') IS NULL THEN
        CREATE INDEX idx_claude_sessions_tty_pid ON public.claude_sessions USING btree (tty, pid);
    END IF;

    -- Its ACCESS EXCLUSIVE lock would block every session.
    IF NOT (SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = 'public.claude_sessions'::regclass::oid) THEN
        ALTER TABLE public.claude_sessions ENABLE ROW LEVEL SECURITY;
    END IF;
    -- If an administrator has set other policies, these must not open the table again.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'public.claude_sessions'::regclass::oid) THEN
        CREATE POLICY "Allow all for anon" ON public.claude_sessions
        FOR ALL TO anon USING (true) WITH CHECK (true);
        CREATE POLICY "Allow all for authenticated" ON public.claude_sessions
        FOR ALL TO authenticated USING (true) WITH CHECK (true);
    END IF;
END
$$;
