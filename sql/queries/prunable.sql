-- Whether a session has been released, and unchanged, for longer than a time.
-- Part of other queries. Parameters: older_than_s (numeric: seconds), now.
    status = 'released'
        AND greatest(heartbeat_at, updated_at, created_at)
            < coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(older_than_s)s)
