-- Grant a role the rights that the commands need, and membership in authenticated, which row security admits.
-- Parameters: role (text). Returns: nothing.
SELECT pg_catalog.set_config('claude_sessions.grantee', %(role)s::text, true);
DO $$
DECLARE
    grantee text := pg_catalog.current_setting('claude_sessions.grantee');
BEGIN
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA public TO %%I', grantee);
    EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO %%I', grantee);
    -- anon has a policy of its own, and authenticated may own other tables.
    IF grantee NOT IN ('anon', 'authenticated') THEN
        EXECUTE pg_catalog.format('GRANT authenticated TO %%I', grantee);
        IF NOT pg_catalog.pg_has_role(grantee, 'authenticated', 'USAGE') THEN
            RAISE insufficient_privilege USING
                MESSAGE = pg_catalog.format('the role %%s does not inherit the rights of authenticated', grantee),
                HINT = pg_catalog.format('run: ALTER ROLE %%I INHERIT', grantee);
        END IF;
    END IF;
END
$$;
