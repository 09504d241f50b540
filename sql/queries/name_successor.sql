-- Write the new holder of an item, and its fence, into the tombstones of earlier losers. Metadata of other programs may
-- have no room for them.
-- Parameters: session_ids (text[]), by (text: the new holder, whose row has its claim), now. Returns: nothing.
UPDATE public.claude_sessions AS loser SET
    metadata = pg_catalog.jsonb_set(
        loser.metadata, '{claude_sessions_cli,tombstone}'::text[],
        (loser.metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text)
        || pg_catalog.jsonb_build_object('by', %(by)s::text, 'new_fence', successor.fence)
    ),
    updated_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
FROM (
    SELECT (EXTRACT(EPOCH FROM claimed_at) * 1000000::numeric)::bigint AS fence
    FROM public.claude_sessions
    WHERE session_id = %(by)s::text
) AS successor
WHERE loser.session_id = ANY(%(session_ids)s::text[])
    AND pg_catalog.jsonb_typeof(loser.metadata -> 'claude_sessions_cli'::text -> 'tombstone'::text) = 'object'::text;
