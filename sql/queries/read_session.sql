-- Read one session.
-- Parameters: session_id (text), now. Returns: the session, or nothing.
SELECT {session_columns}
FROM public.claude_sessions
WHERE session_id = %(session_id)s::text;
