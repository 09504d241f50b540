-- Grant a role the rights that the commands need, and what row security asks for: a place in the policy of workers under
-- least_privilege.sql, else membership in authenticated.
-- Parameters: role (text). Returns: nothing.
SELECT pg_catalog.set_config('claude_sessions.grantee', %(role)s::text, true);
DO $$
DECLARE
    grantee text := pg_catalog.current_setting('claude_sessions.grantee');
    workers oid[] := (
        SELECT polroles FROM pg_catalog.pg_policy
        WHERE polrelid = 'public.claude_sessions'::regclass::oid AND polname = 'claude_sessions_work'
    );
    names text;
BEGIN
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA public TO %%I', grantee);
    EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO %%I', grantee);
    EXECUTE pg_catalog.format('GRANT SELECT ON public.claude_session_events TO %%I', grantee);
    IF workers IS NOT NULL THEN
        SELECT pg_catalog.string_agg(pg_catalog.quote_ident(rolname::text), ', '::text) INTO names
        FROM pg_catalog.pg_roles WHERE oid = ANY(workers) OR rolname = grantee::name;
        IF EXISTS (
            SELECT FROM pg_catalog.pg_roles
            WHERE rolname = grantee::name AND NOT rolsuper AND pg_catalog.pg_has_role(oid, 'anon', 'USAGE')
        ) THEN
            RAISE insufficient_privilege USING
                MESSAGE = pg_catalog.format('the role %%s inherits from anon, which least_privilege.sql denies all', grantee),
                HINT = pg_catalog.format('run: REVOKE anon FROM %%I', grantee);
        END IF;
        -- Its lock stops every session.
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = grantee::name AND oid = ANY(workers)) THEN
            EXECUTE pg_catalog.format('ALTER POLICY claude_sessions_work ON public.claude_sessions TO %%s', names);
        END IF;
    -- anon has a policy of its own, and authenticated may own other tables.
    ELSIF grantee NOT IN ('anon', 'authenticated') THEN
        EXECUTE pg_catalog.format('GRANT authenticated TO %%I', grantee);
        IF NOT pg_catalog.pg_has_role(grantee, 'authenticated', 'USAGE') THEN
            RAISE insufficient_privilege USING
                MESSAGE = pg_catalog.format('the role %%s does not inherit the rights of authenticated', grantee),
                HINT = pg_catalog.format('run: ALTER ROLE %%I INHERIT', grantee);
        END IF;
    END IF;
END
$$;
