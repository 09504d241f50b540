-- Set heartbeats that lie in the future to the present, from which on their silence counts; a batch of them, without waiting
-- for who has one locked. Such a time came from a clock that was wrong.
-- Parameters: row_limit (integer), now. Returns: nothing.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE id IN (
    SELECT id
    FROM public.claude_sessions
    WHERE heartbeat_at > coalesce(%(now)s::timestamptz, clock_timestamp())
    LIMIT %(row_limit)s::integer
    FOR UPDATE SKIP LOCKED
);
