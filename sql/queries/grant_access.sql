-- Grant a role what the commands need, and membership in authenticated, which row security admits.
-- Parameters: role (text). Returns: nothing.
SELECT set_config('claude_sessions.grantee', %(role)s, true);
DO $$
DECLARE
    grantee text := current_setting('claude_sessions.grantee');
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %%I', grantee);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO %%I', grantee);
    -- A policy of its own lets anon through, and authenticated may own more than this table.
    IF grantee NOT IN ('anon', 'authenticated') THEN
        EXECUTE format('GRANT authenticated TO %%I', grantee);
        IF NOT pg_has_role(grantee, 'authenticated', 'USAGE') THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('the role %%s does not inherit what authenticated may do', grantee),
                HINT = format('let it: ALTER ROLE %%I INHERIT', grantee);
        END IF;
    END IF;
END
$$;
