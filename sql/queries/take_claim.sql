-- Give a work item to a session, whose row is locked and holds nothing, under a fence above that of every earlier term:
-- those of its rows (floor) and, if read_fence_floor ran before, those of the history. The session's own metadata gets
-- the same term, from the same clock value. Fails if no such fence would be below the year 9999, where they end: by a
-- cast, which carries the text.
-- Parameters: session_id, sd_id (text: in NFC), track, tty, pid, hostname, codebase, own (jsonb), floor (timestamptz or
-- NULL: the latest earlier term), now. Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        sd_id = %(sd_id)s::text,
        track = %(track)s::text,
        claimed_at = given.began,
        status = 'active',
{seen_columns}
    FROM (
        SELECT
            CASE WHEN term.began < '9999-01-01 00:00Z'::timestamptz THEN term.began ELSE
                pg_catalog.concat('claude_sessions: no fence is left after ', term.began)::bigint::text::timestamptz
            END AS began,
            %(own)s::jsonb || pg_catalog.jsonb_build_object('term', pg_catalog.jsonb_build_object(
                'sd_id', %(sd_id)s::text, 'fence', (EXTRACT(EPOCH FROM term.began) * 1000000::numeric)::bigint
            )) AS own
        FROM (
            SELECT greatest(
                coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()),
                %(floor)s::timestamptz + '1 microsecond'::interval,
                nullif(pg_catalog.current_setting('claude_sessions.fence_floor', true), ''::text)::timestamptz
                + '1 microsecond'::interval
            ) AS began
            OFFSET 0
        ) AS term
    ) AS given
    WHERE session_id = %(session_id)s::text AND sd_id IS NULL
    RETURNING {session_columns}
)
{written_row};
