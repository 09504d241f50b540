-- Release the sessions that reap has judged, or mark them stale, by compare-and-swap on the row's version: it covers
-- the heartbeat and every other fact of the verdict. Skips locked rows, which the next reap judges. In the order of id;
-- see renew_heartbeats.
-- Parameters: verdicts (jsonb: objects of id, row_version, status (the new one), own), now. Returns: row_id and
-- is_written of each row that was as judged (false if a trigger dropped the change), and the session.
WITH judged AS (
    SELECT session.id AS judged_id, verdict.status AS new_status, verdict.own
    FROM pg_catalog.jsonb_to_recordset(%(verdicts)s::jsonb)
        AS verdict (id uuid, row_version text, status text, own jsonb)
    INNER JOIN public.claude_sessions AS session ON session.id = verdict.id AND session.xmin::text = verdict.row_version
    ORDER BY session.id
    FOR UPDATE OF session SKIP LOCKED
),
written AS (
    UPDATE public.claude_sessions SET
        sd_id = NULL,
        track = NULL,
        claimed_at = NULL,
        heartbeat_at = CASE
            WHEN heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
                THEN coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
            ELSE heartbeat_at
        END,
        status = given.new_status,
        metadata = {merged_metadata},
        updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
    FROM judged AS given
    WHERE id = given.judged_id
    RETURNING {session_columns}
)
SELECT judged.judged_id AS row_id, written.id IS NOT NULL AS is_written, written.*
FROM judged
-- Each written row was found before. Postgres expects few rows, so a LEFT JOIN would compare each with each.
FULL JOIN written ON written.id = judged.judged_id;
