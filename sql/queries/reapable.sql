-- The ids of the sessions that live or hold an item. A stale one whose last change is unknown is not found by it.
-- Part of other queries. Parameters: none.
    SELECT id
    FROM public.claude_sessions
    WHERE {live}
    UNION ALL
    SELECT id
    FROM public.claude_sessions
    WHERE status = 'stale' AND sd_id IS NULL AND updated_at IS NULL
    -- A LIMIT outside would make Postgres read the whole table in the order of id.
    OFFSET 0
