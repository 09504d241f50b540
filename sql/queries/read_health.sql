-- Describe the server and the table for a diagnosis.
-- Parameters: now.
-- Returns: one row, the columns of doctor.Health. The numbers of rows and updates are those of the statistics, NULL
-- without a table; the snapshot is the oldest of another transaction that this role may see.
SELECT
    pg_catalog.current_setting('server_version'::text) AS server_version,
    pg_catalog.pg_backend_pid() AS backend_pid,
    pg_catalog.pg_is_in_recovery() AS in_recovery,
    (SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()) AS tls,
    current_user::text AS role,
    pg_catalog.has_any_column_privilege(relid, 'SELECT'::text) AS may_read,
    pg_catalog.has_any_column_privilege(relid, 'INSERT'::text)
    AND pg_catalog.has_any_column_privilege(relid, 'UPDATE'::text) AS may_write,
    pg_catalog.current_setting('synchronous_commit'::text) AS synchronous_commit,
    coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS server_now,
    n_tup_upd AS updates,
    n_tup_hot_upd AS hot_updates,
    n_live_tup AS live_rows,
    n_dead_tup AS dead_rows,
    greatest(last_vacuum, last_autovacuum) AS vacuumed_at,
    snapshot.pid AS snapshot_pid,
    snapshot.usename::text AS snapshot_role,
    EXTRACT(EPOCH FROM coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) - snapshot.xact_start)::double precision
        AS snapshot_age_s
FROM (SELECT 1) AS one
LEFT JOIN pg_catalog.pg_stat_all_tables ON relid = pg_catalog.to_regclass('public.claude_sessions'::text)::oid
LEFT JOIN LATERAL (
    SELECT pid, usename, xact_start
    FROM pg_catalog.pg_stat_activity
    WHERE backend_xmin IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() AND xact_start IS NOT NULL
    ORDER BY xact_start
    LIMIT 1
) AS snapshot ON true;
