-- The values of a new session, idle and without a claim: those of session_id, tty, pid, hostname, codebase,
-- heartbeat_at, status, metadata, created_at and updated_at.
-- Part of other queries, which provide `clock.now`. Parameters: session_id, tty, pid, hostname, codebase, own (jsonb).
    %(session_id)s::text, %(tty)s::text, %(pid)s::integer, %(hostname)s::text, %(codebase)s::text, clock.now, 'idle',
    pg_catalog.jsonb_build_object('claude_sessions_cli', pg_catalog.jsonb_strip_nulls(%(own)s::jsonb)),
    clock.now, clock.now
