-- List a page of the sessions that reap judges at any time.
-- Parameters: after (uuid: the last id of the page before, NULL at first), row_limit (bigint), now. Returns: sessions
-- with row_version, in the order of id.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE id = ANY(ARRAY(
    SELECT id
    FROM ({reapable}) AS found
    WHERE %(after)s::uuid IS NULL OR id > %(after)s::uuid
    ORDER BY id
    LIMIT %(row_limit)s::bigint
))
ORDER BY id;
