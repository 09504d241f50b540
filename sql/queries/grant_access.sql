-- Give a role what the commands need; membership in authenticated is what lets it through row security.
-- Parameters: role (text). Returns: nothing.
SELECT set_config('claude_sessions.grantee', %(role)s, true);
DO $$
DECLARE
    grantee text := current_setting('claude_sessions.grantee');
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %%I', grantee);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.claude_sessions TO %%I', grantee);
    IF grantee <> 'authenticated' THEN
        EXECUTE format('GRANT authenticated TO %%I', grantee);
    END IF;
END
$$;
