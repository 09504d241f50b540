-- List the other live sessions of a process, which goes from one session id to the next. A command that had no terminal
-- registered without one.
-- Parameters: session_id, tty (text or NULL), pid (integer), now. Returns: sessions.
SELECT {session_columns}
FROM public.claude_sessions
WHERE pid = %(pid)s::integer
    AND (tty = %(tty)s::text OR tty IS NULL)
    AND session_id <> %(session_id)s::text
    AND status IS DISTINCT FROM 'released';
