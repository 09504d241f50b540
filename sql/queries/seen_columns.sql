-- The columns that each proof of life writes: the time, and what the command sees of the session. A command that cannot
-- see the session's process (pid is NULL) keeps the recorded one.
-- Part of other queries. Parameters: tty, pid, hostname, codebase, own (jsonb), now.
    heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()),
    tty = coalesce(%(tty)s::text, tty),
    pid = coalesce(%(pid)s::integer, pid),
    hostname = coalesce(
        CASE WHEN %(pid)s::integer IS NOT NULL THEN %(hostname)s::text END, hostname, %(hostname)s::text
    ),
    codebase = coalesce(%(codebase)s::text, codebase),
    metadata = {merged_metadata},
    updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
