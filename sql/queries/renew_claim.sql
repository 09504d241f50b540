-- Refresh a claim that the session, whose row is locked, holds: same term, same fence, which its own metadata repeats.
-- Parameters: session_id, track (NULL keeps it), tty, pid, hostname, codebase, own (jsonb), now.
-- Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        track = coalesce(%(track)s::text, track),
        status = 'active',
{seen_columns}
    FROM (
        SELECT %(own)s::jsonb || pg_catalog.jsonb_build_object('term', pg_catalog.jsonb_build_object(
            'sd_id', held.sd_id, 'fence', (EXTRACT(EPOCH FROM held.claimed_at) * 1000000::numeric)::bigint
        )) AS own
        FROM public.claude_sessions AS held
        WHERE held.session_id = %(session_id)s::text
    ) AS given
    WHERE session_id = %(session_id)s::text
    RETURNING {session_columns}
)
{written_row};
