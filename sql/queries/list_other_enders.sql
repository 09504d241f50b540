-- List the programs that ended claims without this tool: they go by limits of their own.
-- Parameters: days (integer), now. Returns: program, role, claims, last_at.
SELECT actor_program AS program, actor_role AS role, pg_catalog.count(*) AS claims, pg_catalog.max(at) AS last_at
FROM public.claude_session_events
WHERE event = 'unclaimed' AND actor_session IS NULL AND actor_host IS NULL
    AND at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
        - pg_catalog.make_interval(days => %(days)s::integer)
GROUP BY actor_program, actor_role
ORDER BY last_at DESC;
