-- Read when the latest term of a work item began, also of terms whose rows are gone.
-- Parameters: sd_id (text). Returns: claimed_at.
SELECT max(claimed_at) AS claimed_at FROM public.claude_session_events WHERE sd_id = %(sd_id)s;
