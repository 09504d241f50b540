-- Describe the table as a whole; no row if it is missing.
-- Parameters: now. Returns: database, row_security, generated_at.
SELECT
    pg_catalog.current_database()::text AS database,
    relrowsecurity AS row_security,
    coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS generated_at
FROM pg_catalog.pg_class
WHERE oid = pg_catalog.to_regclass('public.claude_sessions'::text)::oid;
