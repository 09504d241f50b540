-- Prove life for many sessions whose process was seen alive: compare-and-set on that process, writing heartbeat_at
-- alone. Skips locked rows: each is being written, or will be renewed next time. In the order of id: Postgres waits all
-- the same for a row of which a new version is written and locked while it looks.
-- Parameters: seen (jsonb: objects of id, pid, start); boot_id, pid_ns (text); now. Returns: row_id and is_written of
-- each row that still has its process (false if a trigger dropped the change).
WITH locked AS (
    SELECT s.id AS row_id
    FROM pg_catalog.jsonb_to_recordset(%(seen)s::jsonb) AS seen (id uuid, pid integer, start text)
    INNER JOIN public.claude_sessions AS s ON s.id = seen.id AND s.pid = seen.pid
    WHERE s.status IS DISTINCT FROM 'released'
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'start'::text = seen.start
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'boot_id'::text = %(boot_id)s::text
        AND s.metadata -> 'claude_sessions_cli'::text -> 'process'::text ->> 'pid_ns'::text = %(pid_ns)s::text
    ORDER BY s.id
    FOR UPDATE OF s SKIP LOCKED
),
{written_heartbeats};
