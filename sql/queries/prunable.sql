-- Whether a session has been released, and unchanged, for longer than a time.
-- Part of other queries. Parameters: older_than_s (float8: seconds), now.
    status = 'released'
        AND greatest(heartbeat_at, updated_at, created_at)
            < coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
            - pg_catalog.make_interval(secs => %(older_than_s)s::float8)
