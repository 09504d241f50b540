-- Open a transaction in one round trip, record its actor, and return what row security and privileges allow this role.
-- Parameters: timeout_ms (integer), actor (text: a session id or empty), actor_host (text).
-- Returns: role, may_read, may_write, may_delete, has_history (whether this role may read it; NULL if it is missing).
-- READ COMMITTED whatever the database's default is: each statement after a lock must see what the lock protected.
-- The client reads times in one format only.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = %(timeout_ms)s;
SET LOCAL lock_timeout = %(timeout_ms)s;
SET LOCAL idle_in_transaction_session_timeout = %(timeout_ms)s;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SET LOCAL claude_sessions.actor = %(actor)s;
SET LOCAL claude_sessions.actor_host = %(actor_host)s;
WITH policies AS (
    SELECT
        polcmd, polpermissive,
        coalesce(pg_get_expr(polqual, polrelid), 'true') = 'true' AS shows_all,
        coalesce(pg_get_expr(polwithcheck, polrelid), 'true') = 'true' AS takes_all
    FROM pg_catalog.pg_policy
    WHERE polrelid = 'public.claude_sessions'::regclass
        AND (polroles = '{0}' OR EXISTS (SELECT FROM unnest(polroles) AS r WHERE pg_has_role(r, 'USAGE')))
),
open_commands AS (
    SELECT command
    FROM unnest(ARRAY['r', 'a', 'w', 'd']) AS command
    CROSS JOIN LATERAL (
        SELECT bool_or(polpermissive AND lets_all) AND NOT bool_or(NOT polpermissive AND NOT lets_all) AS is_open
        FROM (
            SELECT polpermissive, shows_all AND (takes_all OR command IN ('r', 'd')) AS lets_all
            FROM policies
            WHERE polcmd IN ('*', command::"char")
        ) AS applied
    ) AS verdict
    WHERE is_open
)
SELECT
    current_user AS role,
    NOT is_active OR EXISTS (SELECT FROM open_commands WHERE command = 'r') AS may_read,
    NOT is_active OR (SELECT count(*) FROM open_commands WHERE command <> 'd') = 3 AS may_write,
    NOT is_active OR EXISTS (SELECT FROM open_commands WHERE command = 'd') AS may_delete,
    has_table_privilege(to_regclass('public.claude_session_events'), 'SELECT') AS has_history
FROM (SELECT row_security_active('public.claude_sessions') AS is_active) AS row_security;
