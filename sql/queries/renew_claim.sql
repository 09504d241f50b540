-- Refresh a claim that the session holds: same term, same fence.
-- Parameters: session_id, track (NULL keeps it), tty, pid, hostname, codebase, own (jsonb), now.
-- Returns: the session.
UPDATE public.claude_sessions SET
    track = coalesce(%(track)s, track),
    status = 'active',
{seen_columns}
FROM (SELECT %(own)s::jsonb AS own) AS given
WHERE session_id = %(session_id)s
RETURNING {session_columns};
