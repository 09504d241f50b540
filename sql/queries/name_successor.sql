-- Write who has the item now, and under which fence, into the tombstones of those who lost it. What another program keeps in
-- metadata may have no room for one.
-- Parameters: session_ids (text[]), by (text), fence (bigint). Returns: nothing.
UPDATE public.claude_sessions SET
    metadata = jsonb_set(
        metadata, '{claude_sessions_cli,tombstone}',
        metadata -> 'claude_sessions_cli' -> 'tombstone'
        || jsonb_build_object('by', %(by)s::text, 'new_fence', %(fence)s::bigint)
    ),
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE session_id = ANY(%(session_ids)s)
    AND jsonb_typeof(metadata -> 'claude_sessions_cli' -> 'tombstone') = 'object';
