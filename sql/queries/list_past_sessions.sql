-- List the sessions that are over, the latest first.
-- Parameters: each NULL for any: sd_ids, tracks (text[]), hostname, boot_id (decides before the hostname), codebase,
-- session_id (text), row_limit (bigint); now.
-- Returns: sessions, and total without the limit.
SELECT {session_columns}, pg_catalog.count(*) OVER () AS total
FROM public.claude_sessions
WHERE status = 'released'
    AND (%(sd_ids)s::text[] IS NULL OR sd_id = ANY(%(sd_ids)s::text[]))
    AND (%(tracks)s::text[] IS NULL OR track = ANY(%(tracks)s::text[]))
    AND (
        %(hostname)s::text IS NULL
        OR coalesce(
            metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text = %(boot_id)s::text,
            hostname = %(hostname)s::text
        )
    )
    AND (%(codebase)s::text IS NULL OR codebase = %(codebase)s::text)
    AND (%(session_id)s::text IS NULL OR session_id = %(session_id)s::text)
ORDER BY updated_at DESC NULLS LAST, id
LIMIT %(row_limit)s::bigint;
