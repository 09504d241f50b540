-- Prove life, and write heartbeat_at alone: with more columns the whole row between them would go to the WAL.
-- Parameters: session_id, pid and process (jsonb; NULL where the command cannot see the session's process), now.
-- Returns: the session; nothing if it has to be registered, revived, told of a loss, or shown in another process.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE session_id = %(session_id)s
    AND status IS DISTINCT FROM 'stale'
    AND status IS DISTINCT FROM 'released'
    AND metadata -> 'claude_sessions_cli' -> 'tombstone' IS NULL
    AND (%(process)s::jsonb IS NULL OR metadata -> 'claude_sessions_cli' -> 'process' = %(process)s::jsonb)
    AND (%(pid)s::integer IS NULL OR pid = %(pid)s)
RETURNING {session_columns};
