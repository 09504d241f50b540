-- The history: who held what, from when to when, how it ended, by whom and from where; and the notification of waiters.
-- Filled by triggers, whichever program writes the table; a heartbeat never calls them.

DO $$
BEGIN
    IF pg_catalog.to_regclass('public.claude_session_events') IS NULL THEN
        CREATE TABLE public.claude_session_events (
            id bigint GENERATED ALWAYS AS IDENTITY,
            at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            event text NOT NULL,
            session_id text NOT NULL,
            sd_id text,
            claimed_at timestamp with time zone,
            track text,
            hostname text,
            tty text,
            pid integer,
            codebase text,
            reason text,
            note text,
            actor_session text,
            actor_host text,
            actor_program text,
            actor_role text,
            CONSTRAINT claude_session_events_pkey PRIMARY KEY (id),
            CONSTRAINT claude_session_events_event_check CHECK (
                event IN ('registered', 'claimed', 'unclaimed', 'stale', 'ended', 'reopened', 'deleted')
            )
        );
        -- Append-only: the trigger alone writes here, whatever the database's default privileges are. Administrators
        -- may change who reads, so that is granted once, at creation.
        REVOKE ALL ON public.claude_session_events FROM PUBLIC, anon, authenticated;
        GRANT SELECT ON public.claude_session_events TO authenticated;
    END IF;

    -- Checked first, because CREATE INDEX IF NOT EXISTS waits for every writer even if the index exists.
    IF pg_catalog.to_regclass('public.idx_claude_session_events_sd') IS NULL THEN
        CREATE INDEX idx_claude_session_events_sd
        ON public.claude_session_events USING btree (sd_id, claimed_at) WHERE sd_id IS NOT NULL;
    END IF;
    IF pg_catalog.to_regclass('public.idx_claude_session_events_session') IS NULL THEN
        CREATE INDEX idx_claude_session_events_session
        ON public.claude_session_events USING btree (session_id, id);
    END IF;
END
$$;

-- SECURITY DEFINER with a fixed search_path: it works for every role that may write the table; none redirects its names.
CREATE OR REPLACE FUNCTION public.claude_sessions_record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    -- Where there is no row, as before an INSERT and after a DELETE, these are null.
    was public.claude_sessions := OLD;
    becomes public.claude_sessions := NEW;
    held boolean := was.sd_id IS NOT NULL AND was.status IS DISTINCT FROM 'released';
    holds boolean := becomes.sd_id IS NOT NULL AND becomes.status IS DISTINCT FROM 'released';
    own jsonb := becomes.metadata -> 'claude_sessions_cli';
    before jsonb := was.metadata -> 'claude_sessions_cli';
    tombstone jsonb := own -> 'tombstone';
    same_term boolean;
    lost boolean;
BEGIN
    -- Hung on another table, it would record what its owner likes.
    IF TG_RELID <> 'public.claude_sessions'::regclass::oid THEN
        RAISE EXCEPTION 'claude_sessions_record() records the table public.claude_sessions alone'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    same_term := held AND holds
        AND was.sd_id = becomes.sd_id AND was.claimed_at IS NOT DISTINCT FROM becomes.claimed_at;

    IF TG_OP = 'INSERT' THEN
        PERFORM public.claude_sessions_append('registered', becomes, NULL, NULL, NULL);
    END IF;
    IF held AND NOT same_term THEN
        -- What was told of an earlier term says nothing of how another program ends this one.
        lost := tombstone ->> 'sd_id' = was.sd_id AND tombstone IS DISTINCT FROM before -> 'tombstone';
        PERFORM public.claude_sessions_append(
            'unclaimed', was,
            CASE
                WHEN TG_OP = 'DELETE' THEN 'deleted'
                WHEN lost THEN tombstone ->> 'reason'
                WHEN own -> 'release_reason' IS DISTINCT FROM before -> 'release_reason'
                    OR current_setting('claude_sessions.actor', true) <> ''
                    THEN coalesce(own ->> 'release_reason', 'released')
                ELSE 'released'
            END,
            CASE WHEN lost THEN tombstone ->> 'note' END,
            -- A session that notes its own loss names its successor, which ended nothing.
            CASE WHEN lost AND current_setting('claude_sessions.actor', true) IS DISTINCT FROM was.session_id
                THEN tombstone ->> 'by' END
        );
        PERFORM pg_notify('claude_sessions', md5(was.sd_id));
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM public.claude_sessions_append('deleted', was, NULL, NULL, NULL);
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' AND becomes.status IS DISTINCT FROM was.status THEN
        IF becomes.status = 'released' THEN
            PERFORM public.claude_sessions_append('ended', becomes, NULL, NULL, NULL);
        ELSIF becomes.status = 'stale' THEN
            PERFORM public.claude_sessions_append('stale', becomes, NULL, NULL, NULL);
        ELSIF was.status = 'released' THEN
            PERFORM public.claude_sessions_append('reopened', becomes, NULL, NULL, NULL);
        END IF;
    END IF;
    IF holds AND NOT same_term THEN
        PERFORM public.claude_sessions_append('claimed', becomes, NULL, own ->> 'note', NULL);
    END IF;
    RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION public.claude_sessions_append(
    event text, session public.claude_sessions, reason text, note text, actor text
) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $function$
    INSERT INTO public.claude_session_events (
        event, session_id, sd_id, claimed_at, track, hostname, tty, pid, codebase, reason, note,
        actor_session, actor_host, actor_program, actor_role
    )
    VALUES (
        event, (session).session_id, (session).sd_id, (session).claimed_at, (session).track, (session).hostname,
        (session).tty, (session).pid, (session).codebase, reason, note,
        coalesce(actor, nullif(current_setting('claude_sessions.actor', true), '')),
        nullif(current_setting('claude_sessions.actor_host', true), ''),
        nullif(current_setting('application_name', true), ''),
        coalesce(nullif(current_setting('role'), 'none'), session_user)
    );
