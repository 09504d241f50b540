-- List the terms that lasted into a period, of all work items or of one name.
-- Parameters: seconds (float: the length of the period), name (text: a session id) and forms (text[]: of a work item),
-- both NULL for all; row_limit (bigint), now.
-- Returns: terms, by item and time; a current one has no ended_at.
SELECT *
FROM (
    SELECT sd_id, session_id, hostname, claimed_at AS began_at, at AS ended_at, reason, actor_session AS ended_by
    FROM public.claude_session_events
    WHERE event = 'unclaimed' AND sd_id IS NOT NULL
        -- The time of the statement, unlike clock_timestamp(), can be compared with an index.
        AND at >= coalesce(%(now)s::timestamptz, pg_catalog.statement_timestamp())
            - pg_catalog.make_interval(secs => %(seconds)s::double precision)
    UNION ALL
    SELECT sd_id, session_id, hostname, claimed_at, NULL, NULL, NULL
    FROM public.claude_sessions
    WHERE sd_id IS NOT NULL AND {live}
) AS term
WHERE %(name)s::text IS NULL OR sd_id = ANY(%(forms)s::text[]) OR session_id = %(name)s::text
ORDER BY sd_id, began_at NULLS FIRST, session_id
LIMIT %(row_limit)s::bigint;
