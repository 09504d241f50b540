-- Fill the columns for the terminal of a session that was registered without them. What is in them stays.
-- Parameters: session_id, terminal_id, machine_id (text), now. Returns: session_id, if there was anything to fill.
UPDATE public.claude_sessions SET
    terminal_id = coalesce(terminal_id, %(terminal_id)s::text),
    machine_id = coalesce(machine_id, %(machine_id)s::text),
    updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
WHERE session_id = %(session_id)s::text AND (terminal_id IS NULL OR machine_id IS NULL)
RETURNING session_id;
