-- Hand a statement and its items to change_each, which can take no parameters.
-- Parameters: change (text: a statement with $1, which returns row_id and is_written), items (text: a JSON array of
-- texts, the values of $1). Returns: one row, the settings.
SELECT
    pg_catalog.set_config('claude_sessions.change', %(change)s::text, true),
    pg_catalog.set_config('claude_sessions.items', %(items)s::text, true);
