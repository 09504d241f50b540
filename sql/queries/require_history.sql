-- Fail if the table has no history, or this role may not read it; statements after this one in its message are skipped.
-- Parameters: none. Returns: one row: has_history (true), reader (this role).
SELECT CASE
    WHEN pg_catalog.has_table_privilege(pg_catalog.to_regclass('public.claude_session_events'::text)::oid, 'SELECT'::text)
        THEN true
    ELSE pg_catalog.concat('claude_sessions: no history for ', current_user)::boolean
END AS has_history,
    current_user::text AS reader;
