-- The filters of both lists: sessions that fit each of them.
-- Part of other queries. Parameters: each NULL for any: sd_ids (in each form), tracks (text[]), hostname, boot_id (decides
-- before the hostname, which changes with the network), codebase, session_id (text).
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
