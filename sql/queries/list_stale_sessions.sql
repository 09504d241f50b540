-- List a page of the stale sessions that hold nothing and have not changed for longer than a time, in the order of their
-- change. The time of the statement is close enough, and unlike clock_timestamp() it can be compared with an index.
-- Parameters: stale_for_s (float8: seconds, NULL for any), after_at (timestamptz) and after_id (uuid: the last session of
-- the previous page, NULL at first), row_limit (bigint), now. Returns: sessions with row_version.
SELECT {session_columns}, xmin::text AS row_version
FROM public.claude_sessions
WHERE status = 'stale'
    AND sd_id IS NULL
    AND updated_at IS NOT NULL
    AND (
        %(stale_for_s)s::float8 IS NULL
        OR updated_at < coalesce(%(now)s::timestamptz, pg_catalog.statement_timestamp())
            - pg_catalog.make_interval(secs => %(stale_for_s)s::float8)
    )
    AND (%(after_id)s::uuid IS NULL OR (updated_at, id) > (%(after_at)s::timestamptz, %(after_id)s::uuid))
ORDER BY updated_at NULLS FIRST, id
LIMIT %(row_limit)s::bigint;
