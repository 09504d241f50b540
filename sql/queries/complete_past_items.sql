-- Find the work items of the latest events, for a shell's completion; reading all events would take too long.
-- Parameters: prefix (text), event_limit (integer), row_limit (integer). Returns: name.
SELECT DISTINCT sd_id AS name
FROM (SELECT sd_id FROM public.claude_session_events ORDER BY id DESC LIMIT %(event_limit)s) AS latest
WHERE starts_with(sd_id, %(prefix)s)
ORDER BY name
LIMIT %(row_limit)s;
