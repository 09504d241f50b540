-- The metadata with what is new of the tool's own part merged into it; a null there removes that key. What is no object
-- stays. Part of other queries, which give it `given.own` (jsonb). Parameters: none.
    CASE WHEN jsonb_typeof(coalesce(metadata, '{}')) = 'object' THEN
        coalesce(metadata, '{}') || jsonb_build_object('claude_sessions_cli', jsonb_strip_nulls(
            CASE WHEN jsonb_typeof(metadata -> 'claude_sessions_cli') = 'object'
                THEN metadata -> 'claude_sessions_cli' ELSE '{}' END || given.own))
    ELSE metadata END