$function$;

DO $$
DECLARE
    granted record;
BEGIN
    -- Whoever may execute these writes history as the owner. A trigger fires without that right. Default privileges, as
    -- those of hosted databases, give it to roles that this file does not know.
    FOR granted IN
        SELECT
            pg_proc.oid::regprocedure::text AS function,
            CASE WHEN acl.grantee = '0'::oid THEN 'PUBLIC'::text
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)::text)
            END AS grantee
        FROM pg_catalog.pg_proc
        CROSS JOIN LATERAL pg_catalog.aclexplode(
            coalesce(pg_proc.proacl, pg_catalog.acldefault('f'::"char", pg_proc.proowner))
        ) AS acl
        WHERE pg_proc.oid IN (
                'public.claude_sessions_record()'::regprocedure::oid,
                'public.claude_sessions_append(text, public.claude_sessions, text, text, text)'::regprocedure::oid
            )
            AND acl.grantee <> pg_proc.proowner
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON FUNCTION %s FROM %s'::text, VARIADIC ARRAY[granted.function, granted.grantee]
        );
    END LOOP;
END
$$;

DO $$
DECLARE
    granted record;
BEGIN
    -- Who writes this table can forge history; who sets its sequence can make every claim fail on a repeated number. Who
    -- reads is the administrator's choice.
    FOR granted IN
        SELECT
            acl.kind, acl.name, acl.grantee,
            pg_catalog.string_agg(DISTINCT acl.privilege_type, ', '::text) AS privileges
        FROM (
            SELECT
                CASE relation.relkind WHEN 'S' THEN 'SEQUENCE'::text ELSE 'TABLE'::text END AS kind,
                relation.oid::regclass::text AS name,
                CASE WHEN list.grantee = '0'::oid THEN 'PUBLIC'::text
                    ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(list.grantee)::text)
                END AS grantee,
                list.privilege_type
            FROM pg_catalog.pg_class AS relation
            LEFT JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid
            CROSS JOIN LATERAL (
                SELECT * FROM pg_catalog.aclexplode(relation.relacl)
                UNION ALL
                SELECT * FROM pg_catalog.aclexplode(attribute.attacl)
            ) AS list
            WHERE list.grantee <> relation.relowner
                AND (list.privilege_type <> 'SELECT' OR relation.relkind = 'S')
                AND relation.oid IN (
                    'public.claude_session_events'::regclass::oid,
                    pg_catalog.pg_get_serial_sequence('public.claude_session_events', 'id')::regclass::oid
                )
        ) AS acl
        GROUP BY acl.kind, acl.name, acl.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE %s ON %s %s FROM %s CASCADE'::text,
            VARIADIC ARRAY[granted.privileges, granted.kind, granted.name, granted.grantee]
        );
    END LOOP;
END
$$;

DO $$
BEGIN
    -- Replacing a trigger locks the table against writers, so an existing one stays.
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'public.claude_sessions'::regclass::oid AND tgname = 'claude_sessions_record_insert'
    ) THEN
        CREATE TRIGGER claude_sessions_record_insert AFTER INSERT ON public.claude_sessions
        FOR EACH ROW EXECUTE FUNCTION public.claude_sessions_record();
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'public.claude_sessions'::regclass::oid AND tgname = 'claude_sessions_record_delete'
    ) THEN
        CREATE TRIGGER claude_sessions_record_delete AFTER DELETE ON public.claude_sessions
        FOR EACH ROW EXECUTE FUNCTION public.claude_sessions_record();
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'public.claude_sessions'::regclass::oid AND tgname = 'claude_sessions_record_change'
    ) THEN
        CREATE TRIGGER claude_sessions_record_change
        AFTER UPDATE OF sd_id, claimed_at, status ON public.claude_sessions
        FOR EACH ROW
        WHEN (
            OLD.sd_id IS DISTINCT FROM NEW.sd_id
            OR OLD.claimed_at IS DISTINCT FROM NEW.claimed_at
            OR OLD.status IS DISTINCT FROM NEW.status
        )
        EXECUTE FUNCTION public.claude_sessions_record();
        -- Claims from before the triggers are recorded too, so that their end will be, and fences stay above them.
        PERFORM public.claude_sessions_append('claimed'::text, held, NULL::text, NULL::text, NULL::text)
        FROM public.claude_sessions AS held
        WHERE sd_id IS NOT NULL AND status IS DISTINCT FROM 'released'
            AND NOT EXISTS (
                SELECT FROM public.claude_session_events AS known
                WHERE known.event = 'claimed' AND known.session_id = held.session_id AND known.sd_id = held.sd_id
                    AND known.claimed_at IS NOT DISTINCT FROM held.claimed_at
            );
    END IF;
END
$$;
