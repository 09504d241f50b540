-- Open the transaction of one DDL file; two that apply at once take turns.
-- Parameters: none. Returns: one row, void.
-- The catalog qualifies names according to the search path, which differs between databases.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = '5min';
SET LOCAL lock_timeout = '30s';
SET LOCAL idle_in_transaction_session_timeout = '1min';
SET LOCAL search_path = pg_catalog;
SELECT pg_advisory_xact_lock(hashtext('claude_sessions schema'));
