-- The table claude_sessions as the installations that exist already have it.
-- Idempotent: on a table that is there, it adds what is missing by name and alters nothing.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                -- Roles belong to the whole cluster: another database's apply may win the race.
                WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END
$$;

CREATE TABLE IF NOT EXISTS public.claude_sessions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    session_id text NOT NULL,
    sd_id text,
    track text,
    tty text,
    pid integer,
    hostname text,
    codebase text,
    claimed_at timestamp with time zone,
    heartbeat_at timestamp with time zone DEFAULT now(),
    status text DEFAULT 'active'::text,
    metadata jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT claude_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT claude_sessions_session_id_key UNIQUE (session_id),
    CONSTRAINT claude_sessions_status_check CHECK (status IN ('active', 'idle', 'stale', 'released')),
    CONSTRAINT claude_sessions_track_check CHECK (track IN ('A', 'B', 'C', 'STANDALONE'))
);

CREATE INDEX IF NOT EXISTS idx_claude_sessions_heartbeat ON public.claude_sessions USING btree (heartbeat_at DESC);
CREATE INDEX IF NOT EXISTS idx_claude_sessions_sd ON public.claude_sessions USING btree (sd_id) WHERE sd_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_claude_sessions_status ON public.claude_sessions USING btree (status);
CREATE INDEX IF NOT EXISTS idx_claude_sessions_track ON public.claude_sessions USING btree (track) WHERE track IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_claude_sessions_tty_pid ON public.claude_sessions USING btree (tty, pid);

ALTER TABLE public.claude_sessions ENABLE ROW LEVEL SECURITY;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated'] LOOP
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_policies
            WHERE schemaname = 'public' AND tablename = 'claude_sessions' AND policyname = 'Allow all for ' || role_name
        ) THEN
            EXECUTE format(
                'CREATE POLICY %I ON public.claude_sessions FOR ALL TO %I USING (true) WITH CHECK (true)',
                'Allow all for ' || role_name, role_name
            );
        END IF;
    END LOOP;
END
$$;
