-- Whether a session has been released, and unchanged, for longer than a time. A heartbeat in the future came from a wrong
-- clock, and no reap sets it to now any more. The time of the statement can be compared with an index.
-- Part of other queries. Parameters: older_than_s (float8: seconds), now.
    status = 'released'
        AND (
            updated_at IS NULL
            OR updated_at < coalesce(%(now)s::timestamptz, pg_catalog.statement_timestamp())
            - pg_catalog.make_interval(secs => %(older_than_s)s::float8)
        )
        AND coalesce(
            greatest(
                CASE
                    WHEN heartbeat_at <= coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) THEN heartbeat_at
                END,
                updated_at,
                created_at
            ),
            '-infinity'::timestamptz
        )
            < coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
            - pg_catalog.make_interval(secs => %(older_than_s)s::float8)
