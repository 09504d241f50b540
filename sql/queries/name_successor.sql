-- Write who has the item now into the tombstones of those who lost it to silence.
-- Parameters: session_ids (text[]), by (text). Returns: nothing.
UPDATE public.claude_sessions SET
    metadata = jsonb_set(metadata, '{claude_sessions_cli,tombstone,by}', to_jsonb(%(by)s::text)),
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE session_id = ANY(%(session_ids)s);
