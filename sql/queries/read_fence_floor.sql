-- Read when the latest term of a work item began, also of terms whose rows are gone. Where another program wrote a time
-- without measure, such as infinity, no term can be later: that one does not count.
-- Parameters: sd_id (text). Returns: claimed_at.
SELECT max(claimed_at) AS claimed_at
FROM public.claude_session_events
WHERE sd_id = %(sd_id)s AND claimed_at < '9999-01-01 00:00Z';
