-- The metadata with the tool's new keys merged in; a null removes a key. Metadata that is not an object stays as it is.
-- Part of other queries, which provide `given.own` (jsonb). Parameters: none.
    CASE WHEN jsonb_typeof(coalesce(metadata, '{}')) = 'object' THEN
        coalesce(metadata, '{}') || jsonb_build_object('claude_sessions_cli', jsonb_strip_nulls(
            CASE WHEN jsonb_typeof(metadata -> 'claude_sessions_cli') = 'object'
                THEN metadata -> 'claude_sessions_cli' ELSE '{}' END || given.own))
    ELSE metadata END
