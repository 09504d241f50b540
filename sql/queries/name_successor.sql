-- Write the new holder of an item, and its fence, into the tombstones of earlier losers. Metadata of other programs may
-- have no room for them.
-- Parameters: session_ids (text[]), by (text), fence (bigint), now. Returns: nothing.
UPDATE public.claude_sessions SET
    metadata = jsonb_set(
        metadata, '{claude_sessions_cli,tombstone}',
        metadata -> 'claude_sessions_cli' -> 'tombstone'
        || jsonb_build_object('by', %(by)s::text, 'new_fence', %(fence)s::bigint)
    ),
    updated_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE session_id = ANY(%(session_ids)s)
    AND jsonb_typeof(metadata -> 'claude_sessions_cli' -> 'tombstone') = 'object';
