-- Give a work item to a session, whose row is locked and holds nothing, under a fence above that of every earlier term.
-- Parameters: session_id, sd_id, track, tty, pid, hostname, codebase, own (jsonb), floor (timestamptz or NULL: the
-- latest earlier term), now. Returns: the session.
UPDATE public.claude_sessions SET
    sd_id = %(sd_id)s,
    track = %(track)s,
    claimed_at = greatest(
        coalesce(%(now)s::timestamptz, clock_timestamp()), %(floor)s::timestamptz + interval '1 microsecond'
    ),
    status = 'active',
{seen_columns}
FROM (SELECT %(own)s::jsonb AS own) AS given
WHERE session_id = %(session_id)s
RETURNING {session_columns};
