-- Read the latest term of a work item, also where its row is gone. Where another program wrote a time without measure, such
-- as infinity, no term can be later: that one does not count.
-- Parameters: sd_id (text). Returns: claimed_at and session_id, or nothing.
SELECT claimed_at, session_id
FROM public.claude_session_events
WHERE sd_id = %(sd_id)s AND claimed_at < '9999-01-01 00:00Z'
ORDER BY claimed_at DESC
LIMIT 1;
