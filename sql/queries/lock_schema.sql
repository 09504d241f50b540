-- Make transactions that change the schema take turns.
-- Parameters: none. Returns: one row, void.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('claude_sessions schema'));
