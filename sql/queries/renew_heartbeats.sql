-- Prove life for many sessions whose process was seen alive: compare-and-set on that process, writing heartbeat_at
-- alone. Skips locked rows: each is being written, or will be renewed next time.
-- Parameters: ids (uuid[]), pids (integer[]) and starts (text[]), in the same order; boot_id, pid_ns (text); now.
-- Returns: nothing, but the number of rows.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
WHERE id = ANY(ARRAY(
    SELECT s.id
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::uuid[]),
        pg_catalog.unnest(%(pids)s::integer[]),
        pg_catalog.unnest(%(starts)s::text[])
    ) AS seen (id, pid, start)
    INNER JOIN public.claude_sessions AS s ON s.id = seen.id AND s.pid = seen.pid
    WHERE s.status IS DISTINCT FROM 'released'
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'start'::text = seen.start
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text = %(boot_id)s::text
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'pid_ns'::text = %(pid_ns)s::text
    FOR UPDATE OF s SKIP LOCKED
));
