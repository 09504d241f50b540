-- Refresh a claim that the session holds already: same term, same fence.
-- Parameters: session_id, sd_id, track (NULL keeps it), tty, pid, hostname, codebase, own (jsonb), now.
-- Returns: the session, or nothing if it does not hold the item.
UPDATE public.claude_sessions SET
    track = coalesce(%(track)s, track),
    status = 'active',
{seen_columns}
WHERE session_id = %(session_id)s AND sd_id = %(sd_id)s
RETURNING {session_columns};
