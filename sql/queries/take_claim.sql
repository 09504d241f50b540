-- Give a work item to a session, whose row is locked and holds nothing, under a fence above that of every earlier term:
-- those of its rows (floor) and, if read_fence_floor ran before, those of the history.
-- Parameters: session_id, sd_id, track, tty, pid, hostname, codebase, own (jsonb), floor (timestamptz or NULL: the
-- latest earlier term), now. Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        sd_id = %(sd_id)s::text,
        track = %(track)s::text,
        claimed_at = greatest(
            coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()),
            %(floor)s::timestamptz + '1 microsecond'::interval,
            nullif(pg_catalog.current_setting('claude_sessions.fence_floor', true), ''::text)::timestamptz
            + '1 microsecond'::interval
        ),
        status = 'active',
{seen_columns}
    FROM (SELECT %(own)s::jsonb AS own) AS given
    WHERE session_id = %(session_id)s::text AND sd_id IS NULL
    RETURNING {session_columns}
)
{written_row};
