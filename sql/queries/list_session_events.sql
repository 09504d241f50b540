-- List the events of a session.
-- Parameters: name (text: a session id), row_limit (bigint). Returns: events, the latest first.
SELECT
    at, event, session_id, sd_id, claimed_at, track, hostname, tty, pid, codebase, reason, note,
    actor_session, actor_host, actor_program, actor_role
FROM public.claude_session_events
WHERE session_id = %(name)s::text
ORDER BY id DESC
LIMIT %(row_limit)s::bigint;
