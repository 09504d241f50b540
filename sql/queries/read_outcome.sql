-- Read what change_each did.
-- Parameters: none. Returns: place (of the item, from 1), row_id, is_written, reason (the table's, of a refused item),
-- state (its SQLSTATE).
SELECT outcome.place, outcome.row_id, outcome.is_written, outcome.reason, outcome.state
FROM pg_catalog.jsonb_to_recordset(pg_catalog.current_setting('claude_sessions.outcomes')::jsonb)
    AS outcome (place bigint, row_id uuid, is_written boolean, reason text, state text);
