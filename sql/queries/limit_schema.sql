-- Bound the waits of a transaction that changes the schema, and fix the search path: the catalog qualifies names
-- according to it, and databases differ.
-- Parameters: none. Returns: one row, the settings.
SELECT
    pg_catalog.set_config('statement_timeout', '5min', true),
    pg_catalog.set_config('lock_timeout', '30s', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '1min', true),
    pg_catalog.set_config('search_path', 'pg_catalog', true);
