-- The metadata with the tool's own part merged into it; a null in `own` removes that key. What is no object stays.
-- Part of other queries. Parameters: own (jsonb).
    CASE WHEN jsonb_typeof(coalesce(metadata, '{}')) = 'object' THEN
        coalesce(metadata, '{}') || jsonb_build_object('claude_sessions_cli', jsonb_strip_nulls(
            CASE WHEN jsonb_typeof(metadata -> 'claude_sessions_cli') = 'object'
                THEN metadata -> 'claude_sessions_cli' ELSE '{}' END || %(own)s::jsonb))
    ELSE metadata END
