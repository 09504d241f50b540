-- List the programs that ended claims of this tool without it: they go by limits of their own. A claim of their own is
-- theirs to end, and claude_sessions_reap_by_silence gives a reason.
-- Parameters: days (integer), now. Returns: program, role, claims, last_at.
SELECT actor_program AS program, actor_role AS role, pg_catalog.count(*) AS claims, pg_catalog.max(at) AS last_at
FROM public.claude_session_events AS ended
WHERE event = 'unclaimed' AND reason IN ('released', 'deleted') AND actor_host IS NULL
    AND EXISTS (
        SELECT FROM public.claude_session_events AS began
        WHERE began.event = 'claimed' AND began.actor_host IS NOT NULL
            AND began.session_id = ended.session_id AND began.claimed_at = ended.claimed_at
    )
    AND at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
        - pg_catalog.make_interval(days => %(days)s::integer)
GROUP BY actor_program, actor_role
ORDER BY last_at DESC;
