-- The metadata with the tool's new keys merged in; a null removes a key. Metadata that is not an object stays as it is.
-- Part of other queries, which provide `given.own` (jsonb). Parameters: none.
    CASE WHEN pg_catalog.jsonb_typeof(coalesce(metadata, '{}'::jsonb)) = 'object' THEN
        coalesce(metadata, '{}'::jsonb)
        || pg_catalog.jsonb_build_object('claude_sessions_cli', pg_catalog.jsonb_strip_nulls(
            CASE WHEN pg_catalog.jsonb_typeof(metadata -> 'claude_sessions_cli'::text) = 'object'
                THEN metadata -> 'claude_sessions_cli'::text ELSE '{}'::jsonb END || given.own))
    ELSE metadata END
