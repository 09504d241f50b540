-- List the terms of a work item or a session, with their ends and who ended them.
-- Parameters: name (text: a session id), forms (text[]: those of the name of a work item), row_limit (bigint). Returns:
-- terms, the latest first; a current term has no ended_at.
SELECT
    term.sd_id, term.session_id, term.claimed_at, term.track, term.hostname, term.tty, term.pid, term.codebase,
    term.note AS purpose, term.at AS began_at, term.actor_role AS claimed_by_role, finish.at AS ended_at, finish.reason, finish.note,
    finish.actor_session AS ended_by, finish.actor_host AS ended_from, finish.actor_program, finish.actor_role
FROM public.claude_session_events AS term
LEFT JOIN LATERAL (
    SELECT *
    FROM public.claude_session_events AS later
    WHERE later.session_id = term.session_id
        AND later.id > term.id
        AND later.event = 'unclaimed'
        AND later.sd_id = term.sd_id
        AND later.claimed_at IS NOT DISTINCT FROM term.claimed_at
    ORDER BY later.id
    LIMIT 1
) AS finish ON true
WHERE term.event = 'claimed' AND (term.sd_id = ANY(%(forms)s::text[]) OR term.session_id = %(name)s::text)
ORDER BY term.id DESC
LIMIT %(row_limit)s::bigint;
